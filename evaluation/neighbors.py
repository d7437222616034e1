"""Exact nearest neighbours of 8-bit images: integer distances, no approximation, no second pass over the data.

Pixels minus 128 are int8, and products of int8 matrices with int32 accumulators are exact and the fastest that CPUs and
GPUs do. References are compared in blocks whose distances stay in the cache; only queries that a block brings closer
look at it twice.
"""

import numpy as np
import torch
from torch import Tensor

from torch_utils.int8 import int8_matmul

# Distances of one block of queries to one block of references: 2 MiB of int32, which stay in a core's cache.
QUERY_BLOCK = 512
REFERENCE_BLOCK = 1024
# Squared norms and products of so many int8 pixels fit into 31 bits together: 3 · 2^14 each.
MAX_PIXELS = (2**31 - 1) // (3 * 2**14)
# int8 products are summed in int64 over parts of so many pixels where MAX_PIXELS are exceeded.
_PART = 2**16

Images = Tensor | np.ndarray


def nearest_neighbors(queries: Images, references: Images, k: int = 2) -> tuple[Tensor, Tensor]:
    """The k nearest references of each query, nearest first, ties by lowest index.

    queries: uint8 [N, …]. references: uint8 [M, …] of the same pixels, M >= k; torch tensors may be on any device, and
    the work is done on that of the references.
    Returns the indices int64 [N, k] and the exact squared pixel distances int64 [N, k], on the queries' device.
    """
    return NeighborIndex(references).query(queries, k)


class NeighborIndex:
    """References, prepared for many queries: uint8 [M, …] on the device where queries are to be compared."""

    def __init__(self, references: Images, device: torch.device | str | None = None):
        pixels = torch.as_tensor(references)
        assert pixels.dtype == torch.uint8, 'images must be uint8'
        self.references = shifted(pixels.to(device or pixels.device))  # int8 [M, P]
        self.num_pixels = pixels[0].numel() if len(pixels) else 0
        self.dtype = torch.int32 if self.num_pixels <= MAX_PIXELS else torch.int64
        self.norms = squared_norms(self.references, self.dtype)

    def __len__(self) -> int:
        return len(self.references)

    def query(self, queries: Images, k: int = 2) -> tuple[Tensor, Tensor]:
        """As `nearest_neighbors`, without preparing the references again."""
        assert 1 <= k <= len(self), f'{len(self)} references have no {k} neighbours'
        pixels = torch.as_tensor(queries)
        assert pixels.dtype == torch.uint8, 'images must be uint8'
        assert pixels.numel() == len(pixels) * self.num_pixels, 'queries and references differ in shape'
        found = [self._query_block(block, k) for block in pixels.split(QUERY_BLOCK)]
        if not found:
            empty = torch.empty([0, k], dtype=torch.int64, device=pixels.device)
            return empty, empty.clone()
        index, distance = (torch.cat(parts).to(pixels.device) for parts in zip(*found, strict=True))
        return index, distance

    def count_within(self, queries: Images, squared_radii: Tensor) -> tuple[Tensor, Tensor]:
        """In how many of the balls around references each query lies: int64 [N] without and [N] with their surface.

        squared_radii: int64 [M], one for each reference, in squared pixel levels. Exact, in the memory of `query`.
        """
        pixels = torch.as_tensor(queries)
        assert pixels.dtype == torch.uint8, 'images must be uint8'
        assert pixels.numel() == len(pixels) * self.num_pixels, 'queries and references differ in shape'
        assert len(squared_radii) == len(self), 'one radius for each reference'
        # A squared distance lies inside where norm - radius - 2 · product is below the query's negative norm; these
        # numbers need a bit more than those of `query`.
        dtype = torch.int32 if 2 * self.num_pixels <= MAX_PIXELS else torch.int64
        radii = squared_radii.to(self.norms.device).clamp(max=self.num_pixels * 2**16)
        offsets = (self.norms.to(torch.int64) - radii).to(dtype)
        counts = [self._count_block(block, offsets) for block in pixels.split(QUERY_BLOCK)]
        below, within = torch.cat(counts, dim=1).to(pixels.device)
        return below, within

    def _count_block(self, pixels: Tensor, offsets: Tensor) -> Tensor:
        queries = shifted(pixels.to(self.references.device))
        limit = -squared_norms(queries, offsets.dtype)[:, None]
        counts = torch.zeros([2, len(queries)], dtype=torch.int64, device=queries.device)
        for start in range(0, len(self.references), REFERENCE_BLOCK):
            block = slice(start, start + REFERENCE_BLOCK)
            scores = torch.sub(
                offsets[block], self.products(queries, self.references[block]).to(offsets.dtype), alpha=2
            )
            counts[0] += (scores < limit).sum(dim=1)
            counts[1] += (scores <= limit).sum(dim=1)
        return counts

    def _query_block(self, pixels: Tensor, k: int) -> tuple[Tensor, Tensor]:
        queries = shifted(pixels.to(self.references.device))
        # Without the queries' own norms, which change no order.
        best = torch.full([len(queries), k], torch.iinfo(self.dtype).max, dtype=self.dtype, device=queries.device)
        index = torch.zeros([len(queries), k], dtype=torch.int64, device=queries.device)
        for start in range(0, len(self.references), REFERENCE_BLOCK):
            block = slice(start, start + REFERENCE_BLOCK)
            scores = torch.sub(self.norms[block], self.products(queries, self.references[block]), alpha=2)
            closer = (scores.amin(dim=1) < best[:, -1]).nonzero()[:, 0]
            if len(closer):
                merged = torch.cat([best[closer], scores[closer]], dim=1)
                best[closer], place = lowest(merged, k)
                earlier = index[closer].gather(1, place.clamp(max=k - 1))
                index[closer] = torch.where(place < k, earlier, place - k + start)
        distance = best.to(torch.int64) + squared_norms(queries, torch.int64)[:, None]
        return index, distance

    def products(self, queries: Tensor, references: Tensor) -> Tensor:
        """Exact products of int8 [N, P] and [M, P]: [N, M] of the dtype of the norms."""
        if self.dtype == torch.int32:
            return int8_matmul(queries, references.t())
        parts = zip(queries.split(_PART, 1), references.split(_PART, 1), strict=True)
        return torch.stack([int8_matmul(q, r.t()).to(self.dtype) for q, r in parts]).sum(dim=0)


def shifted(pixels: Tensor) -> Tensor:
    """uint8 [N, …] as int8 [N, P], 128 less each, which changes no distance."""
    return (pixels.flatten(1) ^ 128).view(torch.int8)


def squared_norms(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Exact squared norms of rows: int8 [N, P] -> [N]."""
    norms = [block.to(dtype).square().sum(dim=1, dtype=dtype) for block in pixels.split(1024)]
    return torch.cat(norms) if norms else torch.empty([0], dtype=dtype, device=pixels.device)


def lowest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k lowest values of each row, ascending, and their places; of equal values the first."""
    values, lows, places = values.clone(), [], []
    for _ in range(k):
        low, place = values.min(dim=1, keepdim=True)
        values.scatter_(1, place, torch.iinfo(values.dtype).max)
        lows.append(low)
        places.append(place)
    return torch.cat(lows, dim=1), torch.cat(places, dim=1)
