"""How denoisers perform at a noise level: errors, distances between denoisers, linearity, and confidence intervals.

All measurements use noisy images z = x + sigma · e in EDM's units: x is in [-1, 1], and squared errors are summed over
an image's pixels and channels. An image's noise e depends only on the seed and the image's position. All denoisers
therefore see the same z for any batch size, device and number of ranks, and differences between denoisers are paired.

Sources: Kadkhodaie et al. 2024 (denoising error as PSNR), Niedoba et al. 2025 (distance to the optimal denoiser), Wang
and Vastola 2024 (distance to the Gaussian denoiser), Bonnaire et al. 2025 (gap between held-out and training error),
Li, Dai and Qu 2024 (linearity).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import UserError
from evaluation.intervals import t_quantile, wilson_interval
from torch_utils.misc import derived_seed, widest_float
from training.dataset import checked_labels, pixels_of, require_shape
from training.denoiser import Denoiser, require_denoiser

BATCH_SIZE = 64
DATA_RANGE = 2  # pixel values span [-1, 1]


@dataclass(frozen=True)
class Estimate:
    """An estimate over images, such as a mean, with its 95 % interval."""

    mean: float
    low: float
    high: float


def denoising_error(
    denoiser: Denoiser, images: Tensor | np.ndarray, sigma: float, seed: int = 0, labels: Tensor | None = None
) -> Tensor:
    """The squared error ||D(x + sigma e) - x||² of each image in [-1, 1] units, float64 [N]; see `denoised`."""
    return squared_distance(denoised(denoiser, images, sigma, seed, labels), to_float64(torch.as_tensor(images)))


def denoised(
    denoiser: Denoiser,
    images: Tensor | np.ndarray,
    sigma: float,
    seed: int = 0,
    labels: Tensor | None = None,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """D(x + sigma e) for each image, float64 [N, C, R, R] in [-1, 1] units.

    images: uint8 [N, C, R, R] on the device of the denoiser. sigma: > 0. labels: int64 [N], or None for no class. Two
    denoisers see the same noise, so `squared_distance` between their results gives ||D - D'||² for each image.
    Raises UserError for arrays of another type or shape, for a sigma out of range, and for classes that the denoiser
    does not have.
    """
    require_denoiser(denoiser, 'denoiser')
    images, shape = pixels_of(images, 'images'), (denoiser.img_channels, *[denoiser.img_resolution] * 2)
    require_shape(images.shape[1:], shape, '`images`', 'the denoiser takes')
    if np.ndim(sigma) or not 0 < sigma < math.inf:
        raise UserError(f'`sigma`={sigma} must be positive and finite, and one number for all images')
    labels = checked_labels(labels, len(images))
    if labels is not None and (highest := int(labels.max())) >= denoiser.label_dim:
        raise UserError(f'`labels` contains the label {highest}, but the denoiser has {denoiser.label_dim} classes')
    parts = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        clean = to_float64(images[part])
        z = clean + sigma * noise_like(clean, seed, range(start, start + len(clean)))
        parts.append(denoise(denoiser, z, sigma, None if labels is None else labels[part]))
    return torch.cat(parts)


def linearity(
    denoiser: Denoiser, z: Tensor, sigma: float, labels: Tensor | None = None, denoised: Tensor | None = None
) -> Tensor:
    """|cos(D((z1 + z2) / √2), (D(z1) + D(z2)) / √2)| for pairs of consecutive images, float64 [B // 2].

    z: noisy images [B, C, R, R]. labels: one per image; a pair uses its first image's label. denoised: D(z) if known.
    The value is 1 for a linear denoiser. Source: Li, Dai and Qu 2024.
    """
    count = len(z) // 2 * 2
    first, second = z[0:count:2], z[1:count:2]
    denoised = denoise(denoiser, z, sigma, labels) if denoised is None else denoised
    pair_labels = None if labels is None else labels[0:count:2]
    left = denoise(denoiser, (first + second) / math.sqrt(2), sigma, pair_labels).flatten(1)
    right = ((denoised[0:count:2] + denoised[1:count:2]) / math.sqrt(2)).flatten(1)
    return torch.nn.functional.cosine_similarity(left, right, dim=1).abs().cpu()


def centred_cosine(denoised: Tensor | np.ndarray, other: Tensor | np.ndarray) -> Tensor:
    """cos(D - mean D, F - mean F) for each image, float64 [B]; means are over the image's pixels and channels.

    denoised, other: D and F, [B, C, R, R]. The value is 0 if an image is constant. Source: Kamb and Ganguli 2024.
    """
    rows = (torch.as_tensor(images).flatten(1) for images in (denoised, other))
    a, b = (row - row.mean(dim=1, keepdim=True) for row in rows)
    return torch.nn.functional.cosine_similarity(a, b, dim=1, eps=1e-30).double().cpu()


def explained_share(denoised: Tensor | np.ndarray, other: Tensor | np.ndarray) -> Tensor:
    """1 - ||D - F||² / ||D - mean D||² for each image, float64 [B]; mean D is over the image's pixels and channels.

    denoised, other: D and F, [B, C, R, R]. The value is minus infinity if D is constant. Source: Lukoianov et al. 2025.
    """
    denoised, other = torch.as_tensor(denoised), torch.as_tensor(other)
    spread = denoised - denoised.mean(dim=(1, 2, 3), keepdim=True)
    return 1 - squared_distance(denoised, other) / spread.flatten(1).square().sum(dim=1).double().cpu()


def trajectory(
    denoiser: Denoiser, latents: Tensor, levels: Sequence[float], labels: Tensor | None = None
) -> Iterator[tuple[float, Tensor]]:
    """The states of deterministic sampling trajectories at each noise level, float64 [B, C, R, R].

    latents: standard normal [B, C, R, R]. levels: descending and closely spaced, because each interval is a single Heun
    step. Yields (sigma, state) pairs, then (0, generated images). Source: Karras et al. 2022, algorithm 1.
    """
    x = latents.to(widest_float(latents.device)) * levels[0]
    for sigma, sigma_next in zip(levels, [*levels[1:], 0.0], strict=True):
        yield sigma, x
        slope = (x - denoise(denoiser, x, sigma, labels)) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_next = (x_next - denoise(denoiser, x_next, sigma_next, labels)) / sigma_next
            x_next = x + (sigma_next - sigma) * (slope + slope_next) / 2
        x = x_next
    yield 0.0, x


def denoise(denoiser: Denoiser, z: Tensor, sigma: float, labels: Tensor | None = None) -> Tensor:
    """Compute D(z; sigma) without gradients, in the precision of z."""
    with torch.inference_mode():
        return denoiser(z, torch.as_tensor(sigma, dtype=z.dtype, device=z.device), labels).to(z.dtype)


def squared_distance(a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> Tensor:
    """Squared distance between corresponding images of two batches, float64 [B] on the CPU.

    a, b: float [B, C, R, R]. Raises UserError for integers, which could overflow, and for batches that differ in shape.
    """
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    if a.shape != b.shape or not (a.is_floating_point() and b.is_floating_point()):
        raise UserError(
            f'`a` and `b` must be floating-point arrays of the same shape, not {a.dtype} {list(a.shape)} and '
            f'{b.dtype} {list(b.shape)}'
        )
    return (a - b).flatten(1).square().sum(dim=1).double().cpu()


def noise_like(clean: Tensor, seed: int, positions: Sequence[int]) -> Tensor:
    """Standard normal noise shaped like `clean`; an image's noise depends only on the seed and the image's position."""
    noise = [
        torch.randn(clean.shape[1:], generator=torch.Generator().manual_seed(derived_seed(seed, position)))
        for position in positions
    ]
    return torch.stack(noise).to(clean.device).to(clean.dtype)


def to_float64(images: Tensor) -> Tensor:
    """Convert 8-bit pixels to [-1, 1]: float64, or float32 on devices without float64."""
    return images.to(widest_float(images.device)) / 127.5 - 1


def mean_interval(values: Tensor | np.ndarray) -> Estimate:
    """Mean over N >= 2 images with Student's 95 % interval (a paired interval if values are paired differences)."""
    numbers = np.asarray(values, dtype=np.float64)
    return _interval(float(numbers.mean()), float(numbers.std(ddof=1)), len(numbers))


def share_interval(flags: Tensor | np.ndarray) -> Estimate:
    """The share of true flags, with its 95 % Wilson interval. flags: bool [N], N >= 1."""
    flags = np.asarray(flags)
    return Estimate(float(flags.mean()), *wilson_interval(int(flags.sum()), len(flags)))


def ratio_interval(numerators: Tensor | np.ndarray, denominators: Tensor | np.ndarray) -> Estimate:
    """The ratio between the means of N >= 2 paired values, with its 95 % interval by the delta method.

    Returns NaN if all denominators are 0.
    """
    a, b = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if not b.any():
        return Estimate(math.nan, math.nan, math.nan)
    ratio = float(a.mean() / b.mean())
    return _interval(ratio, float((a - ratio * b).std(ddof=1) / abs(b.mean())), len(a))


def _interval(mean: float, deviation: float, count: int) -> Estimate:
    half = t_quantile(count - 1) * deviation / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half)


def psnr(error: Estimate, num_values: int) -> Estimate:
    """The peak signal-to-noise ratio for a mean squared error, in dB: 10 log10(4 / MSE), as the data range is 2.

    error: squared error, summed over an image's `num_values` pixels and channels.
    """
    mean, high, low = (
        10 * math.log10(DATA_RANGE**2 * num_values / value) if value > 0 else math.inf
        for value in (error.mean, error.low, error.high)
    )
    return Estimate(mean, low, high)
