"""General helpers that use neither torch nor diffusion code: options, files, locks, downloads, progress."""

import os
import sys

if os.name == 'nt':
    sys.exit('This toolkit runs on Linux and macOS; on Windows, run it in WSL (Windows Subsystem for Linux).')
