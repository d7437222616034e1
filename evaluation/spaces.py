"""Spaces in which images are compared: pixels (`PixelSpace`), or features from an extractor (`FeatureSpace`).

A metric gets its distances from a `Space` and never handles images. Distances are computed in blocks; the full matrix
of queries by references is never stored.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import UserError
from evaluation.memorization import first_of_equal_rows
from evaluation.neighbors import NeighborIndex, equal_images

Rows = Tensor | np.ndarray

# Numbers of queries and references in a block. Its 4 MiB of float32 distances stay in a nearby cache.
_QUERY_BLOCK = 1024
_REFERENCE_BLOCK = 1024
# The rounding error of float32.
_UNIT = 2.0**-24
# Number of values in one part of a pairwise comparison; they take 32 MiB of float64.
_PART = 2**22
# The square of a larger feature might overflow.
_LARGEST = 1e140


class PixelSpace:
    """Compares images by their pixel levels (0 to 255), with exact integers. Images are uint8 [N, C, H, W].

    Squared distances are int64. All results are on the CPU.
    device: the device that compares images. [default: the references' device]
    mirrored: whether an image and its mirror image count as the same image. The distance between two images is then
        the smaller of the distances between one of them and both versions of the other.
    """

    def __init__(self, device: torch.device | str | None = None, mirrored: bool = False):
        self.device, self.mirrored = device, mirrored

    def validate(self, rows: Rows, name: str) -> None:
        """Raise UserError if the rows are not valid in this space. name: describes the rows in messages."""
        if _numpy(rows[:0]).dtype != np.uint8 or len(rows.shape) != 4:
            raise UserError(f'{name} must be uint8 [N, C, H, W], not {rows.dtype} {list(rows.shape)}')
        _require_some(rows, name)

    def nearest(self, queries: Rows, references: Rows, k: int) -> tuple[Tensor, Tensor]:
        """Find the k nearest references of each query; on ties, the lowest index comes first.

        Returns their indices, int64 [N, k], and their squared distances, [N, k].
        """
        index, squared = NeighborIndex(references, self.device, mirrored=self.mirrored).query(queries, k)
        return index.cpu(), squared.cpu()

    def count_within(self, queries: Rows, references: Rows, squared_radii: Tensor) -> tuple[Tensor, Tensor]:
        """For each query, count the references whose balls contain it.

        squared_radii: the squared radius of each reference's ball, [M], with the dtype of the squared distances.
        Returns the counts for open balls and for closed balls, int64 [N] each.
        """
        index = NeighborIndex(references, self.device, mirrored=self.mirrored)
        below, within = index.count_within(queries, squared_radii)
        return below.cpu(), within.cpu()

    def distinct(self, rows: Rows) -> Tensor:
        """The positions of all rows that do not equal an earlier row, in ascending order, int64."""
        return equal_images(torch.as_tensor(rows), self.mirrored).unique()

    def vectors(self, rows: Rows) -> np.ndarray:
        """Rows as floating-point vectors [N, P], for clustering."""
        return _numpy(rows).reshape(len(rows), -1).astype(np.float32)


class FeatureSpace:
    """Compares features by Euclidean distance. Features are float32 or float64 [N, d].

    Its methods are the methods of `PixelSpace`, but squared distances are float64.
    A float32 matrix product, with a bound on its error, finds the pairs that can affect the result; their distances are
    then computed as sums of squared differences in float64. The results are the same as if this sum were computed for
    all pairs: there is no cancellation, and equal features have distance 0.

    device: the device that computes the matrix products. [default: the CPU]
    """

    def __init__(self, device: torch.device | str | None = None):
        self.device = torch.device(device or 'cpu')

    def validate(self, rows: Rows, name: str) -> None:
        if len(rows.shape) != 2 or rows.shape[1] == 0 or _numpy(rows[:0]).dtype not in (np.float32, np.float64):
            raise UserError(f'{name} must be float32 or float64 [N, d], not {rows.dtype} {list(rows.shape)}')
        _require_some(rows, name)
        for start, block in _blocks(_numpy(rows), _REFERENCE_BLOCK):
            bad = ~(np.abs(block.astype(np.float64)) < _LARGEST).all(axis=1)
            if bad.any():
                raise UserError(f'{name}: row {start + int(bad.argmax())} is not finite, or exceeds {_LARGEST:g}')

    def nearest(self, queries: Rows, references: Rows, k: int) -> tuple[Tensor, Tensor]:
        queries, references = _numpy(queries), _numpy(references)
        assert 1 <= k <= len(references), f'{k} neighbours need at least {k} references, not {len(references)}'
        rough = _RoughDistances(queries, references, self.device)
        found = [
            self._nearest_block(rough, start, block, references, k) for start, block in _blocks(queries, _QUERY_BLOCK)
        ]
        index, squared = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*found, strict=True))
        return index, squared

    def _nearest_block(
        self, rough: '_RoughDistances', first: int, queries: np.ndarray, references: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        squared = np.full([len(queries), k], np.inf)
        index = np.full([len(queries), k], -1)
        some = rough.queries_at(first, len(queries))
        for start, block in _blocks(references, _REFERENCE_BLOCK):
            estimates, slack = rough.block(some, start, len(block))
            limit = rough.scaled(squared[:, -1]) + slack
            closer = (estimates.amin(dim=1) <= limit).nonzero()[:, 0]
            if not len(closer):
                continue
            estimates, limit, slack = estimates[closer], limit[closer], slack[closer]
            if k < len(block):
                limit = torch.minimum(limit, estimates.topk(k, dim=1, largest=False).values[:, -1] + 2 * slack)
            row, place = (estimates <= limit[:, None]).nonzero().cpu().numpy().T
            query = closer.cpu().numpy()[row]
            candidates = _squared_distances(queries, block, query, place)
            index, squared = _merge(index, squared, query, place + start, candidates)
        return index, squared

    def count_within(self, queries: Rows, references: Rows, squared_radii: Tensor) -> tuple[Tensor, Tensor]:
        queries, references = _numpy(queries), _numpy(references)
        rough = _RoughDistances(queries, references, self.device)
        all_radii = squared_radii.double().numpy()
        below = np.zeros(len(queries), np.int64)
        within = np.zeros(len(queries), np.int64)
        for first, block in _blocks(queries, _QUERY_BLOCK):
            mine, some = slice(first, first + len(block)), rough.queries_at(first, len(block))
            for start, other in _blocks(references, _REFERENCE_BLOCK):
                radii = all_radii[start : start + len(other)]
                estimates, slack = rough.block(some, start, len(other))
                estimates -= rough.scaled(radii)
                # Rounding the radii adds to the error.
                slack = slack + 4 * _UNIT * rough.scaled(radii).max()
                inside = (estimates < -slack[:, None]).sum(dim=1).cpu().numpy()
                query, place = (estimates.abs() <= slack[:, None]).nonzero().cpu().numpy().T
                squared, radius = _squared_distances(block, other, query, place), radii[place]
                below[mine] += inside + np.bincount(query[squared < radius], minlength=len(block))
                within[mine] += inside + np.bincount(query[squared <= radius], minlength=len(block))
        return torch.from_numpy(below), torch.from_numpy(within)

    def distinct(self, rows: Rows) -> Tensor:
        return first_of_equal_rows(row + 0 for row in _numpy(rows))  # adding zero turns -0 into 0

    def vectors(self, rows: Rows) -> np.ndarray:
        return _numpy(rows).astype(np.float64)


Space = PixelSpace | FeatureSpace


class _RoughDistances:
    """Squared distances between features in float32, and a bound on their error.

    The references' mean is subtracted from all features. The differences are divided by a power of two so that norms
    are at most 1; then they are rounded to float32 (u = 2^-24). The error of |q|² + |r|² - 2 q·r, with exact norms, has
    these parts: less than 2 d u |q||r| for the product of d numbers, summed in any order (Higham 2002, "Accuracy and
    stability of numerical algorithms", section 3.1); 4 u |q||r| for rounding features; 4 u (|q| + |r|)² for rounding
    norms and sums; d 2^-140 for underflow; and a far smaller rounding error in the float64 sum. The bound exceeds their
    total. If torch might round the inputs of float32 products further (TF32), float64 is used instead.
    """

    def __init__(self, queries: np.ndarray, references: np.ndarray, device: torch.device):
        self.device, self.center = device, references.mean(axis=0, dtype=np.float64)
        self.dtype = np.float32 if torch.get_float32_matmul_precision() == 'highest' else np.float64
        norms, other_norms = (self._norms(rows) for rows in (queries, references))
        largest = max(norms.max(), other_norms.max())
        self.scale = 2.0 ** np.ceil(np.log2(largest)) if largest > 0 else 1.0
        self.query_norms, self.norms = (self._on_device(some / self.scale) for some in (norms, other_norms))
        self.all_queries, self.references = queries, self._rounded(references)

    def queries_at(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """A block of `count` queries [Q, d], starting at position `start`, and their norms [Q]."""
        return self._rounded(self.all_queries[start : start + count]), self.query_norms[start : start + count]

    def block(self, queries: tuple[Tensor, Tensor], start: int, count: int) -> tuple[Tensor, Tensor]:
        """Scaled squared distances [Q, count] to `count` references from position `start`, and the error bound [Q]."""
        rows, query_norms = queries
        norms = self.norms[start : start + count]
        squares = norms.square()
        rough = torch.addmm(squares[None], rows, self.references[start : start + count].t(), alpha=-2)
        rough += query_norms.square()[:, None]
        longest, d = norms.max(), rows.shape[1]
        slack = 2 * (d + 8) * _UNIT * query_norms * longest + 8 * _UNIT * (query_norms + longest).square()
        return rough, slack + d * 2.0**-140

    def scaled(self, squared: np.ndarray) -> Tensor:
        """Convert squared distances, float64, to the units and the dtype of `block`."""
        return self._on_device(squared / self.scale**2)

    def _norms(self, rows: np.ndarray) -> np.ndarray:
        return np.concatenate([np.linalg.norm(block - self.center, axis=1) for _, block in _blocks(rows, 4096)])

    def _rounded(self, rows: np.ndarray) -> Tensor:
        parts = [self._on_device((block - self.center) / self.scale) for _, block in _blocks(rows, 4096)]
        return torch.cat(parts)

    def _on_device(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(self.dtype)).to(self.device)


def _squared_distances(queries: np.ndarray, references: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """The sum of squared differences between queries[i] and references[j], float64 [len(i)]."""
    part = max(1, _PART // queries.shape[1])
    squared = np.empty(len(i))
    for start in range(0, len(i), part):
        some = slice(start, start + part)
        differences = queries[i[some]].astype(np.float64) - references[j[some]]
        squared[some] = np.square(differences, out=differences).sum(axis=1)
    return squared


def _merge(
    index: np.ndarray, squared: np.ndarray, query: np.ndarray, place: np.ndarray, candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Merge the k nearest references found so far with candidates; on ties, the lowest index comes first.

    index, squared: positions and squared distances of the references found so far, [Q, k] each. query: the query of
    each candidate, [n]. place: its position among the references, [n]. candidates: its squared distance, [n].
    """
    Q, k = index.shape
    rows = np.concatenate([np.repeat(np.arange(Q), k), query])
    places = np.concatenate([index.ravel(), place])
    values = np.concatenate([squared.ravel(), candidates])
    order = np.lexsort([places, values, rows])
    first = np.searchsorted(rows[order], np.arange(Q))
    chosen = order[first[:, None] + np.arange(k)]
    return places[chosen], values[chosen]


def _blocks(rows: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each block of rows with the position of its first row."""
    return ((start, rows[start : start + size]) for start in range(0, len(rows), size))


def _numpy(rows: Rows) -> np.ndarray:
    return rows.cpu().numpy() if isinstance(rows, Tensor) else rows


def _require_some(rows: Rows, name: str) -> None:
    if not len(rows):
        raise UserError(f'{name} are empty; metrics need at least one row')
