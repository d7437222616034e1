"""Exact nearest neighbours of 8-bit images: integer distances, no approximation, no second pass over the data.

Pixels minus 128 are int8, and products of int8 matrices with int32 accumulators are exact and the fastest that CPUs and
GPUs do. References are compared in blocks whose distances stay in the cache; only queries that a block brings closer
look at it twice.
"""

import numpy as np
import torch
from torch import Tensor

# Distances of one block of queries to one block of references: 2 MiB of int32, which stay in a core's cache.
QUERY_BLOCK = 512
REFERENCE_BLOCK = 1024
# Squared norms and products of so many int8 pixels fit into 31 bits together: 3 · 2^14 each.
MAX_PIXELS = (2**31 - 1) // (3 * 2**14)
# Sums of so many products of int8 are exact in float32.
_EXACT_IN_FLOAT32 = 2**24 // 2**14

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

    def _query_block(self, pixels: Tensor, k: int) -> tuple[Tensor, Tensor]:
        queries = shifted(pixels.to(self.references.device))
        # Without the queries' own norms, which change no order.
        best = torch.full([len(queries), k], torch.iinfo(self.dtype).max, dtype=self.dtype, device=queries.device)
        index = torch.zeros([len(queries), k], dtype=torch.int64, device=queries.device)
        for start in range(0, len(self.references), REFERENCE_BLOCK):
            block = slice(start, start + REFERENCE_BLOCK)
            products = int8_product(queries, self.references[block])
            scores = torch.sub(self.norms[block], products.to(self.dtype), alpha=2)
            closer = (scores.amin(dim=1) < best[:, -1]).nonzero()[:, 0]
            if len(closer):
                merged = torch.cat([best[closer], scores[closer]], dim=1)
                best[closer], place = lowest(merged, k)
                earlier = index[closer].gather(1, place.clamp(max=k - 1))
                index[closer] = torch.where(place < k, earlier, place - k + start)
        distance = best.to(torch.int64) + squared_norms(queries, torch.int64)[:, None]
        return index, distance


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


def int8_product(a: Tensor, b: Tensor) -> Tensor:
    """Exact a · b^T of int8 [N, P] and [M, P]: int32 [N, M], or int64 where int32 could overflow."""
    if a.shape[1] <= MAX_PIXELS:
        padded_a, padded_b = padded_for_device(a), padded_for_device(b)
        try:
            return torch._int_mm(padded_a, padded_b.t())[: len(a), : len(b)]
        except (RuntimeError, AttributeError, NotImplementedError):
            pass  # the device has no int8 product, or none of this shape
    total = torch.zeros([len(a), len(b)], dtype=torch.int64, device=a.device)
    for part_a, part_b in zip(a.split(_EXACT_IN_FLOAT32, 1), b.split(_EXACT_IN_FLOAT32, 1), strict=True):
        total += (part_a.to(torch.float32) @ part_b.to(torch.float32).t()).to(torch.int64)
    return total if a.shape[1] > MAX_PIXELS else total.to(torch.int32)


def padded_for_device(rows: Tensor) -> Tensor:
    """Rows with zeros added: CUDA's int8 product wants more than 16 rows and multiples of 8, that of CPUs 2 pixels."""
    extra_rows, extra_pixels = 0, max(2 - rows.shape[1], 0)
    if rows.device.type == 'cuda':
        extra_rows, extra_pixels = max(24 - len(rows), -len(rows) % 8), -rows.shape[1] % 8
    return torch.nn.functional.pad(rows, [0, extra_pixels, 0, extra_rows]) if extra_rows or extra_pixels else rows
