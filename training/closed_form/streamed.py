"""Denoisers that read the training set in blocks (`Streamed`), and weighted means over blocks (`PosteriorMeans`)."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dnnlib.util import UserError
from torch_utils import distributed
from torch_utils.misc import for_device
from training.closed_form.closed_form import ClosedForm
from training.closed_form.rows import ImageRows
from training.dataset import checked_labels

# Largest number of elements in a block's tensors; on a CPU, small enough to stay in the cache.
BLOCK_NUMBERS = {'cpu': 1 << 16, 'cuda': 1 << 26}
# Distances are computed from inner products if the resulting rounding error of a logit is below this.
LOGIT_ERROR = {torch.float32: 1e-8, torch.float64: 1e-12}
# Distances are also computed from inner products if the norm of the noisy image exceeds the norms of all training
# images by this factor, because subtracting the images pixel by pixel would then lose more digits.
DISTANT = 4


@dataclass(frozen=True)
class Group:
    """Noisy images that share a class label.

    rows: indices of the noisy images in the batch. chosen: range of the class's training rows on this rank.
    size: number of training images in the class, over all ranks. label: the class, or -1 for all classes.
    """

    rows: Tensor | slice
    chosen: tuple[int, int]
    size: int
    label: int


@dataclass(eq=False, repr=False, kw_only=True)
class Streamed(ClosedForm):
    """A denoiser that reads its training set as `ImageRows`, all at once or block by block.

    images: uint8 [N, C, R, R]; a NumPy memory map is read block by block and never held in memory. If the images are
    sharded `ImageRows`, all ranks must make the same calls, and each gets the result for the complete training set.
    labels: int64 [N] or None. With labels, class_labels restrict the training set to the images of one class.
    device: the device to compute on. precision: 'fp32' or 'fp64'; see the subclasses.
    Raises UserError if the training set is empty or too large for the device, or if its images are not square.
    """

    takes_shards = True

    precision: str = 'fp32'

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision not in ('fp32', 'fp64'):
            raise UserError(f'`precision`={self.precision} is not available for closed forms; give fp32 or fp64')
        images, device = self.images, torch.device(self.device)
        labels = checked_labels(self.labels, self.num_images)
        self.rows = images if isinstance(images, ImageRows) else ImageRows(images, labels, device)
        self.images = self.rows  # so that the memory of the given images can be freed
        self.float64 = self.precision == 'fp64'
        # These numbers are totals over all ranks.
        self.num_images, self.class_sizes = self.rows.num_images, self.rows.class_sizes
        self.label_dim = max(self.class_sizes, default=-1) + 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.img_channels, self.img_resolution, self.img_resolution

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """Return the denoised images, in the shape of x. They are float64 if x is float64, otherwise float32.

        x: float [B, C, R, R]. sigma: > 0, a scalar or [B]. class_labels: one-hot [B, label_dim], int64 [B], or None for
        all classes.
        Raises UserError if x or sigma is not finite, if sigma is not positive, or if a class has no training images.
        """
        z, variance = self._in_pixels(x, sigma)
        for group in self._groups(class_labels, len(x)):
            z[group.rows] = self._denoise(z[group.rows], variance[group.rows], group)
        return self._as_images(z, x)

    def _denoise(self, z: Tensor, variance: Tensor, group: Group) -> Tensor:
        """Denoise a group's rows, one noise level at a time.

        z: noisy rows in pixel units, float64 [B, P]. variance: noise variance, float64 [B].
        """
        denoised = torch.empty_like(z)
        for level in variance.unique():
            same = variance == level
            denoised[same] = self._denoise_level(z[same], float(level), group)
        return denoised

    def _denoise_level(self, z: Tensor, variance: float, group: Group) -> Tensor:
        """Denoise rows that share one noise level; subclasses implement this or `_denoise`."""
        raise NotImplementedError

    def _groups(self, class_labels: Tensor | None, count: int) -> list[Group]:
        """Group noisy images by their class."""
        classes = self._classes(class_labels, count)
        if classes is None or not count:
            return [self._group(-1)]
        return [
            dataclasses.replace(self._group(label), rows=(classes == label).nonzero()[:, 0])
            for label in classes.unique().tolist()
        ]

    def _group(self, label: int) -> Group:
        """The group of all noisy images, with the training images of class `label` (of all classes if it is -1)."""
        if label < 0:
            return Group(slice(None), (0, len(self.rows)), self.num_images, label)
        return Group(slice(None), self.rows.ranges.get(label, (0, 0)), self.class_sizes[label], label)

    def _blocks(self, group: Group, size: int) -> Iterator[Tensor]:
        """Yield the group's training images, in pixel units and in blocks of at most `size`, float64 [n, P]."""
        for _, rows in self.rows.blocks(*group.chosen, size):
            yield rows.to(torch.float64)

    def _columns(self, group: Group, size: int) -> Iterator[Tensor]:
        """Like `_blocks`, but with images as columns, float64 [P, n]."""
        for _, rows in self.rows.blocks(*group.chosen, size):
            yield rows.t().contiguous().to(torch.float64)

    def _by_products(self, z: Tensor, variance: float) -> list[bool]:
        """Decide for each noisy row of z whether distances computed from inner products are accurate enough."""
        length, longest = z.norm(dim=1), self.rows.highest_norm.sqrt()
        rounding = torch.finfo(torch.float64).eps * length * longest / variance
        return ((rounding < LOGIT_ERROR[self._weight_dtype]) | (length > DISTANT * longest)).tolist()

    @property
    def _cached_images(self) -> int:
        """Number of images per block for tensors that have one element per pixel of each image."""
        return max(for_device(BLOCK_NUMBERS, self.rows.device) // self.img_resolution**2, 1)

    @property
    def _weight_dtype(self) -> torch.dtype:
        return torch.float64 if self.float64 else torch.float32


class PosteriorMeans:
    """Softmax-weighted means of candidate values; `add` adds the candidates block by block.

    There is one mean for each query, such as a noisy pixel or patch.
    shape: shape of the array of queries. num_values: values per candidate; 0 computes only the normalizers.
    dtype: dtype of weights and of sums within a block; logits and sums over blocks are float64.
    Weights are divided by the query's largest weight so far; otherwise, all weights of a query that is far from every
    candidate could underflow.
    """

    def __init__(self, shape: tuple[int, ...], num_values: int, dtype: torch.dtype, device: torch.device):
        self.dtype = dtype
        self.reference = torch.full(shape, -math.inf, dtype=torch.float64, device=device)
        self.total = torch.zeros_like(self.reference)
        self.weighted = self.total.new_zeros([*shape, num_values])

    def add(self, logits: Tensor, values: Tensor | None = None, place: tuple[slice | int, ...] = ()) -> None:
        """Add a block of n >= 1 candidates.

        logits: float64 [*shape, n], overwritten. values: `dtype` [V, *shape, n], or broadcastable to this shape.
        place: index that selects some of the queries; all by default.
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
        """If sharded, combine the candidates of all ranks; the result is bitwise identical on every rank."""
        if sharded:
            parts = gather_tensors(torch.cat([self.reference[..., None], self.total[..., None], self.weighted], dim=-1))
            self.reference = parts[..., 0].amax(dim=0)
            sums = ((parts[..., 0] - self.reference).exp()[..., None] * parts[..., 1:]).sum(dim=0)
            self.total, self.weighted = sums[..., 0], sums[..., 1:]
        return self

    @property
    def mean(self) -> Tensor:
        """The posterior means, float64 [*shape, V]."""
        return self.weighted / self.total[..., None]

    def weights(self, logits: Tensor, place: tuple[slice | int, ...] = ()) -> Tensor:
        """The normalized weights of candidates. Call this after all blocks have been added. Arguments: see `add`."""
        return self._powers(logits, self.reference[place]).div_(self.total[place][..., None])

    def _powers(self, logits: Tensor, reference: Tensor) -> Tensor:
        """exp(logits - reference) in `dtype`, computed by exp2 because exp is slow when results underflow."""
        return logits.sub_(reference[..., None]).mul_(math.log2(math.e)).to(self.dtype).exp2_()


def gather_tensors(tensor: Tensor) -> Tensor:
    """Stack the tensors of all ranks into [ranks, …] on every rank; they must have the same shape."""
    if distributed.world_size() == 1:
        return tensor[None]
    parts = [torch.empty_like(tensor) for _ in range(distributed.world_size())]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)
