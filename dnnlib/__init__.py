"""What is about neither diffusion nor torch: see `dnnlib.util`."""
