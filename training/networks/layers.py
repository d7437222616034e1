"""Network layers. Parameters are float32; each layer computes in the dtype of its input."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.util import UserError


@dataclass(frozen=True)
class Init:
    """How to initialize a layer: a named distribution, scaled by `weight` for weights and by `bias` for biases."""

    rule: str
    weight: float = 1.0
    bias: float = 0.0

    def scaled(self, weight: float) -> 'Init':
        """The same distribution, with weights scaled by `weight` and biases of 0."""
        return Init(self.rule, weight, 0.0)

    def sample(self, shape: Sequence[int], fan_in: int, fan_out: int, factor: float) -> Tensor:
        """Draw float32 values of this shape from torch's global generator, and multiply them by `factor`.

        Source: Karras et al. 2022, appendix F.
        """
        if without_values():
            return torch.empty(shape)
        if self.rule == 'xavier_uniform':
            return math.sqrt(6 / (fan_in + fan_out)) * (torch.rand(*shape) * 2 - 1) * factor
        if self.rule == 'kaiming_uniform':
            return math.sqrt(3 / fan_in) * (torch.rand(*shape) * 2 - 1) * factor
        if self.rule == 'kaiming_normal':
            return math.sqrt(1 / fan_in) * torch.randn(*shape) * factor
        raise ValueError(f'unknown initialization {self.rule!r}')


def without_values() -> bool:
    """Whether new tensors have no values, because they are made on the device 'meta'.

    Layers do no arithmetic there: it would import torch's compiler, which takes as long as importing torch.
    """
    return torch.get_default_device().type == 'meta'


class Linear(nn.Module):
    """Fully connected layer: [B, in_features] -> [B, out_features]."""

    def __init__(self, in_features: int, out_features: int, init: Init, bias: bool = True):
        super().__init__()
        self.in_features = in_features
        fans = in_features, out_features
        self.weight = nn.Parameter(init.sample([out_features, in_features], *fans, init.weight))
        self.bias = nn.Parameter(init.sample([out_features], *fans, init.bias)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)

    def columns(self, index: Tensor, scale: float) -> Tensor:
        """Like `self(one_hot(index) * scale)`, but as cheap as indexing: int64 [B] -> [B, out_features]."""
        x = self.weight[:, index].t() * scale
        return x if self.bias is None else x + self.bias


class Conv2d(nn.Module):
    """Convolution that keeps the image size, or halves (`down`) or doubles (`up`) it with a separable low-pass filter.

    kernel: kernel size in pixels, odd; 0 only resamples, without a convolution.
    resample_filter: taps of the low-pass filter along one axis; the filter is normalized.
    fused: with `down`, convolve before resampling and pad once for both, as in NCSN++'s residual path.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        init: Init,
        up: bool = False,
        down: bool = False,
        resample_filter: Sequence[float] = (1, 1),
        fused: bool = False,
    ):
        super().__init__()
        self.kernel, self.up, self.down, self.fused = kernel, up, down, fused
        if kernel:
            fans = in_channels * kernel**2, out_channels * kernel**2
            self.weight = nn.Parameter(init.sample([out_channels, in_channels, kernel, kernel], *fans, init.weight))
            self.bias = nn.Parameter(init.sample([out_channels], *fans, init.bias))
        self.is_box = list(resample_filter) == [1, 1]
        self.filter_padding = (len(resample_filter) - 1) // 2
        if up or down:
            taps = np.array(resample_filter, np.float32)
            self.register_buffer('resample_filter', torch.tensor(np.outer(taps, taps) / taps.sum() ** 2)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        if self.fused and self.down:
            return self.downsample(self.convolve(x, self.kernel // 2 + self.filter_padding), padding=0)
        if self.up:
            x = self.upsample(x)
        if self.down:
            x = self.downsample(x, self.filter_padding)
        return self.convolve(x, self.kernel // 2) if self.kernel else x

    def convolve(self, x: Tensor, padding: int) -> Tensor:
        return F.conv2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), padding=padding)

    def upsample(self, x: Tensor) -> Tensor:
        if self.is_box:
            return F.interpolate(x, scale_factor=2.0, mode='nearest')
        taps = (self.resample_filter * 4).to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return F.conv_transpose2d(x, taps, groups=x.shape[1], stride=2, padding=self.filter_padding)

    def downsample(self, x: Tensor, padding: int) -> Tensor:
        if self.is_box:
            return F.avg_pool2d(x, 2)
        taps = self.resample_filter.to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return F.conv2d(x, taps, groups=x.shape[1], stride=2, padding=padding)


class GroupNorm(nn.Module):
    """Group normalization with at most 32 groups of at least 4 channels."""

    def __init__(self, num_channels: int, eps: float):
        super().__init__()
        self.num_groups = min(32, num_channels // 4)
        if not self.num_groups or num_channels % self.num_groups:
            raise UserError(
                f'`num_channels`: with this width, a layer has {num_channels} channels, which cannot be normalized in '
                f'equal groups (widths such as 16, 32, 64, 96 and 128 are possible)'
            )
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.normalize(x).to(x.dtype)

    def with_silu(self, x: Tensor) -> Tensor:
        """Normalize, then apply SiLU."""
        return F.silu(self.normalize(x)).to(x.dtype)

    def normalize(self, x: Tensor) -> Tensor:
        """Normalize; on a CPU in float32, because the bfloat16 kernel for channels_last is far slower there."""
        if x.device.type == 'cpu':
            x = x.float()
        return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class PositionalEmbedding(nn.Module):
    """Cosines, then sines, of the noise level at geometrically spaced frequencies: [B] -> [B, num_channels].

    endpoint: whether the lowest frequency is exactly 1 / max_positions.
    """

    def __init__(self, num_channels: int, max_positions: float = 10000, endpoint: bool = False):
        super().__init__()
        self.num_channels, self.max_positions, self.endpoint = num_channels, max_positions, endpoint
        if num_channels % 2:
            raise UserError(f'`num_channels`={num_channels} must be even, because half of the embedding is cosines')

    def forward(self, x: Tensor) -> Tensor:
        half = self.num_channels // 2
        exponents = torch.arange(half, dtype=torch.float32, device=x.device) / (half - int(self.endpoint))
        angles = x.ger((1 / self.max_positions) ** exponents)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """Cosines, then sines, of the noise level at random frequencies: [B] -> [B, num_channels]."""

    freqs: Tensor

    def __init__(self, num_channels: int, scale: float = 16):
        super().__init__()
        shape = [num_channels // 2]
        self.register_buffer('freqs', torch.empty(shape) if without_values() else torch.randn(shape) * scale)

    def forward(self, x: Tensor) -> Tensor:
        angles = x.ger(2 * math.pi * self.freqs)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


def embed_labels(layer: Linear, class_labels: Tensor | None, scale: float = 1.0) -> Tensor:
    """Apply `layer` to one-hot labels multiplied by `scale`: [B, out_features], or [1, out_features] without labels.

    class_labels: one-hot float [B, label_dim]; or class indices, int64 [B], which give the same result and are cheap
        even for many classes; or None, which is equivalent to an all-zero row.
    """
    if class_labels is None:
        return layer(layer.weight.new_zeros([1, layer.in_features]))
    if class_labels.is_floating_point():
        return layer(class_labels.to(torch.float32) * scale)
    return layer.columns(class_labels, scale)
