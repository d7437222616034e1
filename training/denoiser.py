"""The interface between denoisers and everything that calls them: samplers, measurements and evaluations.

`as_denoiser` turns any function or module into a denoiser. `replayed` makes a network faster on a GPU.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dnnlib.util import UserError
from torch_utils.cuda_graphs import Replay
from training.preconditioning import Preconditioned, check_noisy


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


def require_denoiser(net: object, argument: str) -> None:
    """Raise UserError if an object is not a `Denoiser`. argument: the argument that gave the object."""
    if not callable(net) or not all(hasattr(net, name) for name in ('img_channels', 'img_resolution')):
        raise UserError(
            f'`{argument}` must be a denoiser, not {type(net).__name__}; read a snapshot with '
            'training.snapshot.load_network, or convert a function or module with training.denoiser.as_denoiser'
        )


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
    sigma_min, sigma_max: range of noise levels for which the function is defined, 0 <= sigma_min < sigma_max.
    A module is called in evaluation mode, that is, without dropout; its training mode is restored after each call. This
    does not apply to modules that a function calls.
    Raises UserError for an empty range. The denoiser raises UserError if `check_noisy` refuses x or sigma, or if the
    function returns images of another shape.
    """
    if not 0 <= sigma_min < sigma_max <= math.inf:
        raise UserError(f'`sigma_min`={sigma_min} must be at least 0 and below `sigma_max`={sigma_max}')
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
        check_noisy(x, sigma, self.img_channels, self.img_resolution)
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).flatten().expand(len(x))
        if class_labels is not None and class_labels.ndim == 2:
            class_labels = class_labels.argmax(dim=1)
        with evaluation_mode(self.function):
            denoised = self.function(x.to(torch.float32), levels, *[class_labels] * bool(self.label_dim))
        if not isinstance(denoised, Tensor) or denoised.shape != x.shape:
            found = list(denoised.shape) if isinstance(denoised, Tensor) else type(denoised).__name__
            raise UserError(f'`function` must return denoised images of the shape of x, {list(x.shape)}, not {found}')
        return denoised

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        return torch.as_tensor(sigma)


@contextlib.contextmanager
def evaluation_mode(function: Callable[..., Tensor]) -> Iterator[None]:
    """Inside the block, a module and its parts are in evaluation mode; other functions stay unchanged."""
    modules = function.modules() if isinstance(function, torch.nn.Module) else ()
    trained = [module for module in modules if module.training]
    for module in trained:
        module.training = False
    try:
        yield
    finally:
        for module in trained:
            module.training = True


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
