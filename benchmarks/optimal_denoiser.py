"""Time the optimal denoiser against the plain way, in complete 18-step sampling of the same seeds, one run for both.

    python -m benchmarks.optimal_denoiser --data=cifar-10-python.tar.gz

The plain way computes all distances, squares them, takes a softmax and multiplies, in float32, at each of 35
evaluations. Both ways take turns, so that other load on the machine affects both; "times plain" compares with the
plain way's best batch. `--check` compares the images of that many seeds with the plain way in float64.
"""

import math
import platform
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
from torch import Tensor

from cli.command import parsed
from dataset_utils import open_source
from dataset_utils.sources.partial import PartialSource
from dnnlib.options import integer_list
from dnnlib.util import report_errors
from training.closed_form.optimal import OptimalDenoiser
from training.denoiser import Denoiser
from training.sampling import StackedRandomGenerator, edm_sampler, to_uint8

# Instruction sets that multiply int8, as Linux names them.
INT8_SETS = ('avx2', 'avx_vnni', 'avx512_vnni', 'amx_int8')


class PlainDenoiser:
    """The optimum as its formula is usually written down, over all of the training set at once.

    images: uint8 [N, C, R, R]. dtype: of all arithmetic.
    """

    sigma_min, sigma_max, label_dim = 0.0, math.inf, 0

    def __init__(self, images: Tensor, dtype: torch.dtype = torch.float32):
        self.img_channels, self.img_resolution = images.shape[1], images.shape[2]
        self.pixels = images.flatten(1).to(dtype).div_(127.5).sub_(1)

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        distances = torch.cdist(x.flatten(1).to(self.pixels.dtype), self.pixels)
        weights = torch.softmax(-(distances**2) / (2 * float(sigma) ** 2), dim=1)
        return (weights @ self.pixels).reshape(x.shape)

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        return torch.as_tensor(sigma)


def sample(denoiser: Denoiser, seeds: Sequence[int]) -> Tensor:
    """uint8 images of the seeds."""
    shape = [len(seeds), denoiser.img_channels, denoiser.img_resolution, denoiser.img_resolution]
    with torch.inference_mode():
        return to_uint8(edm_sampler(denoiser, StackedRandomGenerator('cpu', seeds).randn(shape)))


def peak_megabytes() -> int:
    """The most memory that this process has used so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def machine() -> str:
    """Name of the processor and its instruction sets for int8, if the system lists them."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(':') for line in reversed(lines))}
    found = [name for name in INT8_SETS if name in facts.get('flags', '').split()]
    return f'{facts.get("model name", platform.machine())} ({" ".join(found) or "no int8 instructions"})'


def identical_share(images: Tensor, count: int, batch_size: int) -> float:
    """Share of the images of seeds 0 … count - 1 that equal the plain way in float64 byte for byte."""
    denoiser, reference, same = OptimalDenoiser(images), PlainDenoiser(images, torch.float64), 0
    for start in range(0, count, batch_size):
        seeds = range(start, min(start + batch_size, count))
        same += int((sample(denoiser, seeds) == sample(reference, seeds)).flatten(1).all(dim=1).sum())
    return same / count


def training_images(data: str, size: int) -> Tensor:
    """The first images of a set; beyond its end they are repeated, each time with new noise of up to 16 levels."""
    source = open_source(data, 'data')
    count = min(size, len(source))
    images = torch.from_numpy(PartialSource(source, range(count))[np.arange(count)])
    if count == size:
        return images
    generator = torch.Generator().manual_seed(0)
    result = torch.empty([size, *images.shape[1:]], dtype=torch.uint8)
    for start in range(0, size, len(images)):
        part = result[start : start + len(images)]
        noise = torch.randint(0, 16 if start else 1, part.shape, dtype=torch.uint8, generator=generator)
        part.copy_(images[: len(part)] // 17 * 16 + noise if start else images[: len(part)])
    return result


@dataclass
class Timing:
    """Seconds of each round of one way at one batch size, and the most memory the process had used by then."""

    way: str
    batch: int
    seconds: list[float] = field(default_factory=list)
    megabytes: int = 0

    def take(self, denoiser: Denoiser) -> None:
        start = time.perf_counter()
        sample(denoiser, range(self.batch))
        self.seconds.append(time.perf_counter() - start)
        self.megabytes = self.megabytes or peak_megabytes()

    @property
    def images_per_second(self) -> float:
        return self.batch / median(self.seconds)


def compare(images: Tensor, batches: list[int], plain_batches: list[int], repeats: int) -> list[Timing]:
    """Let both ways take turns. The fast way goes first: the peak of memory only ever rises."""
    fast = [Timing('optimal', batch) for batch in batches]
    plain = [Timing('plain', batch) for batch in plain_batches]
    denoiser = OptimalDenoiser(images)
    for timing in fast[:1]:
        sample(denoiser, range(min(timing.batch, 16)))  # warms up what is set up once
    for _ in range(repeats):
        for timing in fast:
            timing.take(denoiser)
        if plain:
            plain_denoiser = PlainDenoiser(images)
            for timing in plain:
                timing.take(plain_denoiser)
            del plain_denoiser
    return fast + plain


@click.command()
@click.option('--data', metavar='ZIP|DIR', type=str, required=True, help='Training set.')
@click.option(
    '--sizes',
    metavar='LIST',
    type=parsed(integer_list),
    default='20,100,1000,5000,50000',
    show_default=True,
    help='Sizes of the set.',
)
@click.option(
    '--batch',
    'batches',
    metavar='LIST',
    type=parsed(integer_list),
    default='64,256,512',
    show_default=True,
    help='Batches of the optimal denoiser.',
)
@click.option(
    '--plain-batch',
    'plain_batches',
    metavar='LIST',
    type=parsed(integer_list),
    default='64,256',
    show_default=True,
    help='Batches of the plain way; none with an empty list.',
)
@click.option(
    '--repeats', metavar='INT', type=click.IntRange(min=1), default=1, show_default=True, help='Rounds; medians count.'
)
@click.option(
    '--check', metavar='INT', type=click.IntRange(min=0), default=0, show_default=True, help='Seeds to check.'
)
@report_errors
def main(data: str, sizes: list[int], batches: list[int], plain_batches: list[int], repeats: int, check: int) -> None:
    """Time both ways, and print a table in Markdown."""
    print(f'{machine()}; {torch.get_num_threads()} threads; torch {torch.__version__}\n')
    print('| N | way | batch | images/s | times plain | peak memory, MB | identical to float64 |')
    print('|---|---|---|---|---|---|---|')
    for size in sizes:
        images = training_images(data, size)
        timings = compare(images, batches, plain_batches, repeats)
        best = max((t.images_per_second for t in timings if t.way == 'plain'), default=0.0)
        share = f'{100 * identical_share(images, check, batches[0]):.2f} % of {check}' if check else ''
        for t in timings:
            speed = t.images_per_second
            ratio, verdict = f'{speed / best:.1f}' if best else '', share if t.way == 'optimal' else ''
            print(f'| {size} | {t.way} | {t.batch} | {speed:.1f} | {ratio} | {t.megabytes} | {verdict} |')


if __name__ == '__main__':
    main()
