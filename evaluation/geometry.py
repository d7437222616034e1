"""The geometry of a training set across noise levels: where its images merge, and where they are isolated.

`Geometry` collects what noisy images z = x + sigma · e reveal about the training set:

- posterior weight: max_i w_i(z), where w = softmax(-||z - x_i||² / (2 sigma²)); it is 1 if z can come from only one
  image;
- effective number: 1 / sum_i w_i², the number of training images that contribute to the optimal denoiser's output;
- shell coverage: the share of noisy held-out images that lie in the shell of at least one training image,
  sigma √(d - 2 √(c d)) <= ||z - x_i|| <= sigma √(d + 2 √(c d) + 2 c), c = 5. Memorization is decided at the levels
  where both the posterior weight and the shell coverage are >= 0.8. Source: Dodson 2026;
- information: how much z reveals about x, in nats, for noisy training images (at most the logarithm of their number)
  and for noisy held-out images. It is compared with the information for a Gaussian population with the training set's
  covariance. Source: Biroli et al. 2024;
- local coverage of a training image x_j: sum_{i != j} exp(-||x_i - x_j||² / (2 sigma²)); an image is covered if the
  sum is at least 1. Images that are not covered are memorized first. Source: Merger and Goldt 2026.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import UserError
from evaluation.noise_levels import noise_like
from training.dataset import pixels_of, require_shape

# The constant c in the shell radii: a noise vector lies outside its shell with probability at most 2 exp(-c).
SHELL_TAIL = 5
# Memorization is decided at a level if its posterior weight and its shell coverage are both at least this high.
DECIDED = 0.8
# Training images per matrix product.
BLOCK = 2048


@dataclass(frozen=True)
class Geometry:
    """What N noisy images at L levels reveal about a training set.

    All tensors are float64 [L, N], except in_shell (bool [L, N]) and noise_norm (float64 [N]).
    log_density: the logarithm of (1/M) sum_i exp(-||z - x_i||² / (2 sigma²)) over M training images.
    log_coverage: the logarithm of each clean image's local coverage; a training image does not contribute to its own
    coverage. noise_norm: ||e||².
    """

    posterior_weight: Tensor
    effective_number: Tensor
    log_density: Tensor
    in_shell: Tensor
    log_coverage: Tensor
    noise_norm: Tensor


def geometry(
    training: Tensor | np.ndarray,
    images: Tensor | np.ndarray,
    levels: Sequence[float],
    seed: int = 0,
    positions: Sequence[int] | None = None,
    held_out: bool = False,
) -> Geometry:
    """Compare noisy images with all training images at all levels, in one pass and in float64.

    training: uint8 [M, C, H, W], on the device used for computing. images: uint8 [N, C, H, W]. levels: sigma > 0, [L].
    positions: each image's position in its set; None stands for 0, 1, 2, …. The position determines the image's noise.
    For training images, `training[position]` is the image itself, which is left out of the image's local coverage.
    held_out: whether the images come from a held-out set.
    Raises UserError for arrays of another type or shape, for levels and positions out of range, and for images that
    are not the training images at their positions, unless they are held out.
    """
    references, pixels = pixels_of(training, 'training'), pixels_of(images, 'images')
    require_shape(pixels.shape[1:], references.shape[1:], '`images`', '`training` images are')
    sigmas = torch.as_tensor(levels, dtype=torch.float64, device=references.device)
    if sigmas.ndim != 1 or not len(sigmas) or not bool((sigmas > 0).all() & sigmas.isfinite().all()):
        raise UserError(f'`levels`={levels} must be a list of at least one positive, finite noise level')
    places = torch.as_tensor(range(len(pixels)) if positions is None else positions, device=references.device)
    if places.shape != (len(pixels),):
        raise UserError(
            f'`positions` has shape {list(places.shape)}; give one position for each of the {len(pixels)} images'
        )
    pixels = pixels.to(references.device)
    inside = int(places.min()) >= 0 and int(places.max()) < len(references)
    if not held_out and not (inside and torch.equal(references[places], pixels)):
        raise UserError(
            '`images` are not the training images at their `positions`; give their positions, or held_out=True for '
            'other images'
        )
    clean = _rows(pixels)
    noise = noise_like(clean.reshape(pixels.shape), seed, places.tolist()).flatten(1)
    references, scales = references.flatten(1), 127.5 * sigmas  # in pixel levels
    sums = _Sums(scales, clean.shape, noise.square().sum(dim=1))
    for start in range(0, len(references), BLOCK):
        rows = _rows(references[start : start + BLOCK])
        squared = clean.square().sum(dim=1, keepdim=True) - 2 * clean @ rows.t() + rows.square().sum(dim=1)  # exact
        along = (noise * clean).sum(dim=1, keepdim=True) - noise @ rows.t()  # e · (x - x_i)
        own = None if held_out else places[:, None] == torch.arange(start, start + len(rows), device=places.device)
        sums.add(squared, along, own)
    return sums.finish(len(references))


class _Sums:
    """Running sums over training images, for N noisy images at L levels, divided by exp(highest exponent so far)."""

    def __init__(self, scales: Tensor, shape: Sequence[int], noise_norm: Tensor):
        self.scales, self.noise_norm = scales, noise_norm
        self.lowest, self.top = (scales[:, None] * radius for radius in shell(shape[1]))
        none = noise_norm.new_full([len(scales), shape[0]], -math.inf)
        self.highest, self.log_coverage = none, none.clone()
        self.total, self.squares = torch.zeros_like(none), torch.zeros_like(none)
        self.in_shell = torch.zeros_like(none, dtype=torch.bool)

    def add(self, squared: Tensor, along: Tensor, own: Tensor | None) -> None:
        """Add a block of K training images. squared: ||x - x_i||² [N, K]. along: e · (x - x_i) [N, K].

        own: marks the pairs of an image with itself, bool [N, K]; None for held-out images.
        """
        for level, scale in enumerate(self.scales.tolist()):
            # ||x + s e - x_i||², without cancellation for x = x_i.
            distances = squared + 2 * scale * along + scale**2 * self.noise_norm[:, None]
            exponents = distances / (-2 * scale**2)
            highest = torch.maximum(self.highest[level], exponents.amax(dim=1))
            earlier, weights = (self.highest[level] - highest).exp(), (exponents - highest[:, None]).exp()
            self.total[level] = self.total[level] * earlier + weights.sum(dim=1)
            self.squares[level] = self.squares[level] * earlier**2 + weights.square().sum(dim=1)
            self.highest[level] = highest
            inside = (distances >= self.lowest[level] ** 2) & (distances <= self.top[level] ** 2)
            self.in_shell[level] |= inside.any(dim=1)
            others = squared / (-2 * scale**2)
            others = others if own is None else others.masked_fill(own, -math.inf)
            self.log_coverage[level] = torch.logaddexp(self.log_coverage[level], others.logsumexp(dim=1))

    def finish(self, count: int) -> Geometry:
        return Geometry(
            posterior_weight=(1 / self.total).cpu(),
            effective_number=(self.total.square() / self.squares).cpu(),
            log_density=(self.highest + self.total.log() - math.log(count)).cpu(),
            in_shell=self.in_shell.cpu(),
            log_coverage=self.log_coverage.cpu(),
            noise_norm=self.noise_norm.cpu(),
        )


def shell(dimension: int, tail: float = SHELL_TAIL) -> tuple[float, float]:
    """The inner and outer radius of a shell that holds almost all noise vectors e. Source: Laurent and Massart 2000."""
    spread = 2 * math.sqrt(tail * dimension)
    return math.sqrt(max(dimension - spread, 0)), math.sqrt(dimension + spread + 2 * tail)


def information(found: Geometry) -> Tensor:
    """ln(density of z given its own image / density of z given the training set), in nats, float64 [L, N].

    The mean of this quantity over noisy training images is the information (0 to ln M) that z gives about its source
    image. The mean over held-out images is an upper bound on the information that z gives about an image of the
    population.
    """
    return -0.5 * found.noise_norm - found.log_density


def gaussian_information(variances: Tensor | np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """The information for a Gaussian population with covariance eigenvalues l: 1/2 sum ln(1 + l / sigma²).

    Returns float64 [L], in nats. Among all populations with this covariance, the Gaussian has the most information.
    """
    values = np.asarray(variances, dtype=np.float64)
    return 0.5 * np.log1p(values / np.square(np.asarray(levels))[:, None]).sum(axis=1)


def gaussian_collapse_level(variances: Tensor | np.ndarray, num_images: int) -> float:
    """The noise level at which a Gaussian population's information is ln N; below this level, N images are isolated.

    If the variance is s² in all d directions, this is s / √(N^(2/d) - 1). Source: Biroli et al. 2024, who use
    t = ln(1 + sigma²) / 2. For a single image, the level is 0.
    """
    low, high = -30.0, 30.0  # bounds of ln sigma
    for _ in range(100):
        middle = (low + high) / 2
        if gaussian_information(variances, [math.exp(middle)])[0] > math.log(num_images):
            low = middle
        else:
            high = middle
    return math.exp(low) if num_images > 1 else 0.0


def crossing_level(levels: Sequence[float], values: Sequence[float], threshold: float) -> float | None:
    """The highest noise level at which a curve reaches a threshold as the noise decreases; None if it never does.

    The curve is linear in ln sigma between levels. If it starts above the threshold, the highest level is returned.
    """
    order = np.argsort(levels)[::-1]
    sigmas, heights = np.asarray(levels, dtype=np.float64)[order], np.asarray(values, dtype=np.float64)[order]
    reached = np.flatnonzero(heights >= threshold)
    if not len(reached):
        return None
    k = int(reached[0])
    if k == 0:
        return float(sigmas[0])
    share = (threshold - heights[k - 1]) / (heights[k] - heights[k - 1])
    return float(np.exp(np.log(sigmas[k - 1]) + share * np.log(sigmas[k] / sigmas[k - 1])))


def uncovered_levels(levels: Sequence[float], log_coverage: Tensor | np.ndarray) -> np.ndarray:
    """The noise level at which each image's local coverage is 1, float64 [N].

    Images with high levels are memorized first. An image gets the lowest level if it is covered at all levels, and the
    highest if it is covered at none. log_coverage: [L, N].
    """
    curves = -np.asarray(log_coverage, dtype=np.float64)
    crossings = (crossing_level(levels, curve, 0) for curve in curves.T)
    return np.array([min(levels) if level is None else level for level in crossings])


def _rows(images: Tensor) -> Tensor:
    """Convert images, uint8 [N, …], to float64 rows of pixels minus 128; the products of these rows are exact."""
    return images.flatten(1).to(torch.float64) - 128
