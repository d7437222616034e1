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

from dnnlib.util import UserError
from torch_utils import distributed
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


class OptimalDenoiser:
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

    sigma_min = 0.0
    sigma_max = math.inf

    def __init__(
        self,
        images: Images,
        labels: Tensor | np.ndarray | None = None,
        device: torch.device | str = 'cpu',
        sharded: bool = False,
        float64: bool = False,
    ):
        check_images(images, labels)
        self.device, self.sharded, self.float64 = compute_device(device), sharded, float64
        classes = None if labels is None else torch.as_tensor(labels).to(torch.int64)
        if sharded:
            self.images = distributed.on_every_rank(lambda: ImageRows(images, classes, self.device))
        else:
            self.images = ImageRows(images, classes, self.device)
        self.img_channels, self.img_resolution = images.shape[1], images.shape[2]
        # Over all ranks: the number of images, and that of each class.
        self.num_images = len(images)
        self.class_sizes = Counter({c: stop - start for c, (start, stop) in self.images.ranges.items()})
        if sharded:
            self._join_shards()
        self.label_dim = max(self.class_sizes, default=-1) + 1

    def _join_shards(self) -> None:
        """Learn from the other ranks what they hold; what decides how to compute must be the same on all."""
        images = self.images
        shards = distributed.gather((len(images), self.class_sizes, images.mean.cpu(), images.highest_norm.cpu()))
        sizes = [size for size, _, _, _ in shards]
        self.num_images = sum(sizes)
        self.class_sizes = sum((part for _, part, _, _ in shards), Counter())
        images.offset = sum(sizes[: distributed.rank()])
        means = torch.stack([size / self.num_images * mean for size, _, mean, _ in shards])
        images.mean = means.sum(dim=0).to(self.device)
        images.highest_norm = torch.stack([norm for _, _, _, norm in shards]).amax().to(self.device)

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """The denoised images, of x's shape: float64 where x is, else float32.

        x: float [B, C, R, R]; sigma: > 0, a scalar or [B]; class_labels: one-hot [B, label_dim], int64 [B] or None for
        the optimum over all classes. Raises UserError for values that are not finite, sigma <= 0, and an empty class.
        """
        return self._images(self._sums(x, sigma, class_labels), x)

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
        return settled.to(x.device), self._images(sums, x)

    def statistics(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Statistics:
        """What the softmax says about each noisy image; arguments as for a call."""
        sums = self._sums(x, sigma, class_labels, find_nearest=True)
        return Statistics(
            log_normalizer=sums.log_total.to(x.device),
            effective_number=(sums.total.square() / sums.squares).to(x.device),
            nearest=sums.nearest.to(x.device),
            distance=(sums.distance.sqrt() / 127.5).to(x.device),
        )

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        return torch.as_tensor(sigma)

    def _images(self, sums: Sums, x: Tensor) -> Tensor:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return ((sums.mean + 0.5) / 127.5).reshape(x.shape).to(dtype).to(x.device)

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

    def _in_pixels(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """x in pixel units, float64 [B, P], and the noise's variance in them, float64 [B]."""
        expected = (self.img_channels, self.img_resolution, self.img_resolution)
        if tuple(x.shape[1:]) != expected:
            raise UserError(f'x has shape {list(x.shape)}, but the training images are {list(expected)} each')
        sigma = torch.as_tensor(sigma, dtype=torch.float64, device=self.device).flatten()
        if len(sigma) not in (1, len(x)):
            raise UserError(f'sigma has {len(sigma)} values for {len(x)} images; give one, or one for each image')
        if not bool((sigma > 0).all() & sigma.isfinite().all()):
            raise UserError('sigma must be positive and finite')
        z = x.flatten(1).to(self.device).to(torch.float64) * 127.5 - 0.5
        if not bool(z.isfinite().all()):
            raise UserError('x has values that are not finite')
        return z, (127.5 * sigma).square().expand(len(x))

    def _classes(self, class_labels: Tensor | None, count: int) -> Tensor | None:
        """The class of each image, int64 [B], -1 for all classes; None where all are -1."""
        if class_labels is None:
            return None
        if not self.label_dim:
            raise UserError('class_labels are given, but the training set has no labels')
        labels = class_labels.to(self.device)
        if len(labels) != count:
            raise UserError(f'{len(labels)} class labels are given for {count} images')
        if labels.shape[1:] != ((self.label_dim,) if labels.is_floating_point() else ()):
            raise UserError(
                f'class_labels are {list(labels.shape)}; give integers [B], or one-hot floats [B, {self.label_dim}]'
            )
        known = set(self.class_sizes)
        if labels.is_floating_point():
            labels, known = torch.where(labels.any(dim=1), labels.argmax(dim=1), -1), known | {-1}
        if absent := set(labels.unique().tolist()) - known:
            raise UserError(f'class {min(absent)}: no training image has it')
        return labels


def check_images(images: Images, labels: Tensor | np.ndarray | None) -> None:
    if images.ndim != 4 or images.dtype not in (torch.uint8, np.uint8):
        raise UserError(f'training images must be uint8 [N, C, R, R], not {images.dtype} {list(images.shape)}')
    if len(images) == 0:
        raise UserError('the training set has no images')
    if images.shape[2] != images.shape[3]:
        raise UserError(f'training images must be square, not {images.shape[2]}×{images.shape[3]}')
    if labels is not None and len(labels) != len(images):
        raise UserError(f'{len(labels)} labels are given for {len(images)} training images')
    if labels is not None and (lowest := int(torch.as_tensor(labels).amin())) < 0:
        raise UserError(f'label {lowest} of the training images is below 0')


def compute_device(device: torch.device | str) -> torch.device:
    """The device that computes: Apple's has no float64, so the CPU stands in for it."""
    device = torch.device(device)
    return torch.device('cpu') if device.type == 'mps' else device
