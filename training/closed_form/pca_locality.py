"""The PCA-locality denoiser: each pixel value is denoised from the values that correlate with it.

A pixel value is one channel of one pixel. Let S be the covariance of the training set and W = S (S + sigma² I)⁻¹ the
Wiener filter. The mask of value m contains the values j for which |W_mj| is at least tau times the largest |W_mj| in
row m. The denoised value m is a weighted mean of value m over the training images. The weights are a softmax of the
negative squared distances between the values in the mask.
Source: Lukoianov et al. 2025.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dnnlib.util import UserError
from torch_utils.misc import require_memory
from training.closed_form.gaussian import GaussianDenoiser
from training.closed_form.streamed import Group, PosteriorMeans, Streamed

# The published thresholds for CIFAR-10 at 32×32 and for data sets at 64×64.
TAU, TAU_LARGE = 0.05, 0.02
BLOCK_IMAGES = 1024
# Diagonal entries of W below this are 0 up to rounding.
CONSTANT = 1e-24
# Masks are cached for several noise levels and classes, up to this many entries.
MASK_ENTRIES = 1 << 26


@dataclass(eq=False, repr=False, kw_only=True)
class PCALocalityDenoiser(Streamed):
    """The PCA-locality denoiser for a training set.

    tau: threshold in [0, 1]; None means the published value for the image size.
    precision: 'fp32' computes distances in float64 and weights in float32; 'fp64' computes everything in float64.
    Other arguments: see `Streamed`. With labels, the denoiser for a class uses only that class's covariance and images.
    Raises UserError if tau is out of range or the covariance does not fit in memory.
    """

    tau: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tau is None:
            self.tau = TAU if self.img_resolution < 64 else TAU_LARGE
        if not 0 <= self.tau <= 1:
            raise UserError(f'`tau`={self.tau:g} is out of range; give a number from 0 to 1')
        self.gaussian = GaussianDenoiser(self.rows)
        self._masks: dict[tuple[int, float], list[Tensor]] = {}

    def masks(self, variance: float, label: int = -1) -> list[Tensor]:
        """For each pixel value, the indices in its mask, int64 [K]. variance: noise variance in pixel units."""
        if (label, variance) not in self._masks:
            if sum(len(mask) for masks in self._masks.values() for mask in masks) > MASK_ENTRIES:
                self._masks.clear()
            size, gaussian = self.rows.num_pixels, self.gaussian.gaussian(label)
            require_memory(16 * size**2, self.rows.device, 'the masks of the PCA-locality denoiser')
            shrunk = (gaussian.directions * (gaussian.variances / (gaussian.variances + variance))).t()
            masks: list[Tensor] = []
            for part in torch.arange(size, device=self.rows.device).split(BLOCK_IMAGES):
                for number, row in zip(part, (gaussian.directions[part] @ shrunk).abs(), strict=True):
                    # A value that is constant over all images correlates with no other; its mask contains only itself.
                    constant = float(row[number]) < CONSTANT
                    masks.append(number[None] if constant else (row >= self.tau * row.amax()).nonzero()[:, 0])
            self._masks[label, variance] = masks
        return self._masks[label, variance]

    def _denoise_level(self, z: Tensor, variance: float, group: Group) -> Tensor:
        masks = self.masks(variance, group.label)
        means = PosteriorMeans((len(masks), len(z)), 1, self._weight_dtype, z.device)
        queries, by_products = z.t().contiguous(), all(self._by_products(z, variance))
        for y in self._columns(group, BLOCK_IMAGES):
            values = y.to(self._weight_dtype)
            for number, mask in enumerate(masks):
                own, others = queries[mask], y[mask]
                if by_products:
                    logits = torch.addmm(others.square().sum(dim=0), own.t(), others, beta=-0.5)
                else:
                    logits = torch.cdist(own.t(), others.t(), compute_mode='donot_use_mm_for_euclid_dist').square_()
                    logits.mul_(-0.5)
                means.add(logits.div_(variance), values[number : number + 1], (number,))
        return means.over_ranks(self.rows.sharded).mean[:, :, 0].t()
