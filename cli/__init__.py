"""The command line: click options made from options dataclasses (`dnnlib.options`). Depends on click and dnnlib only."""
