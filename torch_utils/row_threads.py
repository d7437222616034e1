"""Parts of a batch side by side, each in a thread of its own.

A chain of many short operations spends much of its time where torch's threads meet after each of them, most of all on a
machine that others use as well. Threads that each take a part of the rows through the whole chain meet once.
"""

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar('T')

# Fewer rows than this for each thread are not worth a thread: matrix products get slower than they gain.
ROWS_PER_THREAD = 64


def map_rows(function: Callable[[slice], T], count: int, device: torch.device) -> list[T]:
    """The function's values for slices that cover `count` rows, in order; each slice has a thread on CPUs."""
    threads = min(torch.get_num_threads(), count // ROWS_PER_THREAD)
    if device.type != 'cpu' or threads < 2:
        return [function(slice(0, count))]
    bounds = [count * k // threads for k in range(threads + 1)]
    slices = [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
    return list(_pool(threads).map(function, slices))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads whose operations do not spread over further threads."""
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
