"""All that touches a denoiser: networks, losses, the training loop, snapshots, samplers and the optimal denoiser."""
