"""Means and standard deviations of reported values over steps and ranks.

`report` updates running sums on the device; only `collect`, called once per tick, waits for the device.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_utils import distributed
from torch_utils.misc import widest_float


@dataclass(frozen=True)
class Moments:
    """The number, mean and standard deviation of reported values. If there are no values, `mean` and `std` are NaN."""

    num: int
    mean: float
    std: float


class Collector:
    """Running sums of named values since the last call to `collect`."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}  # float64 or float32 [3]: count, sum, sum of squares

    def report(self, name: str, values: Tensor) -> None:
        """Add all elements of a tensor to the sums for `name`."""
        values = values.detach()
        dtype = widest_float(values.device)
        count = torch.full([], values.numel(), dtype=dtype, device=values.device)
        sums = torch.stack([count, values.sum(dtype=dtype), (values * values).sum(dtype=dtype)])
        self.sums[name] = self.sums[name] + sums if name in self.sums else sums

    def collect(self) -> dict[str, Moments]:
        """Return the moments, over all ranks, of the values reported under each name since the last call.

        All ranks must have reported the same names.
        """
        result = {}
        for name in sorted(self.sums):
            num, total, squares = distributed.all_reduce_sum(self.sums[name].cpu().double()).tolist()
            mean = total / num if num else math.nan
            std = math.sqrt(max(squares / num - mean**2, 0)) if num else math.nan
            result[name] = Moments(int(num), mean, std)
        self.sums = {}
        return result
