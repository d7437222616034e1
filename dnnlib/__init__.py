"""Helpers that involve neither diffusion nor torch: see `dnnlib.util`."""

import os
import sys

if os.name == 'nt':
    sys.exit('This toolkit runs on Linux and macOS; on Windows, run it in WSL (Windows Subsystem for Linux).')
