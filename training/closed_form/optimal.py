"""The optimal denoiser: the closed-form optimum of denoising score matching over a training set.

For training images y_i in [-1, 1], D(x; sigma) = sum_i w_i y_i with w = softmax(-||x - y_i||² / (2 sigma²)). It can
only replay its training images, which makes it the yardstick for models that generalize.
Source: Karras et al. 2022, appendix B.3; Gu et al. 2023, section 2.

`OptimalDenoiser` is a denoiser as every sampler takes it. How it computes is told in docs/optimal_denoiser.md.
"""

import functools
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torch_utils import distributed
from training.closed_form.base import ClosedForm
from training.closed_form.int8_sums import int8_sums, relative_error
from training.closed_form.rows import ImageRows, Images
from training.closed_form.sums import Sums, empty_sums, float64_sums, merge

# Root mean square error to be expected, relative to the norm of the denoised image, above which an image is computed
# again with more digits. An error five times as large, 1e-5, has a probability below exp(-9) (see int8_sums).
TOLERANCE = 2e-6
# Sets of no more than so many pixels together are denoised in float64 at once.
FEW_PIXELS = 1 << 16
# Digits of z that are tried, each for the images that were not sure enough with fewer.
DIGITS = (3, 4)
# The nearest image is settled once the weights of all others are below half of float64's rounding unit.
SETTLED = 2.0**-54


@dataclass(frozen=True)
class Statistics:
    """What the softmax says about each noisy image.

    log_normalizer: float64 [B], ln sum_i exp(-||x - y_i||² / (2 sigma²)).
    effective_number: float64 [B], 1 / sum_i w_i², the number of training images that take part.
    nearest: int64 [B], index of the nearest training image; of equally near ones the lowest.
    distance: float64 [B], distance to it, in units of data in [-1, 1].
    """

    log_normalizer: Tensor
    effective_number: Tensor
    nearest: Tensor
    distance: Tensor


class OptimalDenoiser(ClosedForm):
    """D(x; sigma) of a training set.

    images: uint8 [N, C, R, R]; a numpy memory map is read block by block and never held in memory, and `SourceImages`
    are decoded as they are put on the device.
    labels: int64 [N] or None. With labels, class_labels choose the optimum within a class.
    device: where to compute.
    sharded: the images are one rank's share of the training set, and every rank asks for the same noisy images; what
    each finds in its share is merged, and all get the same result. Indices then count the images of lower ranks first.
    float64: compute everything in float64, which is slow: to compare with.
    Raises UserError for a set that is empty, not square, or too large for the device.
    """

    def __init__(
        self,
        images: Images,
        labels: Tensor | np.ndarray | None = None,
        device: torch.device | str = 'cpu',
        sharded: bool = False,
        float64: bool = False,
    ):
        super().__init__(images, labels, device)
        self.sharded, self.float64 = sharded, float64
        if sharded:
            self.images = distributed.on_every_rank(lambda: ImageRows(images, self.labels, self.device))
            self._join_shards()
        else:
            self.images = ImageRows(images, self.labels, self.device)

    def _join_shards(self) -> None:
        """Learn from the other ranks what they hold; what decides how to compute must be the same on all."""
        images = self.images
        shards = distributed.gather((len(images), self.class_sizes, images.mean.cpu(), images.highest_norm.cpu()))
        sizes = [size for size, _, _, _ in shards]
        self.num_images = sum(sizes)
        self.class_sizes = sum((part for _, part, _, _ in shards), Counter())
        self.label_dim = max(self.class_sizes, default=-1) + 1
        images.offset = sum(sizes[: distributed.rank()])
        means = torch.stack([size / self.num_images * mean for size, _, mean, _ in shards])
        images.mean = means.sum(dim=0).to(self.device)
        images.highest_norm = torch.stack([norm for _, _, _, norm in shards]).amax().to(self.device)

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """The denoised images, of x's shape: float64 where x is, else float32.

        x: float [B, C, R, R]; sigma: > 0, a scalar or [B]; class_labels: one-hot [B, label_dim], int64 [B] or None for
        the optimum over all classes. Raises UserError for values that are not finite, sigma <= 0, and an empty class.
        """
        return self._as_images(self._sums(x, sigma, class_labels).mean, x)

    def settled(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Which images are denoised to one training image for the rest of a deterministic trajectory, bool [B].

        Returns also the denoised images, of all: what calling the denoiser gives.

        Why it stays: let y be the nearest image, and x(t) = y + t (x - y) the point at noise level t sigma, t in
        [0, 1]; while D = y, the probability flow is that segment. For another image y', the gap
        g(t) = ||x(t) - y'||² - ||x(t) - y||² is linear in t, g(0) = ||y - y'||² >= 0 and g(1) >= 0, so g(t) >= t g(1),
        and its weight relative to y's is exp(-g(t) / (2 t² sigma²)) <= exp(-g(1) / (2 sigma²)): no weight grows. Hence
        if the others' weights together are below float64's rounding at (x, sigma), they are along the whole segment.
        """
        sums = self._sums(x, sigma, class_labels)
        settled = sums.others - sums.log_total < math.log(SETTLED)
        return settled.to(x.device), self._as_images(sums.mean, x)

    def statistics(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Statistics:
        """What the softmax says about each noisy image; arguments as for a call."""
        sums = self._sums(x, sigma, class_labels, find_nearest=True)
        return Statistics(
            log_normalizer=sums.log_total.to(x.device),
            effective_number=(sums.total.square() / sums.squares).to(x.device),
            nearest=sums.nearest.to(x.device),
            distance=(sums.distance.sqrt() / 127.5).to(x.device),
        )

    def _sums(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None,
        find_nearest: bool = False,
    ) -> Sums:
        z, variance = self._in_pixels(x, sigma)
        classes = self._classes(class_labels, len(x))
        if classes is None:
            return self._range_sums(z, variance, (0, len(self.images)), self.num_images, find_nearest)
        parts, order = [], []
        for label in classes.unique().tolist():
            rows = (classes == label).nonzero()[:, 0]
            chosen = self.images.ranges.get(label, (0, 0)) if label >= 0 else (0, len(self.images))
            size = self.class_sizes[label] if label >= 0 else self.num_images
            parts.append(self._range_sums(z[rows], variance[rows], chosen, size, find_nearest))
            order.append(rows)
        return Sums.cat(parts)[torch.cat(order).argsort()]

    def _range_sums(self, z: Tensor, variance: Tensor, chosen: tuple[int, int], size: int, find_nearest: bool) -> Sums:
        """Sums over a range of rows: with digits, and in float64 for images of which digits cannot be sure.

        size: number of images in the range, over all ranks.
        """
        if not len(z):
            return empty_sums(z)
        start, stop = chosen
        if self.float64 or size * z.shape[1] <= FEW_PIXELS:
            return self._over_ranks(float64_sums(self.images, z, variance, start, stop))
        parts: list[Sums] = []
        indices: list[Tensor] = []
        rows = torch.arange(len(z), device=z.device)
        for count in DIGITS:
            sums, logit_error = int8_sums(self.images, z[rows], variance[rows], count, start, stop, find_nearest)
            sums = self._over_ranks(sums)
            sure = relative_error(self.images, logit_error, sums) <= TOLERANCE
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
            parts.append(self._over_ranks(float64_sums(self.images, z[rows], variance[rows], start, stop)))
            indices.append(rows)
        return Sums.cat(parts)[torch.cat(indices).argsort()]

    def _over_ranks(self, sums: Sums) -> Sums:
        """The sums over the shards of all ranks, to the last bit the same on each."""
        if not self.sharded or distributed.world_size() == 1:
            return sums
        packed = sums.pack()
        shards = [torch.empty_like(packed) for _ in range(distributed.world_size())]
        torch.distributed.all_gather(shards, packed)
        return functools.reduce(merge, [Sums.unpack(shard) for shard in shards])
