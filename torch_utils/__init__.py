"""Torch helpers that involve no diffusion code: devices, ranks, flat parameters, statistics."""
