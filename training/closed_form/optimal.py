"""The optimal denoiser: the closed-form optimum of denoising score matching over a training set.

For training images y_i in [-1, 1], D(x; sigma) = sum_i w_i y_i with w = softmax(-||x - y_i||² / (2 sigma²)). Sampling
with this denoiser only reproduces training images, so it is the reference against which generalization is measured.
Source: Karras et al. 2022, appendix B.3; Gu et al. 2023, section 2.

See docs/optimal_denoiser.md for the algorithm.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_utils import distributed
from torch_utils.misc import float64_is_fast
from training.closed_form.coordinates import Coordinates
from training.closed_form.int8_sums import int8_sums, relative_error
from training.closed_form.streamed import Streamed
from training.closed_form.sums import SETTLED, Sums, empty_sums, float64_sums, over_ranks

# Largest accepted root mean square error of a denoised image relative to its norm, as estimated by `relative_error`.
# The probability of an error above 1e-5, five times this value, is then below exp(-9); see `int8_sums`.
TOLERANCE = 2e-6
# On a CPU, training sets with at most this many pixel values in total are summed in float64, which is fastest for them.
FLOAT64_PIXELS = 1 << 22
# On a GPU that is fast in float64, sums are computed in float64 if the product of the numbers of noisy images, training
# images and pixel values is at most this. Up to this size, float64 was faster on an H100 for random images. Digits have
# fixed costs and need 6 instead of 2 matrix products, but an int8 product there is 10 times as fast as a float64 one.
FLOAT64_WORK = 4e11
# `Coordinates` are used for up to this many images, with up to this many pixel values in total. With these sizes, the
# Gram matrix and the images take 128 MiB each in float64.
MAX_COORDINATES = 1 << 12
MAX_COORDINATE_PIXELS = 1 << 24
# Numbers of int8 digits per pixel value of a noisy image, tried in this order until the error is at most TOLERANCE.
DIGITS = (3, 4)


@dataclass(frozen=True)
class Statistics:
    """Properties of the softmax for each noisy image.

    log_normalizer: float64 [B], ln sum_i exp(-||x - y_i||² / (2 sigma²)).
    effective_number: float64 [B], 1 / sum_i w_i², the effective number of training images in the weighted mean.
    nearest: int64 [B], index of the nearest training image; for ties, the lowest index.
    distance: float64 [B], distance to the nearest training image, for data in [-1, 1].
    """

    log_normalizer: Tensor
    effective_number: Tensor
    nearest: Tensor
    distance: Tensor


class OptimalDenoiser(Streamed):
    """The optimal denoiser D(x; sigma) for a training set.

    precision: 'fp32' has a relative error of about 1e-5 at most; 'fp64' computes everything in float64, which is slow
    on most devices.
    Other arguments: see `Streamed`.
    """

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """The denoised images; see `Streamed.__call__`."""
        return self._denoised(x, sigma, class_labels)[0]

    def settled(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Find settled noisy images: those whose denoised image stays the same down to sigma = 0 without churn.

        Returns whether each noisy image is settled (bool [B]), and the denoised images for the complete batch.

        Proof: let y be the nearest training image, and x(t) = y + t (x - y) the point at noise level t sigma, with t in
        [0, 1]. As long as D = y, the probability flow follows this segment. For another image y', the gap
        g(t) = ||x(t) - y'||² - ||x(t) - y||² is linear in t, with g(0) = ||y - y'||² >= 0 and g(1) >= 0. So
        g(t) >= t g(1), and the weight of y' relative to y is exp(-g(t) / (2 t² sigma²)) <= exp(-g(1) / (2 sigma²)):
        no weight grows. Hence if, at (x, sigma), the other images' total weight is below float64's rounding unit, it
        stays below that unit on the whole segment.
        """
        denoised, others = self._denoised(x, sigma, class_labels)
        return (others < math.log(SETTLED)).to(x.device), denoised

    def statistics(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Statistics:
        """Properties of the softmax for each noisy image. Arguments: see `__call__`."""
        sums = self._sums(x, sigma, class_labels, find_nearest=True)
        return Statistics(
            log_normalizer=sums.log_total.to(x.device),
            effective_number=(sums.total.square() / sums.squares).to(x.device),
            nearest=sums.nearest.to(x.device),
            distance=(sums.distance.sqrt() / 127.5).to(x.device),
        )

    def _denoised(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the denoised images, in the shape of x, and an upper bound on ln s for each of them, float64 [B].

        s is the share of the total weight that belongs to training images other than the nearest one and its copies.
        """
        sums = self._sums(x, sigma, class_labels)
        return self._as_images(sums.mean, x), sums.others - sums.log_total

    @functools.cached_property
    def coordinates(self) -> Coordinates | None:
        """The same denoiser in reduced coordinates.

        This is None if the precision is 'fp64', or if the training set is too large, on disk or sharded.
        """
        most = min(self.rows.num_pixels, MAX_COORDINATES, MAX_COORDINATE_PIXELS // self.rows.num_pixels)
        few = len(self.rows) <= most
        alone = self.rows.resident is not None and not self.rows.sharded
        return Coordinates(self.rows, self._groups) if few and alone and not self.float64 else None

    def _in_float64(self, count: int) -> bool:
        """Whether sums for `count` noisy images are computed in float64: on request, or because it is faster."""
        num_pixels = self.num_images * self.rows.num_pixels
        if self.rows.device.type == 'cuda':
            return self.float64 or (count * num_pixels <= FLOAT64_WORK and self._fast_float64)
        return self.float64 or num_pixels <= FLOAT64_PIXELS

    @functools.cached_property
    def _fast_float64(self) -> bool:
        """Whether the GPU, or the GPUs of all ranks that hold a shard, are fast in float64."""
        fast = float64_is_fast(self.rows.device)
        return all(distributed.gather(fast)) if self.rows.sharded else fast

    def _sums(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None, find_nearest: bool = False) -> Sums:
        z, variance = self._in_pixels(x, sigma)
        groups = self._groups(class_labels, len(x))
        parts = [self._range_sums(z[g.rows], variance[g.rows], g.chosen, find_nearest) for g in groups]
        if isinstance(groups[0].rows, slice):
            return parts[0]
        return Sums.cat(parts)[torch.cat([g.rows for g in groups if isinstance(g.rows, Tensor)]).argsort()]

    def _range_sums(self, z: Tensor, variance: Tensor, chosen: tuple[int, int], find_nearest: bool) -> Sums:
        """Sums over a range of rows, computed in float64 or with int8 digits.

        Images whose error remains too large with int8 digits are recomputed in float64.
        """
        if not len(z):
            return empty_sums(z)
        (start, stop), sharded = chosen, self.rows.sharded
        if self._in_float64(len(z)):
            return over_ranks(float64_sums(self.rows, z, variance, start, stop), sharded)
        parts: list[Sums] = []
        indices: list[Tensor] = []
        rows = torch.arange(len(z), device=z.device)
        for count in DIGITS:
            sums, logit_error = int8_sums(self.rows, z[rows], variance[rows], count, start, stop, find_nearest)
            sums = over_ranks(sums, sharded)
            sure = relative_error(self.rows, logit_error, sums) <= TOLERANCE
            if find_nearest:
                sure &= sums.distance.isfinite()
            if not parts and bool(sure.all()):
                return sums
            parts.append(sums[sure])
            indices.append(rows[sure])
            rows = rows[~sure]
            if not len(rows):
                break
        else:
            parts.append(over_ranks(float64_sums(self.rows, z[rows], variance[rows], start, stop), sharded))
            indices.append(rows)
        return Sums.cat(parts)[torch.cat(indices).argsort()]
