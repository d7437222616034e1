"""The patch posterior denoiser (PSPC-Square), which denoises patches separately and averages overlapping patches.

At each position, the noisy s×s patch is denoised to its posterior mean over the patches at the same position in all
training images and their mirror images. Each pixel of the result is the mean over the patches that cover it.
Source: Niedoba et al. 2025.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.closed_form.streamed import Group, PosteriorMeans, Streamed, gather_tensors
from training.closed_form.sums import float64_sums, merge, over_ranks
from training.closed_form.windows import Window, closeness, window_matrix, window_sums, window_table, with_norms

# Patch sizes for 32×32 images at the 18 noise levels of EDM's sampler.
PUBLISHED = (*[32] * 7, 23, 15, 11, 7, 5, *[3] * 6)


@dataclass(eq=False, repr=False, kw_only=True)
class PatchDenoiser(Streamed):
    """The PSPC-Square denoiser for a training set.

    window: patch size s, as a number, a table, a table file or None; see `windows.window_table`.
    mirror: whether mirror images of the training images are candidates too.
    precision: 'fp32' computes distances in float64 and weights in float32; 'fp64' computes everything in float64.
    Other arguments: see `Streamed`. Raises UserError for a patch larger than the image.
    """

    window: Window = None
    mirror: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.windows = window_table(self.window, PUBLISHED, self.img_resolution, odd=False)
        self.sigma_min, self.sigma_max = self.windows.low, self.windows.high

    def _denoise_level(self, z: Tensor, variance: float, group: Group) -> Tensor:
        window = self.windows.at(variance**0.5 / 127.5)
        if window == self.img_resolution:
            return self._whole_images(z, variance, group)
        noisy, places = z.unflatten(1, self.image_shape), self.img_resolution - window + 1
        sums = window_matrix(places, self.img_resolution, 0, window).to(z.device)
        spread, by_products = sums.t().to(self._weight_dtype), self._by_products(z, variance)

        def logits(index: int, y: Tensor) -> Tensor:
            close = closeness(noisy[index], y, by_products[index])
            return window_sums(close, sums, sums).div_(variance)  # [places, places, n]

        # A pixel is a mean over several patches. Patches can be added only when their normalizers are known, so the
        # training images are read twice.
        normalizers = PosteriorMeans((len(z), places, places), 0, self._weight_dtype, z.device)
        for y in self._candidates(group):
            for index in range(len(noisy)):
                normalizers.add(logits(index, y), place=(index,))
        normalizers = normalizers.over_ranks(self.rows.sharded)
        summed = torch.zeros([len(z), *self.image_shape], dtype=torch.float64, device=z.device)
        for y in self._candidates(group):
            values = y[:-1].to(self._weight_dtype)
            for index in range(len(noisy)):
                weights = normalizers.weights(logits(index, y), (index,))
                summed[index] += (window_sums(weights, spread, spread) * values).sum(dim=-1)
        if self.rows.sharded:
            summed = gather_tensors(summed).sum(dim=0)
        covering = sums.sum(dim=0)  # number of patches that cover each pixel along an axis
        return (summed / torch.outer(covering, covering)).flatten(1)

    def _candidates(self, group: Group) -> Iterator[Tensor]:
        """The training images and their mirror images, in blocks [C + 1, R, R, n]; see `with_norms`."""
        for columns in self._columns(group, self._cached_images):
            images = with_norms(columns.unflatten(0, self.image_shape))
            yield images
            if self.mirror:
                yield images.flip(2)

    def _whole_images(self, z: Tensor, variance: float, group: Group) -> Tensor:
        """The posterior mean of complete images: the optimum over the training images and their mirror images."""
        variances = z.new_full([len(z)], variance)
        sums = float64_sums(self.rows, z, variances, *group.chosen)
        if self.mirror:
            other = float64_sums(self.rows, self._mirrored(z), variances, *group.chosen)
            sums = merge(sums, replace(other, weighted=self._mirrored(other.weighted)))
        return over_ranks(sums, self.rows.sharded).mean

    def _mirrored(self, rows: Tensor) -> Tensor:
        return rows.unflatten(1, self.image_shape).flip(3).flatten(1)
