"""The interface between denoisers and everything that calls them: samplers, measurements and evaluations.

`as_denoiser` turns any function or module into a denoiser. `replayed` makes a network faster on a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dnnlib.util import UserError
from torch_utils.cuda_graphs import Replay
from training.preconditioning import Preconditioned


class Denoiser(Protocol):
    """The interface that networks and closed forms offer to samplers and metrics."""

    img_channels: int
    img_resolution: int
    label_dim: int
    sigma_min: float
    sigma_max: float

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """Denoise x, which is data in [-1, 1] plus noise of standard deviation sigma.

        x: float [B, C, R, R]. sigma: a scalar or [B].
        """

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        """The nearest noise level that the denoiser supports."""


def as_denoiser(
    function: Callable[..., Tensor],
    img_channels: int,
    img_resolution: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80,
    label_dim: int = 0,
) -> Denoiser:
    """A denoiser that calls a function or a `torch.nn.Module`.

    function: maps (x, sigma) to denoised images, where x is float32 [B, C, R, R] and sigma is float32 [B]. If
    label_dim > 0, the function maps (x, sigma, class_labels), where class_labels are int64 indices [B] or None.
    sigma_min, sigma_max: range of noise levels for which the function is defined.
    The denoiser raises UserError if the function returns images of another shape.
    """
    return _FunctionDenoiser(function, img_channels, img_resolution, sigma_min, sigma_max, label_dim)


@dataclass
class _FunctionDenoiser:
    function: Callable[..., Tensor]
    img_channels: int
    img_resolution: int
    sigma_min: float
    sigma_max: float
    label_dim: int

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(len(x))
        if class_labels is not None and class_labels.ndim == 2:
            class_labels = class_labels.argmax(dim=1)
        denoised = self.function(x.to(torch.float32), levels, *[class_labels] * bool(self.label_dim))
        if not isinstance(denoised, Tensor) or denoised.shape != x.shape:
            found = list(denoised.shape) if isinstance(denoised, Tensor) else type(denoised).__name__
            raise UserError(f'`function` must return denoised images of the shape of x, {list(x.shape)}, not {found}')
        return denoised

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        return torch.as_tensor(sigma)


def replayed(net: Denoiser, device: torch.device | str) -> Denoiser:
    """The same denoiser; if it is a network on a GPU, its evaluations in inference mode are replayed (see `Replay`)."""
    on_gpu = torch.device(device).type == 'cuda'
    return _ReplayedDenoiser(net) if on_gpu and isinstance(net, Preconditioned) else net


class _ReplayedDenoiser:
    def __init__(self, net: Preconditioned):
        self.net, self.replay = net, Replay()
        self.img_channels, self.img_resolution, self.label_dim = net.img_channels, net.img_resolution, net.label_dim
        self.sigma_min, self.sigma_max = net.sigma_min, net.sigma_max

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        level = torch.as_tensor(sigma, dtype=torch.float32, device=x.device)
        if not torch.is_inference_mode_enabled():
            return self.net(x, level, class_labels)
        return self.replay(self._evaluate, x, level, class_labels)[0]

    def _evaluate(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> tuple[Tensor]:
        return (self.net(x, sigma, class_labels),)

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        return self.net.round_sigma(sigma)
