"""Time exact neighbours next to `torch.cdist` and `topk` in float32, on the same images in the same run.

    python -m benchmarks.neighbor_search --source=datasets/cifar10/cifar10-train.zip

The queries are training images with noise; every second one is close to a copy. Runs alternate, their median times are
compared, and a part of the results is checked against int64.
"""

import statistics
import threading
import time
from collections.abc import Callable

import click
import numpy as np
import psutil
import torch

from dataset_utils import open_source
from dnnlib.util import report_errors
from evaluation.neighbors import NeighborIndex

QUERY_BLOCK = 512


@click.command()
@click.option('--source', metavar='ZIP|DIR', help='Reference images. [default: random ones of 3x32x32]')
@click.option('--num-references', metavar='INT', default=50_000, show_default=True, help='Number of reference images.')
@click.option('--num-queries', metavar='INT', default=2_000, show_default=True, help='Number of queries.')
@click.option('--runs', metavar='INT', default=5, show_default=True, help='Runs of each way.')
@report_errors
def main(source: str | None, num_references: int, num_queries: int, runs: int) -> None:
    """Measure exact neighbours next to torch.cdist and topk."""
    random = np.random.default_rng(0)
    if source is None:
        pixels = random.integers(0, 256, (num_references, 3, 32, 32), dtype=np.uint8)
    else:
        pixels = np.ascontiguousarray(open_source(source, 'source').load()[:num_references].transpose(0, 3, 1, 2))
    chosen = pixels[random.permutation(len(pixels))[:num_queries]]
    noise = random.normal(0, [[[[5.0]]], [[[40.0]]]] * (len(chosen) // 2), chosen.shape)
    queries = torch.from_numpy((chosen + noise).clip(0, 255).astype(np.uint8))
    references = torch.from_numpy(pixels)
    print(f'{len(queries)} queries, {len(references)} references of {list(references.shape[1:])}, '
          f'{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}')  # fmt: skip
    index, prepare_seconds = timed(lambda: NeighborIndex(references))
    ours_memory = peak_memory(lambda: index.query(queries))  # before anything else has made the process larger
    floats = references.flatten(1).float()
    ours: list[float] = []
    plain: list[float] = []
    for _ in range(runs):
        found, seconds = timed(lambda: index.query(queries))
        ours.append(seconds)
        expected, seconds = timed(lambda: plain_neighbors(queries, floats))
        plain.append(seconds)
    print(f'preparing the references   {prepare_seconds:8.3f} s')
    print(
        f'exact int8                 {statistics.median(ours):8.3f} s   {ours_memory / 2**20:.0f} MiB on top of the data'
    )
    print(f'torch.cdist + topk         {statistics.median(plain):8.3f} s')
    print(f'ratio                      {statistics.median(plain) / statistics.median(ours):8.2f}x')
    print(f'cdist names another nearest image for {int((found[0][:, 0] != expected[:, 0]).sum())} queries')
    check = naive(queries[:20], references)
    print(
        f'equal to int64 on 20 queries: {torch.equal(found[0][:20], check[0]) and torch.equal(found[1][:20], check[1])}'
    )


def timed(action: Callable) -> tuple:
    start = time.perf_counter()
    result = action()
    return result, time.perf_counter() - start


def peak_memory(action: Callable) -> int:
    """Peak memory of an action on top of the memory of the process, in bytes, sampled every millisecond."""
    process = psutil.Process()
    before = process.memory_info().rss
    peak, done = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    action()
    done.set()
    watcher.join()
    return peak - before


def plain_neighbors(queries: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """The plain way."""
    blocks = (torch.cdist(block.flatten(1).float(), references) for block in queries.split(QUERY_BLOCK))
    return torch.cat([distances.topk(2, largest=False).indices for distances in blocks])


def naive(queries: torch.Tensor, references: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows = references.flatten(1)
    distances = torch.stack([(rows.to(torch.int64) - query.flatten()).square().sum(dim=1) for query in queries])
    distance, index = distances.sort(dim=1, stable=True)
    return index[:, :2], distance[:, :2]


if __name__ == '__main__':
    main()
