"""Everything about denoisers: networks, losses, the training loop, snapshots, samplers and closed forms."""
