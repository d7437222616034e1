"""A training set as int8 rows, which are kept on a device or read from disk block by block.

A row contains the pixel values of an image minus 128. Images of the same class are stored together, so each class is a
range of rows. Quantities that do not depend on a noisy image, such as the norms of rows, are computed once.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from dataset_utils import Source
from dataset_utils.sources.base import require_square
from dataset_utils.sources.partial import PartialSource
from dnnlib.util import UserError
from torch_utils import distributed
from torch_utils.misc import require_memory

# Number of rows that are read and prepared at a time.
READ_ROWS = 256
# Largest number of rows per block; the sum of this many int8 products fits in int32.
MAX_BLOCK = 1 << 16


class ImageRows:
    """Images as int8 rows [N, P], for closed forms and nearest-neighbour search.

    images: uint8 [N, C, R, R], N >= 1. A NumPy memory map stays on disk and is read block by block; other images are
    copied to the device, a few rows at a time. labels: int64 [N] >= 0 or None.
    sharded: whether the images are this rank's shard of a training set that is split over the ranks in order.
    on_disk: whether `images` is a tensor backed by a memory map; such a tensor also stays on disk.
    Raises UserError if the device has too little memory; if images are sharded, all ranks raise it together.

    Attributes. If sharded, num_images, class_sizes, mean and highest_norm describe the images of all ranks, and all
    other attributes describe the images of this rank.
    num_images: number of images. class_sizes: number of images in each class.
    order: index of the image at each row position, int64 [N]. offset: index of this rank's first image in the complete
    training set.
    ranges: each class's range of row positions.
    norms: squared norms of rows, float64 [N]. highest_norm: their maximum. mean: the mean row, float64 [P].
    keys: hashes of the images, int64 [N].
    pixel_dither, weight_dither: dither (float64 [P] and float32 [MAX_BLOCK]); see `int8_digits`.
    dither_products: inner products of the rows with 1/2 - pixel_dither, float32 [N].
    """

    ndim, dtype = 4, torch.uint8

    def __init__(
        self,
        images: 'Images',
        labels: Tensor | None,
        device: torch.device,
        sharded: bool = False,
        on_disk: bool = False,
    ):
        self.device, self.labels, self.sharded = device, labels, sharded
        self.shape: tuple[int, ...] = tuple(images.shape)
        order, self.ranges = class_ranges(labels, len(images))
        self.order, self.offset = order.to(device), 0
        self.num_images = len(images)
        self.class_sizes = Counter({c: stop - start for c, (start, stop) in self.ranges.items()})
        self.source = images if on_disk or isinstance(images, np.memmap) else None
        self.resident: Tensor | None = None
        if self.source is None:
            load = lambda: self._load(images)  # noqa: E731
            self.resident = distributed.on_every_rank(load) if sharded else load()
        random = torch.Generator().manual_seed(0)  # a fixed seed: the dither must not depend on images
        self.pixel_dither = torch.rand([self.num_pixels], generator=random, dtype=torch.float64).to(device)
        self.weight_dither = torch.rand([MAX_BLOCK], generator=random).to(device)
        self.norms, self.keys, self.dither_products, self.mean = self._prepare(random)
        self.highest_norm = self.norms.amax()
        if sharded:
            self._join_shards()

    def _join_shards(self) -> None:
        """Combine sizes, means and norms over the ranks, so that all ranks choose the same algorithm."""
        shards = distributed.gather((len(self), self.class_sizes, self.mean.cpu(), self.highest_norm.cpu()))
        sizes = [size for size, _, _, _ in shards]
        self.num_images = sum(sizes)
        self.class_sizes = sum((part for _, part, _, _ in shards), Counter())
        self.offset = sum(sizes[: distributed.rank()])
        means = torch.stack([size / self.num_images * mean for size, _, mean, _ in shards])
        self.mean = means.sum(dim=0).to(self.device)
        self.highest_norm = torch.stack([norm for _, _, _, norm in shards]).amax().to(self.device)

    def __len__(self) -> int:
        return len(self.order)

    @property
    def num_pixels(self) -> int:
        return int(np.prod(self.shape[1:]))

    def block(self, start: int, stop: int) -> Tensor:
        """Rows start … stop - 1 in storage order, int8 [stop - start, P]."""
        if self.resident is not None:
            return self.resident[start:stop]
        assert self.source is not None
        return as_rows(taken(self.source, self.order[start:stop]).to(self.device))

    def rows(self, positions: Tensor) -> Tensor:
        """Return the rows at K positions: int64 [K] -> int8 [K, P]."""
        if self.resident is not None:
            return self.resident[positions]
        assert self.source is not None
        # Each row is read only once, and in file order.
        index, place = self.order[positions].cpu().unique(return_inverse=True)
        return as_rows(taken(self.source, index)).to(self.device)[place.to(self.device)]

    def blocks(self, start: int, stop: int, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yield blocks of at most `size` rows, each with the position of its first row."""
        for first in range(start, stop, size):
            yield first, self.block(first, min(first + size, stop))

    def _load(self, images: 'Images') -> Tensor:
        remedy = 'split them over more ranks with `sharded`, or give `data` as an .npy file, which stays on disk'
        require_memory(len(images) * self.num_pixels, self.device, 'the training images', f'; {remedy}')
        rows = torch.empty([len(images), self.num_pixels], dtype=torch.int8, device=self.device)
        for first in range(0, len(images), READ_ROWS):
            part = taken(images, self.order[first : first + READ_ROWS])
            rows[first : first + len(part)] = as_rows(part.to(self.device))
        return rows

    def _prepare(self, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute `norms`, `keys`, `dither_products` and `mean`; see the class."""
        limits = torch.iinfo(torch.int64)
        factors = torch.randint(limits.min, limits.max, [self.num_pixels], generator=random).to(self.device)
        dither = (0.5 - self.pixel_dither).to(torch.float32)
        # Results are filled in place, because small tensors allocated between large ones keep the heap from shrinking.
        norms = torch.empty([len(self)], dtype=torch.float64, device=self.device)
        keys = torch.empty([len(self)], dtype=torch.int64, device=self.device)
        products = torch.empty([len(self)], device=self.device)
        total = torch.zeros([self.num_pixels], dtype=torch.int64, device=self.device)
        for first, rows in self.blocks(0, len(self), READ_ROWS):
            numbers, here = rows.to(torch.int64), slice(first, first + len(rows))
            norms[here] = numbers.square().sum(dim=1)
            # A random linear hash modulo 2^64: two different images have the same hash with probability at most 2^-56.
            keys[here] = (numbers * factors).sum(dim=1)
            products[here] = rows.to(torch.float32) @ dither
            total += numbers.sum(dim=0)
        return norms, keys, products, total.to(torch.float64) / len(self)


Images = Tensor | np.ndarray | PartialSource | ImageRows


def rows_of(source: Source, labels: Tensor | None, device: torch.device, sharded: bool = False) -> ImageRows:
    """Load the images of a source as `ImageRows`; with `sharded`, each rank decodes and holds only its own shard.

    A memory-mapped source is left on disk and read as needed, unless `sharded` is set.
    labels: int64, one per image of the source, or None.
    Raises UserError if images are not square or differ in size, if a device has too little memory, or if there are
    fewer images than ranks.
    """
    rank, world_size = (distributed.rank(), distributed.world_size()) if sharded else (0, 1)
    size = len(source)
    if size < world_size:
        raise UserError(f'`sharded`: {size} training images cannot be split over {world_size} ranks; use fewer ranks')
    part = range(size * rank // world_size, size * (rank + 1) // world_size)
    mapped = getattr(source, 'images', None)
    images: Images
    if isinstance(mapped, np.memmap) and not sharded:
        require_square(source.where, mapped.shape[1:])
        images = mapped.transpose(0, 3, 1, 2)
    else:
        images = PartialSource(source, part, progress=distributed.is_main())
    labels = None if labels is None else labels[part.start : part.stop]
    return ImageRows(images, labels, device, sharded)


def taken(images: Images, index: Tensor) -> Tensor:
    """Return the images at K indices: int64 [K] -> uint8 [K, C, H, W]."""
    if isinstance(images, ImageRows):
        rows = images.rows(images.order.argsort()[index.to(images.device)])
        return (rows.view(torch.uint8) ^ 128).unflatten(1, images.shape[1:])
    if isinstance(images, Tensor):
        return images[index.to(images.device)]
    return torch.from_numpy(images[index.cpu().numpy()])


def as_rows(images: Tensor) -> Tensor:
    """Convert uint8 [N, …] to int8 [N, P] by subtracting 128."""
    return (images.flatten(1) ^ 128).view(torch.int8)


def class_ranges(labels: Tensor | None, count: int) -> tuple[Tensor, dict[int, tuple[int, int]]]:
    """Sort images by class; images of one class keep their order.

    Returns the image indices in sorted order (int64 [N]), and the range (start, stop) of each class in that order.
    Without labels, the order is 0 … count - 1 and there are no ranges.
    """
    if labels is None:
        return torch.arange(count), {}
    sorted_labels, order = labels.cpu().sort(stable=True)
    classes, sizes = sorted_labels.unique_consecutive(return_counts=True)
    stops = sizes.cumsum(0).tolist()
    starts = [0, *stops[:-1]]
    return order, {c: (a, b) for c, a, b in zip(classes.tolist(), starts, stops, strict=True)}
