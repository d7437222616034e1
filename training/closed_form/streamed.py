"""Denoisers that stream over the rows of their training set, and posterior means of candidates that come in blocks."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dnnlib.util import UserError
from torch_utils import distributed
from training.closed_form.closed_form import ClosedForm, as_labels
from training.closed_form.rows import ImageRows

# Numbers of the largest tensors that hold a block, so that these stay in a processor's cache.
BLOCK_NUMBERS = {'cpu': 1 << 16, 'cuda': 1 << 26}
# Largest error of a logit by rounding, below which distances are computed by products.
LOGIT_ERROR = {torch.float32: 1e-8, torch.float64: 1e-12}
# Noisy images this many times as long as any training image lose fewer digits by products than by differences.
DISTANT = 4


@dataclass(frozen=True)
class Group:
    """Noisy images of one class: their indices, the range of the class's rows, its size over all ranks, and the class,
    -1 for all classes."""

    rows: Tensor | slice
    chosen: tuple[int, int]
    size: int
    label: int


@dataclass(eq=False, repr=False, kw_only=True)
class Streamed(ClosedForm):
    """A denoiser that reads its training set as `ImageRows`, all at once or block by block.

    images: uint8 [N, C, R, R]; a numpy memory map is read block by block and never held in memory. `ImageRows` may be
    sharded: all ranks then make the same calls and get the same results, over the images of all ranks.
    labels: int64 [N] or None. With labels, class_labels choose the denoiser of a class.
    device: where to compute. precision: 'fp32' or 'fp64'; see the classes.
    Raises UserError for a set that is empty, not square, or too large for the device.
    """

    takes_shards = True

    precision: str = 'fp32'

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision not in ('fp32', 'fp64'):
            raise UserError(f'`precision`={self.precision}: a closed form has fp32 and fp64')
        images, device = self.images, torch.device(self.device)
        self.rows = images if isinstance(images, ImageRows) else ImageRows(images, as_labels(self.labels), device)
        self.images = self.rows  # so that the given images may be freed
        self.float64 = self.precision == 'fp64'
        # Over all ranks.
        self.num_images, self.class_sizes = self.rows.num_images, self.rows.class_sizes
        self.label_dim = max(self.class_sizes, default=-1) + 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.img_channels, self.img_resolution, self.img_resolution

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """The denoised images, of x's shape: float64 if x is, else float32.

        x: float [B, C, R, R]; sigma: > 0, a scalar or [B]; class_labels: one-hot [B, label_dim], int64 [B] or None for
        all classes. Raises UserError for values that are not finite, sigma <= 0, and an empty class.
        """
        z, variance = self._in_pixels(x, sigma)
        for group in self._groups(class_labels, len(x)):
            z[group.rows] = self._denoise(z[group.rows], variance[group.rows], group)
        return self._as_images(z, x)

    def _denoise(self, z: Tensor, variance: Tensor, group: Group) -> Tensor:
        """Denoised rows of a group, float64 [B, P] in pixel units; here, by noise level. variance: float64 [B]."""
        denoised = torch.empty_like(z)
        for level in variance.unique():
            same = variance == level
            denoised[same] = self._denoise_level(z[same], float(level), group)
        return denoised

    def _denoise_level(self, z: Tensor, variance: float, group: Group) -> Tensor:
        """Denoised rows at one noise level."""
        raise NotImplementedError

    def _groups(self, class_labels: Tensor | None, count: int) -> list[Group]:
        """The noisy images of each class."""
        classes = self._classes(class_labels, count)
        if classes is None or not count:
            return [self._group(-1)]
        return [
            dataclasses.replace(self._group(label), rows=(classes == label).nonzero()[:, 0])
            for label in classes.unique().tolist()
        ]

    def _group(self, label: int) -> Group:
        """The training images of a class, -1 for all, for all noisy images."""
        if label < 0:
            return Group(slice(None), (0, len(self.rows)), self.num_images, label)
        return Group(slice(None), self.rows.ranges.get(label, (0, 0)), self.class_sizes[label], label)

    def _blocks(self, group: Group, size: int) -> Iterator[Tensor]:
        """The group's training images in blocks of at most `size`, float64 [n, P] in pixel units."""
        for _, rows in self.rows.blocks(*group.chosen, size):
            yield rows.to(torch.float64)

    def _columns(self, group: Group, size: int) -> Iterator[Tensor]:
        """As `_blocks`, but each image is a column, float64 [P, n]."""
        for _, rows in self.rows.blocks(*group.chosen, size):
            yield rows.t().contiguous().to(torch.float64)

    def _by_products(self, z: Tensor, variance: float) -> list[bool]:
        """For each noisy row of z, whether distances by products with training images are exact enough."""
        length, longest = z.norm(dim=1), self.rows.highest_norm.sqrt()
        rounding = torch.finfo(torch.float64).eps * length * longest / variance
        return ((rounding < LOGIT_ERROR[self._weight_dtype]) | (length > DISTANT * longest)).tolist()

    @property
    def _cached_images(self) -> int:
        """Images of a block if each image has a number for each pixel."""
        return max(BLOCK_NUMBERS.get(self.rows.device.type, BLOCK_NUMBERS['cpu']) // self.img_resolution**2, 1)

    @property
    def _weight_dtype(self) -> torch.dtype:
        return torch.float64 if self.float64 else torch.float32


class PosteriorMeans:
    """Means of candidates with weights softmax(logits) for each of several queries, over candidates added in blocks.

    shape: of the queries. num_values: numbers of a candidate; 0 for the normalizer alone.
    dtype: of the weights of a block and of their sums; logits and sums over blocks are float64.
    The weights are relative to the largest so far, query by query, so that none underflows for a distant query.
    """

    def __init__(self, shape: tuple[int, ...], num_values: int, dtype: torch.dtype, device: torch.device):
        self.dtype = dtype
        self.reference = torch.full(shape, -math.inf, dtype=torch.float64, device=device)
        self.total = torch.zeros_like(self.reference)
        self.weighted = self.total.new_zeros([*shape, num_values])

    def add(self, logits: Tensor, values: Tensor | None = None, place: tuple[slice | int, ...] = ()) -> None:
        """Add candidates, n >= 1.

        logits: float64 [*shape, n], overwritten. values: of `dtype`, [V, *shape, n], or such that they broadcast.
        place: the queries, if not all.
        """
        reference, total = self.reference[place], self.total[place]
        highest = torch.maximum(reference, logits.amax(dim=-1))
        scale = (reference - highest).exp()
        weights = self._powers(logits, highest)
        total.mul_(scale).add_(weights.sum(dim=-1))
        for index, value in enumerate([] if values is None else values):
            self.weighted[place][..., index].mul_(scale).add_((weights * value).sum(dim=-1))
        reference.copy_(highest)

    def over_ranks(self, sharded: bool) -> 'PosteriorMeans':
        """These means over the candidates of all ranks if the set is sharded; equal to the last bit on each rank."""
        if sharded:
            parts = gather_tensors(torch.cat([self.reference[..., None], self.total[..., None], self.weighted], dim=-1))
            self.reference = parts[..., 0].amax(dim=0)
            sums = ((parts[..., 0] - self.reference).exp()[..., None] * parts[..., 1:]).sum(dim=0)
            self.total, self.weighted = sums[..., 0], sums[..., 1:]
        return self

    @property
    def mean(self) -> Tensor:
        """float64 [*shape, V]."""
        return self.weighted / self.total[..., None]

    def weights(self, logits: Tensor, place: tuple[slice | int, ...] = ()) -> Tensor:
        """The weights of candidates once all are added: exp(logits) over the sum of all. Arguments: as of `add`."""
        return self._powers(logits, self.reference[place]).div_(self.total[place][..., None])

    def _powers(self, logits: Tensor, reference: Tensor) -> Tensor:
        """exp(logits - reference), of `dtype`: as powers of 2, since exp is slow for results that underflow."""
        return logits.sub_(reference[..., None]).mul_(math.log2(math.e)).to(self.dtype).exp2_()


def gather_tensors(tensor: Tensor) -> Tensor:
    """The tensors of all ranks, of one shape, stacked: [ranks, …], on every rank."""
    if distributed.world_size() == 1:
        return tensor[None]
    parts = [torch.empty_like(tensor) for _ in range(distributed.world_size())]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)
