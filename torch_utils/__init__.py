"""What is about torch and not about diffusion: devices, ranks, flat parameters, statistics."""
