"""An ordered map that runs on threads. Threads suffice because decoding, resizing and hashing release Python's GIL."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar('Item')
Result = TypeVar('Result')

MAX_THREADS = 32
# Number of items that a thread processes in one task. Starting a task takes about as long as decoding one small image.
BLOCK = 64
# If an item takes fewer seconds than this, waiting for the GIL costs more time than threads save (on two cores).
WORTH_A_THREAD = 100e-6


def ordered_map(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield function(item) for each item, in order. If the function is slow, threads compute a few blocks in advance.

    If the function fails for several items, the exception for the first of these items ends the iteration.
    """
    start = time.perf_counter()
    yield from _apply(function, items[:BLOCK])
    is_slow = (time.perf_counter() - start) > WORTH_A_THREAD * BLOCK
    rest = items[BLOCK:]
    yield from _map_on_threads(function, rest) if is_slow else map(function, rest)


def _map_on_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    threads = min(os.cpu_count() or 1, MAX_THREADS)
    pending: deque[Future[list[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for start in range(0, len(items), BLOCK):
                pending.append(pool.submit(_apply, function, items[start : start + BLOCK]))
                if len(pending) > 2 * threads:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for task in pending:
                task.cancel()


def _apply(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]
