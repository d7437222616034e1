"""Network denoisers: a U-Net with VP, VE, iDDPM or EDM preconditioning.

Each is called as `net(x, sigma, class_labels=None, augment_labels=None)` and returns the denoised images in float32:
D(x; sigma) = c_skip x + c_out F(c_in x; c_noise), with the four coefficients of Karras et al. 2022, table 1.
Only the U-Net F may run at a lower precision, chosen by `set_precision`.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dnnlib.util import UserError
from training.networks import MODEL_TYPES

COMPUTE_DTYPES = {'fp32': torch.float32, 'tf32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


class Preconditioned(nn.Module):
    """Base class of the four wrappers, which differ in `coefficients`, `round_sigma` and the range of sigma.

    img_resolution, img_channels: images have the shape [B, img_channels, img_resolution, img_resolution].
    label_dim: number of classes, 0 for an unconditional network.
    class_sizes: number of training images in each class that has any (1 if their number is unknown), or None if the
        classes are unknown.
    use_fp16: run the U-Net in float16 (float32 on a CPU).
    model_type: 'SongUNet' or 'DhariwalUNet'. model_kwargs: further arguments of the U-Net.

    forward(x, sigma, class_labels, **model_kwargs): x is float [B, C, R, R]; sigma is a scalar or [B]; class_labels are
    one-hot float [B, label_dim], int64 indices [B] or None. Returns float32 in the shape of x. Raises UserError if
    `check_noisy` refuses x or sigma.
    """

    sigma_min: float
    sigma_max: float
    class_sizes: dict[int, int] | None = None
    outputs_per_channel = 1

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        model_type: str = 'SongUNet',
        **model_kwargs: Any,
    ):
        super().__init__()
        if model_type not in MODEL_TYPES:
            raise ValueError(f'model_type must be one of {", ".join(MODEL_TYPES)}, not {model_type!r}')
        limits = getattr(MODEL_TYPES[model_type], 'argument_limits', {})
        check_limits({'img_resolution': img_resolution, **model_kwargs}, {'img_resolution': 8192, **limits})
        self.img_resolution, self.img_channels, self.label_dim = img_resolution, img_channels, label_dim
        self.model = MODEL_TYPES[model_type](
            img_resolution=img_resolution,
            in_channels=img_channels,
            out_channels=img_channels * self.outputs_per_channel,
            label_dim=label_dim,
            **model_kwargs,
        )
        self.set_precision('fp16' if use_fp16 else 'fp32')

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def __repr__(self) -> str:
        shape = f'{self.img_channels}x{self.img_resolution}x{self.img_resolution}'
        return f'{type(self).__name__}({type(self.model).__name__}, {shape}, {self.num_parameters:,} parameters)'

    def set_precision(self, precision: str) -> None:
        """Choose the U-Net's arithmetic: 'fp32', 'tf32', 'bf16' or 'fp16'.

        With 'tf32', tensors stay float32; call `torch_utils.misc.configure_backends` to let GPUs round the inputs of
        matrix products.
        """
        self.precision, self.compute_dtype = precision, COMPUTE_DTYPES[precision]

    def forward(
        self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **model_kwargs: Any
    ) -> Tensor:
        check_noisy(x, sigma, self.img_channels, self.img_resolution)
        x = x.to(torch.float32)
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1, 1, 1, 1)
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma)
        labels = class_labels if self.label_dim else None
        dtype = self.compute_dtype
        if dtype == torch.float16 and x.device.type == 'cpu':
            dtype = torch.float32
        noise_labels = c_noise.flatten().expand(len(x))
        F_x = self.model((c_in * x).to(dtype), noise_labels, labels, **model_kwargs)
        return c_skip * x + c_out * F_x[:, : self.img_channels].to(torch.float32)

    def coefficients(self, sigma: Tensor) -> tuple[Tensor | float, Tensor, Tensor | float, Tensor]:
        """c_skip, c_out, c_in and c_noise at sigma; sigma is float32 [B, 1, 1, 1] or [1, 1, 1, 1]."""
        raise NotImplementedError

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        """The nearest noise level that the network was trained at, in the shape and dtype of sigma."""
        return torch.as_tensor(sigma)


def check_noisy(x: object, sigma: Tensor | float, channels: int, resolution: int) -> None:
    """Raise UserError if x is not a tensor [B, channels, resolution, resolution], or sigma has not 1 or B values."""
    shape = (channels, resolution, resolution)
    if not isinstance(x, Tensor) or tuple(x.shape[1:]) != shape:
        found = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise UserError(f'x must be a tensor [B, {", ".join(map(str, shape))}], not {found}')
    count = torch.as_tensor(sigma).numel()
    if count not in (1, len(x)):
        raise UserError(f'sigma has {count} values for {len(x)} images; give one value, or one per image')


def check_limits(arguments: Mapping[str, Any], limits: Mapping[str, int]) -> None:
    """Raise ValueError if a number, or the length of a list, exceeds its limit; see `training.networks`."""
    for name in arguments.keys() & limits.keys():
        value, limit = arguments[name], limits[name]
        size = len(value) if isinstance(value, list | tuple) else value
        if type(size) is not int or not 0 <= size <= limit:
            unit = ' values' if isinstance(value, list | tuple) else ''
            raise ValueError(f'{name} must be at most {limit}{unit}')


class VPPrecond(Preconditioned):
    """Variance preserving: beta(t) = beta_d t + beta_min for times t in [epsilon_t, 1], discretized in M steps.

    Source: Song et al. 2021.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        M: int = 1000,
        epsilon_t: float = 1e-5,
        model_type: str = 'SongUNet',
        **model_kwargs: Any,
    ):
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type, **model_kwargs)
        self.beta_d, self.beta_min, self.M = beta_d, beta_min, M
        self.sigma_min = float(vp_sigma(torch.tensor(epsilon_t, device='cpu'), beta_d, beta_min))
        self.sigma_max = float(vp_sigma(torch.tensor(1.0, device='cpu'), beta_d, beta_min))

    def coefficients(self, sigma: Tensor) -> tuple[float, Tensor, Tensor, Tensor]:
        c_noise = (self.M - 1) * vp_time(sigma, self.beta_d, self.beta_min)
        return 1.0, -sigma, 1 / (sigma**2 + 1).sqrt(), c_noise


def vp_sigma(t: Tensor, beta_d: float, beta_min: float) -> Tensor:
    """The variance-preserving process's noise level at time t: sqrt(exp(beta_d t² / 2 + beta_min t) - 1)."""
    return ((0.5 * beta_d * t**2 + beta_min * t).exp() - 1).sqrt()


def vp_time(sigma: Tensor, beta_d: float, beta_min: float) -> Tensor:
    """Inverse of `vp_sigma`."""
    return ((beta_min**2 + 2 * beta_d * (1 + sigma**2).log()).sqrt() - beta_min) / beta_d


class VEPrecond(Preconditioned):
    """Variance exploding. Source: Song et al. 2021."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0.02,
        sigma_max: float = 100,
        model_type: str = 'SongUNet',
        **model_kwargs: Any,
    ):
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type, **model_kwargs)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def coefficients(self, sigma: Tensor) -> tuple[float, Tensor, float, Tensor]:
        return 1.0, sigma, 1.0, (0.5 * sigma).log()


class iDDPMPrecond(Preconditioned):
    """Improved DDPM: M discrete noise levels u from a cosine schedule.

    Source: Nichol and Dhariwal 2021 (arXiv 2102.09672).
    """

    u: Tensor
    outputs_per_channel = 2  # the second half of the output is a variance, which denoising does not use

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        C_1: float = 0.001,
        C_2: float = 0.008,
        M: int = 1000,
        model_type: str = 'DhariwalUNet',
        **model_kwargs: Any,
    ):
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type, **model_kwargs)
        check_limits({'M': M}, {'M': 100_000})
        self.M = M
        u = iddpm_sigmas(C_1, C_2, M, dtype=np.float32)  # as in EDM's code
        self.register_buffer('u', torch.tensor(u))
        self.sigma_min, self.sigma_max = float(u[M - 1]), float(u[0])

    def coefficients(self, sigma: Tensor) -> tuple[float, Tensor, Tensor, Tensor]:
        c_noise = self.M - 1 - self.nearest_level(sigma).to(torch.float32)
        return 1.0, -sigma, 1 / (sigma**2 + 1).sqrt(), c_noise

    def nearest_level(self, sigma: Tensor) -> Tensor:
        return (sigma.to(torch.float32)[..., None] - self.u).abs().argmin(dim=-1)

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        sigma = torch.as_tensor(sigma)
        return self.u[self.nearest_level(sigma.to(self.u))].to(sigma.device).to(sigma.dtype)


def iddpm_sigmas(C_1: float, C_2: float, M: int, dtype: type[np.floating] = np.float64) -> np.ndarray:
    """The noise levels u_0 > … > u_M = 0 of iDDPM's cosine schedule, [M + 1], computed in `dtype`."""
    j = np.arange(M + 1).astype(dtype)
    alpha_bar = np.sin(j * dtype(0.5 * math.pi) / M / dtype(C_2 + 1)) ** 2
    ratios = np.maximum(alpha_bar[:-1] / alpha_bar[1:], dtype(C_1))
    u = np.zeros(M + 1, dtype)
    for index in range(M, 0, -1):
        u[index - 1] = np.sqrt((u[index] ** 2 + 1) / ratios[index - 1] - 1)
    return u


class EDMPrecond(Preconditioned):
    """The preconditioning of Karras et al. 2022. sigma_data: standard deviation of the training pixels."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0,
        sigma_max: float = math.inf,
        sigma_data: float = 0.5,
        model_type: str = 'DhariwalUNet',
        **model_kwargs: Any,
    ):
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type, **model_kwargs)
        self.sigma_min, self.sigma_max, self.sigma_data = sigma_min, sigma_max, sigma_data

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        variance = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data / variance.sqrt()
        return c_skip, c_out, 1 / variance.sqrt(), sigma.log() / 4
