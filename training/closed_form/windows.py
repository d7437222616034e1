"""Square image windows: sums over them, distances between them, and their sizes at each noise level."""

import math
import operator
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import torch
from torch import Tensor

from dnnlib.typed import parse_json
from dnnlib.util import UserError

# Noise levels of EDM's sampler with 18 steps: sigma_i = (80^(1/7) + i/17 (0.002^(1/7) - 80^(1/7)))^7.
LEVELS = tuple((80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18))
# The published window sizes are for images with this side, in pixels.
TABLE_SIZE = 32
# Smallest window size, unless the image itself is smaller.
SMALLEST = 3


# The forms in which a denoiser accepts its window sizes: one size for all noise levels; the path of a table that
# `diagnose.py calibrate` has written; pairs (sigma, size) in any order; or None, which means the published sizes.
Window = int | str | Path | Sequence[tuple[float, int]] | None


@dataclass(frozen=True)
class WindowTable:
    """The window size for each noise level.

    levels: pairs (sigma, window) in descending order of sigma; other noise levels use the pair that is nearest on a
    logarithmic scale. low, high: the range of noise levels that the table covers.
    """

    levels: tuple[tuple[float, int], ...]
    low: float = 0.0
    high: float = math.inf

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, int]]) -> 'WindowTable':
        """Make a table from pairs (sigma, window) in any order. The table covers the range of these noise levels.

        Raises UserError for anything else.
        """
        try:
            levels = tuple(sorted(((float(sigma), operator.index(window)) for sigma, window in pairs), reverse=True))
        except (TypeError, ValueError) as error:
            raise UserError(
                f'`window`={pairs!r} must be an integer, the path of a window table, or pairs (sigma, integer)'
            ) from error
        if not levels:
            raise UserError('`window`: the table has no noise levels; make it again with `diagnose.py calibrate`')
        if not levels[-1][0] > 0:
            raise UserError(f'`window`: the noise level {levels[-1][0]:g} in the table must be positive')
        return cls(levels, low=levels[-1][0], high=levels[0][0])

    def at(self, sigma: float) -> int:
        """The window size at a noise level. Raises UserError if the table does not cover this level."""
        self.require(sigma, sigma)
        return min(self.levels, key=lambda level: abs(math.log(level[0] / sigma)))[1]

    def require(self, lowest: float, highest: float, name: str = '`window`: the table') -> None:
        """Raise UserError if the table does not cover these noise levels. name: name of the table in the message."""
        if not self.low * (1 - 1e-6) <= lowest <= highest <= self.high * (1 + 1e-6):
            shown = f'{lowest:g}' if lowest == highest else f'{lowest:g} to {highest:g}'
            raise UserError(
                f'{name} covers the noise levels {self.low:g} to {self.high:g}, but not {shown}; '
                'calibrate it at more levels, or stay within its range'
            )


def window_table(window: Window, published: Sequence[int], size: int, odd: bool) -> WindowTable:
    """Convert the argument `window` of a denoiser to a table.

    published: window sizes for 32×32 images at the noise levels LEVELS. If window is None, these
    sizes are scaled to `size`.
    size: image side in pixels.
    odd: whether window sizes must be odd, so that each window has a centre pixel.
    Raises UserError if a window size is not possible for the images, or if the file is not a window table.
    """
    if window is None:
        scaled = [_scaled(value, size, odd) for value in published]
        return WindowTable(tuple(zip(LEVELS, scaled, strict=True)))
    if isinstance(window, str) and window.isdecimal():
        window = int(window)
    if isinstance(window, int | np.integer):
        _check(int(window), size, odd)
        return WindowTable(((1.0, int(window)),))
    table = read_table(window) if isinstance(window, str | Path) else WindowTable.of(window)
    for _, value in table.levels:
        _check(value, size, odd)
    return table


class SavedWindows(msgspec.Struct, frozen=True):
    """The part of a window table's file that is used: pairs (sigma, window)."""

    windows: list[tuple[Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)], int]]


def read_table(path: str | Path) -> WindowTable:
    """Read a table from a JSON file {"windows": [[sigma, window], …]}. Raises UserError for other files."""
    try:
        saved = parse_json(Path(path).read_bytes(), SavedWindows, str(path))
    except FileNotFoundError as error:
        raise UserError(f'`window`={path} is neither a number nor an existing file; give one of them') from error
    except (OSError, UserError) as error:
        raise UserError(f'`window`: {error}; make a window table with `diagnose.py calibrate`') from error
    return WindowTable.of(saved.windows)


def _scaled(window: int, size: int, odd: bool) -> int:
    largest = size - (1 - size % 2 if odd else 0)
    value = window * size / TABLE_SIZE
    value = 2 * round((value - 1) / 2) + 1 if odd else round(value)
    return min(max(value, SMALLEST), largest)


def _check(window: int, size: int, odd: bool) -> None:
    if not 1 <= window <= size:
        raise UserError(f'`window`={window} does not fit in the {size}×{size} images; give 1 to {size}')
    if odd and window % 2 == 0:
        raise UserError(f'`window`={window} has no centre pixel; give an odd number')


def window_matrix(outputs: int, inputs: int, first: int, window: int, wrap: bool = False) -> Tensor:
    """The matrix of zeros and ones that sums over windows along an axis, float64 [outputs, inputs].

    The window of output i covers the inputs i + first … i + first + window - 1. Positions outside the axis are
    ignored or, with wrap, taken modulo the number of inputs.
    """
    place = torch.arange(inputs) - torch.arange(outputs)[:, None] - first
    place = place % inputs if wrap else place
    return ((place >= 0) & (place < window)).to(torch.float64)


def window_sums(values: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Sum values [H, W, n] over windows, giving [h, w, n]. down, right: window matrices [h, H] and [w, W]."""
    return right @ (down @ values.flatten(1)).unflatten(1, values.shape[1:])


def with_norms(y: Tensor) -> Tensor:
    """Append the channel -1/2 sum_c y² to images y [C, H, W, n]."""
    return torch.cat([y, y.square().sum(dim=0, keepdim=True).mul_(-0.5)])


def closeness(z: Tensor, y: Tensor, by_products: bool) -> Tensor:
    """Compute -1/2 sum_c (z - y)² for one noisy image z [C, H, W] and n training images y. Returns [H, W, n].

    y: images from `with_norms`. by_products: compute sum_c z y - 1/2 sum_c y² instead, which is faster but has larger
    rounding errors. The omitted term, -1/2 sum_c z², is the same for all training images, so it does not
    change their weights.
    """
    own = z[..., None]
    if by_products:
        total = torch.addcmul(y[-1], own[0], y[0])
        for channel in range(1, len(z)):
            total.addcmul_(own[channel], y[channel])
        return total
    total = torch.zeros_like(y[-1])
    for channel in range(len(z)):
        difference = own[channel] - y[channel]
        total.addcmul_(difference, difference, value=-0.5)
    return total
