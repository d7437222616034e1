"""Builds click commands from options dataclasses (see `dnnlib.options`). Depends only on click and dnnlib."""
