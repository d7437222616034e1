"""Torch without diffusion: devices, ranks, flat parameters, statistics."""
