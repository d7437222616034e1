"""The contract between denoisers and everything that calls them: samplers, measurements, evaluations."""

from typing import Protocol

from torch import Tensor


class Denoiser(Protocol):
    """What samplers and metrics see of a network or of the optimal denoiser."""

    img_channels: int
    img_resolution: int
    label_dim: int
    sigma_min: float
    sigma_max: float

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """Denoise x, float [B, C, R, R] in noise units around data in [-1, 1]; sigma a scalar or [B]."""

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        """The nearest noise level that the denoiser supports."""
