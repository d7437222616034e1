"""Softmax-weighted sums of training images, from which the optimal denoiser is computed.

Everything here is in pixel units: z = 127.5 x - 0.5 is a noisy image on the scale of the rows q = pixel - 128, and
s = 127.5 sigma. The weight of an image is exp(-||z - q||² / (2 s²)).

`Sums` holds the sums over a subset of the training images, and `merge` combines two subsets. `float64_sums` computes
sums directly, block by block; on most devices, `training.closed_form.int8_sums` is faster for large training sets.
"""

import functools
import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from training.closed_form.rows import ImageRows
from training.closed_form.streamed import gather_tensors

# Number of training images per float64 matrix product on a CPU.
FLOAT64_ROWS = 1024
# On a GPU, a product takes as many training images as give a block of this many float64 numbers (1 GiB).
GPU_NUMBERS = 1 << 27
# A noisy image is settled if training images other than the nearest one and its duplicates have less than this share of
# the total weight. The share is half of float64's rounding unit.
SETTLED = 2.0**-54
# Marks a missing index; it is greater than all indices.
NO_INDEX = torch.iinfo(torch.int64).max


@dataclass
class Sums:
    """Sums over a subset of the training images, for each of B noisy images.

    reference: float64 [B]; all weights are divided by exp(reference) to stay finite.
    total, squares: float64 [B], the sums of the weights and of their squares.
    weighted: float64 [B, P], the weighted sum of rows.
    inexact, spread: float64 [B], two sums over the images whose weights come from digits. inexact is the sum of their
    weights; spread is the weighted sum of their squared distances to the training set's mean row.
    rounding: float64 [B], expected root mean square error of `weighted` due to the digits of weights and to float32.
    nearest, key: int64 [B], index and key of the nearest image; for ties, the lowest index.
    distance: float64 [B], squared distance to the nearest image; infinite if that image is unknown.
    others: float64 [B], logarithm of a bound on the total weight of the images that differ from the nearest image.
    """

    reference: Tensor
    total: Tensor
    squares: Tensor
    weighted: Tensor
    inexact: Tensor
    spread: Tensor
    rounding: Tensor
    nearest: Tensor
    key: Tensor
    distance: Tensor
    others: Tensor

    def __getitem__(self, rows: Tensor) -> 'Sums':
        return Sums(*(getattr(self, f.name)[rows] for f in fields(self)))

    def __setitem__(self, rows: Tensor, value: 'Sums') -> None:
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(value, f.name)

    @staticmethod
    def cat(parts: 'list[Sums]') -> 'Sums':
        """Concatenate the sums of several batches of noisy images."""
        return Sums(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Sums)))

    def pack(self) -> Tensor:
        """All fields in one tensor, float64 [B, P + 10]; the bits of integers are reinterpreted as float64."""
        columns = [getattr(self, f.name) for f in fields(self)]
        return torch.cat([c.view(torch.float64).reshape(len(c), -1) for c in columns], dim=1)

    @staticmethod
    def unpack(packed: Tensor) -> 'Sums':
        """Inverse of `pack`."""
        columns = list(packed.split([packed.shape[1] - 10 if f.name == 'weighted' else 1 for f in fields(Sums)], dim=1))
        values = {f.name: column.contiguous() for f, column in zip(fields(Sums), columns, strict=True)}
        for name, value in values.items():
            if name in ('nearest', 'key'):
                value = value.view(torch.int64)
            values[name] = value if name == 'weighted' else value[:, 0]
        return Sums(**values)

    @property
    def mean(self) -> Tensor:
        """The weighted mean row, float64 [B, P]."""
        return self.weighted / self.total[:, None]

    @property
    def log_total(self) -> Tensor:
        """Logarithm of the sum of weights, float64 [B]."""
        return self.reference + self.total.log()


def merge(a: Sums, b: Sums) -> Sums:
    """The sums over the union of two disjoint subsets of the training images."""
    reference = torch.maximum(a.reference, b.reference)
    # If both subsets are empty, both references are -inf. The clamp avoids -inf - -inf, which is NaN.
    finite = reference.clamp(min=torch.finfo(reference.dtype).min)
    scale_a, scale_b = (a.reference - finite).exp(), (b.reference - finite).exp()
    a_nearer = (a.distance < b.distance) | ((a.distance == b.distance) & (a.nearest < b.nearest))
    # The subset without the nearest image contributes all its images to `others`, except copies of the nearest image.
    copies = a.key == b.key
    beyond_a = torch.where(copies, b.others, b.log_total)
    beyond_b = torch.where(copies, a.others, a.log_total)
    others = torch.where(a_nearer, torch.logaddexp(a.others, beyond_a), torch.logaddexp(b.others, beyond_b))
    unknown = a.distance.isinf() | b.distance.isinf()
    return Sums(
        reference=reference,
        total=a.total * scale_a + b.total * scale_b,
        squares=a.squares * scale_a**2 + b.squares * scale_b**2,
        weighted=a.weighted * scale_a[:, None] + b.weighted * scale_b[:, None],
        inexact=a.inexact * scale_a + b.inexact * scale_b,
        spread=a.spread * scale_a + b.spread * scale_b,
        rounding=a.rounding * scale_a + b.rounding * scale_b,
        nearest=torch.where(a_nearer, a.nearest, b.nearest),
        key=torch.where(a_nearer, a.key, b.key),
        distance=torch.where(unknown, math.inf, torch.minimum(a.distance, b.distance)),
        others=torch.where(unknown, math.inf, others),
    )


def over_ranks(sums: Sums, sharded: bool) -> Sums:
    """If sharded, combine the sums over the shards of all ranks; the result is bitwise identical on every rank."""
    return functools.reduce(merge, map(Sums.unpack, gather_tensors(sums.pack()))) if sharded else sums


def empty_sums(z: Tensor) -> Sums:
    """Sums over no images, the identity element of `merge`. z: noisy images, float64 [B, P]."""

    def each(value: float) -> Tensor:
        return z.new_full([len(z)], value)

    return Sums(
        reference=each(-math.inf),
        total=each(0),
        squares=each(0),
        weighted=torch.zeros_like(z),
        inexact=each(0),
        spread=each(0),
        rounding=each(0),
        nearest=z.new_full([len(z)], NO_INDEX, dtype=torch.int64),
        key=z.new_zeros([len(z)], dtype=torch.int64),
        distance=each(torch.finfo(torch.float64).max),
        others=each(-math.inf),
    )


def float64_sums(images: ImageRows, z: Tensor, variance: Tensor, start: int, stop: int) -> Sums:
    """Sums over rows start … stop - 1, computed in float64. z: float64 [B, P]. variance: s², float64 [B]."""
    sums: Sums | None = None
    for first, rows in images.blocks(start, stop, float64_rows(z)):
        positions = torch.arange(first, first + len(rows), device=z.device)[None]
        part = known_sums(images, z, variance, rows.to(torch.float64), positions)
        sums = part if sums is None else merge(sums, part)
    return empty_sums(z) if sums is None else sums


def float64_rows(z: Tensor) -> int:
    """Number of training images per float64 matrix product with the noisy images z, float64 [B, P]."""
    if z.device.type != 'cuda':
        return FLOAT64_ROWS
    # A training image has P numbers, and `known_sums` holds several numbers for each pair of images, counted as four.
    return max(1, GPU_NUMBERS // max(z.shape[1], 4 * len(z)))


def known_sums(images: ImageRows, z: Tensor, variance: Tensor, q: Tensor, positions: Tensor) -> Sums:
    """Sums over given rows, computed in float64.

    q: the rows, in float64. Their shape is [N, P] if all noisy images have the same rows, otherwise [B, N, P].
    positions: positions of these rows in `images`, int64 [1, N] or [B, N].
    """
    products = z @ q.t() if q.ndim == 2 else (q @ z[:, :, None])[:, :, 0]
    squares = z.square().sum(dim=1, keepdim=True)
    distances = products.mul_(-2).add_(squares).add_(images.norms[positions]).clamp_(min=0)
    exponents = distances / (-2 * variance[:, None])
    reference = exponents.amax(dim=1)
    weights = (exponents - reference[:, None]).exp_()
    weighted = weights @ q if q.ndim == 2 else (weights[:, None, :] @ q)[:, 0]
    rounding = 1e-13 * (squares + images.highest_norm)
    nearest, place = nearest_index(distances, images.order[positions] + images.offset, rounding)
    keys = images.keys[positions]
    key = keys.expand(len(z), -1).gather(1, place)[:, 0]
    others = exponents.masked_fill(keys == key[:, None], -math.inf)
    return Sums(
        reference=reference,
        total=weights.sum(dim=1),
        squares=weights.square().sum(dim=1),
        weighted=weighted,
        inexact=torch.zeros_like(reference),
        spread=torch.zeros_like(reference),
        rounding=torch.zeros_like(reference),
        nearest=nearest,
        key=key,
        distance=distances.gather(1, place)[:, 0],
        others=others.logsumexp(dim=1),
    )


def nearest_index(distances: Tensor, index: Tensor, rounding: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest index among the nearest images (int64 [B]), and its column (int64 [B, 1]).

    Distances that differ by no more than their rounding error count as equal, so that exact copies are tied.
    """
    tied = distances <= distances.amin(dim=1, keepdim=True) + rounding
    nearest, place = torch.where(tied, index, NO_INDEX).min(dim=1, keepdim=True)
    return nearest[:, 0], place
