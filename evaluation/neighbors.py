"""Exact nearest neighbours of 8-bit images: integer distances, no approximation, one pass over the references.

Pixels minus 128 fit in int8. Products of int8 matrices with int32 accumulators are exact, and they are the fastest that
CPUs and GPUs offer. References are compared in blocks; on a CPU, a block's distances fit in the cache. In each block,
the lowest distance is found for every query; the k lowest distances are found only for queries whose neighbours change.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dataset_utils.sources.base import copies_of
from torch_utils import distributed
from torch_utils.int8 import int8_matmul
from torch_utils.misc import for_device
from training.closed_form.rows import ImageRows, as_rows

# Numbers of queries and references in a block, and the largest number of pixel values in either. On a CPU, a block's
# 2 MiB of int32 distances fit in a core's cache. On a GPU, the kernels of such a small block would take longer to
# launch than to run; the larger block needs about 0.8 GiB in total.
BLOCK = {'cpu': (512, 1024, 1 << 24), 'cuda': (2048, 1 << 15, 1 << 27)}
# Number of pixels processed at a time when references are converted to int8.
PREPARED_PIXELS = 1 << 20
# For images q, r with this many int8 pixels, |r|² - 2 q·r fits in 31 bits: a pixel contributes at most 3 · 2^14.
MAX_PIXELS = (2**31 - 1) // (3 * 2**14)
# Placeholder for the distances of missing neighbours; a process (rank) can hold fewer than k references.
_MISSING = torch.iinfo(torch.int64).max

Images = Tensor | np.ndarray


def nearest_neighbors(queries: Images, references: Images, k: int = 2) -> tuple[Tensor, Tensor]:
    """Find the k nearest references of each query, nearest first; on ties, the lowest index comes first.

    queries: uint8 [N, …]. references: images of the same shape, uint8 [M, …] with M >= k. Tensors can be on any device;
    the computation runs on the references' device.
    Returns the indices and the exact squared pixel distances, int64 [N, k] each, on the queries' device.
    """
    return NeighborIndex(references).query(queries, k)


class NeighborIndex:
    """References prepared for many queries.

    references: uint8 [M, …], or `ImageRows`, which are read block by block. If `ImageRows` are sharded, all ranks must
        make the same queries; they get the same neighbours, with indices into the whole set.
    device: the device that compares uint8 references. [default: the references' device]
    distinct: whether equal references count once, with the lowest of their indices.
    mirrored: whether queries are also compared with the mirror image of each reference (uint8 [C, H, W]); the smaller
        distance is used. With `distinct`, references that are mirror images of each other then count as equal. Not
        available for `ImageRows`.

    num_references: number of references on all ranks. len(): number of references that queries are compared with,
        on all ranks (with `distinct`, equal references count once).
    """

    def __init__(
        self,
        references: Images | ImageRows,
        device: torch.device | str | None = None,
        distinct: bool = False,
        mirrored: bool = False,
    ):
        self.mirrored = mirrored
        self.sharded = isinstance(references, ImageRows) and references.sharded
        assert not (mirrored and isinstance(references, ImageRows))
        assert distinct or not self.sharded
        # Maps a slice of this rank's compared references to their rows, int8 [n, P].
        self.rows: Callable[[slice], Tensor]
        if isinstance(references, ImageRows):
            places = references.order.argsort()  # where each image is stored
            keys = references.keys[places].cpu() if distinct else None
            self.device, self.num_pixels = references.device, references.num_pixels
            self.index = self._compared(len(references), keys).to(self.device)
            places = places[self.index]
            self.rows = lambda part: references.rows(places[part])
            self.norms = references.norms[places].to(self.dtype)
        else:
            pixels = torch.as_tensor(references)
            assert pixels.dtype == torch.uint8, 'images must be uint8'
            self.device, self.num_pixels = torch.device(device or pixels.device), pixels[:1].numel()
            self.index = self._compared(len(pixels), equal_images(pixels, mirrored) if distinct else None)
            rows = torch.empty([len(self.index), self.num_pixels], dtype=torch.int8, device=self.device)
            size = prepared_rows(self.num_pixels)  # a few at a time, to keep only one copy in memory
            for part, index in zip(rows.split(size), self.index.to(pixels.device).split(size), strict=True):
                part.copy_(as_rows(pixels[index].to(self.device)))
            self.index = self.index.to(self.device)
            self.rows, self.norms = rows.__getitem__, squared_norms(rows, self.dtype)

    def _compared(self, count: int, keys: Tensor | None) -> Tensor:
        """Indices of the references that this rank compares, in ascending order, int64.

        keys: only the first reference with each key is compared; if None, all references are compared.
        """
        self.num_references = self.size = count
        self.offset = 0  # index of this rank's first reference in the whole set
        if keys is None:
            return torch.arange(count)
        parts = distributed.gather(keys) if self.sharded else [keys]
        self.offset = sum(len(part) for part in parts[: distributed.rank()]) if self.sharded else 0
        firsts = np.unique(torch.cat(parts).numpy(), return_index=True)[1]
        self.num_references, self.size = sum(map(len, parts)), len(firsts)
        mine = np.sort(firsts[(firsts >= self.offset) & (firsts < self.offset + count)])
        return torch.from_numpy(mine - self.offset)

    @property
    def block_size(self) -> int:
        """Number of references in a block; smaller for large images, because the matrix product copies the block."""
        _, references, pixels = for_device(BLOCK, self.device)
        return max(1, min(references, pixels // self.num_pixels))

    @property
    def query_size(self) -> int:
        """Number of queries compared at a time."""
        queries, _, pixels = for_device(BLOCK, self.device)
        return max(1, min(queries, pixels // self.num_pixels))

    @property
    def dtype(self) -> torch.dtype:
        """The integer type for squared distances minus the query's squared norm."""
        return torch.int32 if self.num_pixels <= MAX_PIXELS else torch.int64

    def __len__(self) -> int:
        return self.size

    def query(self, queries: Images, k: int = 2) -> tuple[Tensor, Tensor]:
        """Find the k nearest references of each query; see `nearest_neighbors`. queries: uint8 [N, …]."""
        assert 1 <= k <= len(self), f'{k} neighbours need at least {k} references, not {len(self)}'
        pixels = self._checked(queries)
        found = [self._query_block(block, k) for block in pixels.split(self.query_size)]
        if not found:
            empty = torch.empty([0, k], dtype=torch.int64, device=pixels.device)
            return empty, empty.clone()
        index, distance = (torch.cat(parts).to(pixels.device) for parts in zip(*found, strict=True))
        if not self.sharded:
            return index, distance
        # Of equal distances, the one in the first column is chosen. Its reference has the lowest index, because the
        # columns are in rank order and ranks hold consecutive references.
        parts = zip(*distributed.gather((index.cpu(), distance.cpu())), strict=True)
        index, distance = (torch.cat(part, dim=1) for part in parts)
        distance, column = lowest(distance, k)
        return index.gather(1, column).to(pixels.device), distance.to(pixels.device)

    def count_within(self, queries: Images, squared_radii: Tensor) -> tuple[Tensor, Tensor]:
        """For each query, count the references whose balls contain it (or, with `mirrored`, its mirror image).

        squared_radii: the squared radius of each reference's ball, int64 [M], in squared pixel levels.
        Returns the counts for open balls and for closed balls, int64 [N] each. They are exact; computing them takes as
        much memory as `query`.
        """
        pixels = self._checked(queries)
        assert len(squared_radii) == len(self) == self.num_references, 'one radius for each reference'
        # A query q is inside the ball around r if |r|² - radius² - 2 q·r < -|q|². Because of the radius, the left side
        # can need one bit more than the distances in `query`.
        dtype = torch.int32 if 2 * self.num_pixels <= MAX_PIXELS else torch.int64
        radii = squared_radii.to(self.device).clamp(max=self.num_pixels * 2**16)
        offsets = (self.norms.to(torch.int64) - radii).to(dtype)
        counts = [self._count_block(block, offsets) for block in pixels.split(self.query_size)]
        below, within = torch.cat(counts, dim=1).to(pixels.device)
        return below, within

    def _checked(self, queries: Images) -> Tensor:
        pixels = torch.as_tensor(queries)
        assert pixels.dtype == torch.uint8, 'images must be uint8'
        assert pixels.numel() == len(pixels) * self.num_pixels, 'queries and references differ in shape'
        return pixels

    def _versions(self, pixels: Tensor) -> list[Tensor]:
        """Queries and, with `mirrored`, their mirror images, int8 [Q, P] each.

        Mirroring the queries instead of the references gives the same distances.
        """
        pixels = pixels.to(self.device)
        return [as_rows(pixels), as_rows(pixels.flip(-1))] if self.mirrored else [as_rows(pixels)]

    def _scores(self, versions: list[Tensor], offsets: Tensor, block: slice) -> Tensor:
        """The lowest value of offset - 2 q·r among the versions q of each query, for the references r in a block."""
        columns = self.rows(block).t()
        products = int8_matmul(versions[0], columns)
        for queries in versions[1:]:
            torch.maximum(products, int8_matmul(queries, columns), out=products)
        return torch.sub(offsets[block], products.to(offsets.dtype), alpha=2)

    def _count_block(self, pixels: Tensor, offsets: Tensor) -> Tensor:
        versions = self._versions(pixels)
        queries = versions[0]
        limit = -squared_norms(queries, offsets.dtype)[:, None]
        counts = torch.zeros([2, len(queries)], dtype=torch.int64, device=queries.device)
        for start in range(0, len(self.index), self.block_size):
            block = slice(start, start + self.block_size)
            scores = self._scores(versions, offsets, block)
            counts[0] += (scores < limit).sum(dim=1)
            counts[1] += (scores <= limit).sum(dim=1)
        return counts

    def _query_block(self, pixels: Tensor, k: int) -> tuple[Tensor, Tensor]:
        versions = self._versions(pixels)
        queries = versions[0]
        missing = torch.iinfo(self.dtype).max
        best = torch.full([len(queries), k], missing, dtype=self.dtype, device=self.device)
        position = torch.zeros([len(queries), k], dtype=torch.int64, device=self.device)
        for start in range(0, len(self.index), self.block_size):
            block = slice(start, start + self.block_size)
            # |r|² - 2 q·r: the squared distance minus |q|², which is the same for all references.
            scores = self._scores(versions, self.norms, block)
            closer = (scores.amin(dim=1) < best[:, -1]).nonzero()[:, 0]
            if len(closer):
                merged = torch.cat([best[closer], scores[closer]], dim=1)
                best[closer], place = lowest(merged, k)
                earlier = position[closer].gather(1, place.clamp(max=k - 1))
                position[closer] = torch.where(place < k, earlier, place - k + start)
        distance = best.to(torch.int64) + squared_norms(queries, torch.int64)[:, None]
        return self.index[position] + self.offset, torch.where(best == missing, _MISSING, distance)


def equal_images(pixels: Tensor, mirrored: bool = False) -> Tensor:
    """For each image, the position of the first image that equals it, int64 [N]. pixels: uint8 [N, …].

    mirrored: whether images that are mirror images of each other also count as equal.
    """
    blocks = pixels.split(prepared_rows(pixels[:1].numel()))
    versions = map(first_versions, blocks) if mirrored else blocks
    return torch.tensor(copies_of(row for block in versions for row in block.cpu().numpy()), dtype=torch.int64)


def first_versions(pixels: Tensor) -> Tensor:
    """Of each image and its mirror image, select the first in lexicographic order: uint8 [N, …, W] -> [N, P]."""
    rows, mirrored = pixels.flatten(1), pixels.flip(-1).flatten(1)
    place = (rows != mirrored).to(torch.uint8).argmax(dim=1, keepdim=True)
    return torch.where(mirrored.gather(1, place) < rows.gather(1, place), mirrored, rows)


def prepared_rows(num_pixels: int) -> int:
    return max(1, PREPARED_PIXELS // max(1, num_pixels))


def squared_norms(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Exact squared norms of rows: int8 [N, P] -> [N]."""
    norms = torch.empty([len(rows)], dtype=dtype, device=rows.device)
    # Filled in place, because small tensors allocated between large ones would keep the heap from shrinking.
    size = prepared_rows(rows.shape[1])
    for part, block in zip(norms.split(size), rows.split(size), strict=True):
        torch.sum(block.to(dtype).square(), dim=1, dtype=dtype, out=part)
    return norms


def lowest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k lowest values of each row, ascending, and their columns; equal values stay in column order."""
    values, lows, places = values.clone(), [], []
    for _ in range(k):
        low, place = values.min(dim=1, keepdim=True)
        values.scatter_(1, place, torch.iinfo(values.dtype).max)
        lows.append(low)
        places.append(place)
    return torch.cat(lows, dim=1), torch.cat(places, dim=1)
