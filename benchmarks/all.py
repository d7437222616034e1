"""Run the main benchmarks (training, sampling, optimal denoiser, nearest neighbours) in a given time.

    python -m benchmarks.all --device=cuda --minutes=8 --out=timings.jsonl
    python -m benchmarks.all --device=cuda --edm=../edm

No data set is needed, because the images are random.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import neighbor_search, optimal_denoiser, sampling_speed, training_speed
from benchmarks.benchmark_networks import SpeedOptions
from benchmarks.neighbor_search import NeighborOptions
from benchmarks.optimal_denoiser import OptimumOptions
from cli.command import with_options
from dnnlib.options import option
from dnnlib.util import report_errors
from torch_utils.distributed import choose_device

# Batch sizes of the paper's network on a GPU; the fastest one counts. The paper's run on 8 GPUs has 64 on each GPU.
GPU_BATCHES = (64, 256, 512)
# Number of timed implementations over all comparisons. Each gets the same time, and as much again to warm up.
WAYS = 64


@dataclass(frozen=True, kw_only=True)
class AllOptions:
    """Device, total time and output file."""

    # fmt: off
    device: str = option('auto', 'Device to compute on.', unit='auto|cuda|cpu')
    minutes: float = option(8, 'Approximate total time in minutes; on a GPU, it takes longer because cuDNN also times its kernels.', unit='FLOAT', above=0)
    edm: Path | None = option(None, "Checkout of NVlabs/edm whose code is timed as well.", unit='DIR')
    compiled: bool = option(False, 'Also time training of compiled networks; compiling them takes several minutes.', name='compile', switch=True)
    out: Path = option(Path('timings.jsonl'), 'File that gets a line of JSON for each implementation.', unit='FILE')
    # fmt: on


@click.command()
@report_errors
@with_options(AllOptions)
def main(options: AllOptions) -> None:
    """Time training, sampling, the optimal denoiser and nearest-neighbour search."""
    for measure in comparisons(options):
        try:
            measure()
        except torch.OutOfMemoryError as error:
            print(f'out of memory: {error}')
            torch.cuda.empty_cache()


def comparisons(options: AllOptions) -> list[Callable[[], object]]:
    """The comparisons to make, the most important first."""
    on_gpu = choose_device(options.device).type == 'cuda'
    common: dict[str, Any] = {'device': options.device, 'seconds': options.minutes * 60 / WAYS / 2, 'out': options.out}
    speed: dict[str, Any] = {**common, 'edm': options.edm}
    first = SpeedOptions(**speed, batch_paper=GPU_BATCHES[0] if on_gpu else 16, layouts=not on_gpu)
    compiled = replace(first, compiled=options.compiled and on_gpu)
    larger = GPU_BATCHES[1:] if on_gpu else ()
    sizes = [1000, 50_000] if on_gpu else [100, 1000, 5000]
    return [
        lambda: training_speed.WORK.compare(compiled),
        lambda: sampling_speed.WORK.compare(first),
        lambda: optimal_denoiser.compare_ways(OptimumOptions(**common, sizes=sizes, batches=[64, 512])),
        lambda: neighbor_search.compare_ways(NeighborOptions(**common)),
        *(
            lambda batch=batch: training_speed.WORK.compare(  # type: ignore[misc]
                SpeedOptions(**speed, network='paper', batch_paper=batch, layouts=False)
            )
            for batch in larger
        ),
    ]


if __name__ == '__main__':
    main()
