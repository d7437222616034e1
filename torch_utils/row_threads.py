"""Process parts of a batch in parallel threads.

In a chain of many short operations, torch's threads wait for one another after each of them, above all on a machine
with other load. Threads that each take a part of the rows through the complete chain wait only once.
"""

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar('T')

# With fewer rows per thread, slower matrix products cost more than the threads gain.
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
