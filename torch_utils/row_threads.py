"""Processes parts of a batch in parallel threads.

Torch's own threads wait for one another after every operation. In a chain of many short operations this is slow,
especially on a busy machine. Here each thread takes some of the rows through the complete chain, and waits only once.
"""

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar('T')

# With fewer rows per thread, the matrix products become so small that threads no longer make them faster.
ROWS_PER_THREAD = 64


def map_rows(function: Callable[[slice], T], count: int, device: torch.device) -> list[T]:
    """Apply a function to consecutive slices that cover `count` rows; on a CPU, each slice has its own thread."""
    threads = min(torch.get_num_threads(), count // ROWS_PER_THREAD)
    if device.type != 'cpu' or threads < 2:
        return [function(slice(0, count))]
    bounds = [count * k // threads for k in range(threads + 1)]
    slices = [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
    return list(_pool(threads).map(function, slices))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """A pool of threads in which torch operations are single-threaded."""
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
