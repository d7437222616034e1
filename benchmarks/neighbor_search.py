"""Time exact nearest-neighbour search, compared with `torch.cdist` and `topk` in float32.

    python -m benchmarks.neighbor_search --source=datasets/cifar10/cifar10-train.zip

The queries are noisy reference images; every second query has so little noise that it is a near-copy. The results of
20 queries are checked against int64 arithmetic.
"""

from dataclasses import dataclass
from functools import partial

import click
import numpy as np
import torch

from benchmarks.timing import TimingOptions, Way, compare
from cli.command import with_options
from dataset_utils import open_source
from dnnlib.options import option
from dnnlib.util import report_errors
from evaluation.neighbors import NeighborIndex
from torch_utils.distributed import choose_device

QUERY_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class NeighborOptions(TimingOptions):
    """Reference images and number of queries."""

    # fmt: off
    source: str | None = option(None, 'Reference images. [default: random ones of 3x32x32]', unit='ZIP|DIR')
    num_references: int = option(50_000, 'Number of reference images.', unit='INT', least=2)
    num_queries: int = option(2_000, 'Number of queries.', unit='INT', least=20)
    # fmt: on


def compare_ways(options: NeighborOptions) -> None:
    """Time the exact search, and torch.cdist with topk. The preparation of the reference images is not timed."""
    device, random = choose_device(options.device), np.random.default_rng(0)
    if options.source is None:
        pixels = random.integers(0, 256, (options.num_references, 3, 32, 32), dtype=np.uint8)
    else:
        images = open_source(options.source, 'source').load()[: options.num_references]
        pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    chosen = pixels[random.permutation(len(pixels))[: options.num_queries // 2 * 2]]
    noise = random.normal(0, [[[[5.0]]], [[[40.0]]]] * (len(chosen) // 2), chosen.shape)
    queries = torch.from_numpy((chosen + noise).clip(0, 255).astype(np.uint8)).to(device)
    references = torch.from_numpy(pixels)
    index = NeighborIndex(references, device)
    floats = references.flatten(1).to(device, torch.float32)
    ways = [
        Way('exact int8', len(queries), partial(index.query, queries)),
        Way('cdist and topk', len(queries), partial(plain_neighbors, queries, floats), plain=True),
    ]
    compare(f'{len(queries):,} queries, {len(references):,} references', 'queries', ways, device, options)
    found, expected = index.query(queries), plain_neighbors(queries, floats)
    print(f'cdist finds a different nearest image for {int((found[0][:, 0] != expected[:, 0]).sum())} queries')
    check = naive(queries[:20].cpu(), references)
    same = all(torch.equal(mine[:20].cpu(), theirs) for mine, theirs in zip(found, check, strict=True))
    print(f'exact search equals int64 arithmetic on 20 queries: {same}')


def plain_neighbors(queries: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Baseline: indices of the two nearest references, int64 [Q, 2]."""
    blocks = (torch.cdist(block.flatten(1).float(), references) for block in queries.split(QUERY_BLOCK))
    return torch.cat([distances.topk(2, largest=False).indices for distances in blocks])


def naive(queries: torch.Tensor, references: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows = references.flatten(1)
    distances = torch.stack([(rows.to(torch.int64) - query.flatten()).square().sum(dim=1) for query in queries])
    distance, index = distances.sort(dim=1, stable=True)
    return index[:, :2], distance[:, :2]


main = click.command()(report_errors(with_options(NeighborOptions)(compare_ways)))

if __name__ == '__main__':
    main()
