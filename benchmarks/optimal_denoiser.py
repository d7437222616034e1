"""Time 18-step sampling with the optimal denoiser, compared with a plain implementation of this denoiser.

    python -m benchmarks.optimal_denoiser --data=cifar-10-python.tar.gz

At each of the 35 evaluations, the plain implementation computes all distances in float32, takes the softmax of the
scaled squared distances, and multiplies the weights by the training images. `--check=N` compares the images of N seeds
with the images of the plain implementation in float64.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import click
import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import TimingOptions, Way, compare
from cli.command import with_options
from dataset_utils import open_source
from dataset_utils.sources.partial import PartialSource
from dnnlib.options import integer_list, option
from dnnlib.util import report_errors
from torch_utils.distributed import choose_device
from training.closed_form.optimal import OptimalDenoiser
from training.denoiser import Denoiser
from training.sampling import StackedRandomGenerator, edm_sampler, to_uint8


class PlainDenoiser:
    """The optimal denoiser computed directly from its formula, over the entire training set at once.

    images: training images, uint8 [N, C, R, R]. dtype: precision of all arithmetic.
    """

    sigma_min, sigma_max, label_dim = 0.0, math.inf, 0

    def __init__(self, images: Tensor, device: torch.device | str = 'cpu', dtype: torch.dtype = torch.float32):
        self.img_channels, self.img_resolution = images.shape[1], images.shape[2]
        self.pixels = images.flatten(1).to(device, dtype).div_(127.5).sub_(1)

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        distances = torch.cdist(x.flatten(1).to(self.pixels.dtype), self.pixels)
        weights = torch.softmax(-(distances**2) / (2 * float(sigma) ** 2), dim=1)
        return (weights @ self.pixels).reshape(x.shape)

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        return torch.as_tensor(sigma)


def sample(denoiser: Denoiser, seeds: Sequence[int], device: torch.device | str = 'cpu') -> Tensor:
    """Images sampled for the seeds, uint8 [B, C, R, R]."""
    shape = [len(seeds), denoiser.img_channels, denoiser.img_resolution, denoiser.img_resolution]
    with torch.inference_mode():
        return to_uint8(edm_sampler(denoiser, StackedRandomGenerator(device, seeds).randn(shape)))


def identical_share(images: Tensor, count: int, batch_size: int) -> float:
    """Share of the seeds 0 … count - 1 for which OptimalDenoiser and PlainDenoiser in float64 give the same image."""
    denoiser, reference, same = OptimalDenoiser(images), PlainDenoiser(images, dtype=torch.float64), 0
    for start in range(0, count, batch_size):
        seeds = range(start, min(start + batch_size, count))
        same += int((sample(denoiser, seeds) == sample(reference, seeds)).flatten(1).all(dim=1).sum())
    return same / count


def training_images(data: str | None, size: int) -> Tensor:
    """The first `size` images of a data set.

    A data set with fewer images is repeated. In each repetition, its pixels are reduced to 16 levels, and new noise is
    added.
    """
    if data is None:
        return torch.randint(256, [size, 3, 32, 32], dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
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


@dataclass(frozen=True, kw_only=True)
class OptimumOptions(TimingOptions):
    """The training set, the training-set sizes and batch sizes to time, and how many images to check."""

    # fmt: off
    data: str | None = option(None, 'Training set. [default: random images of 3x32x32]', unit='ZIP|DIR|NPZ|NPY')
    sizes: list[int] = option('20,100,1000,5000,50000', 'Training-set sizes to time.', unit='LIST', parse=integer_list)
    batches: list[int] = option('64,128,256,512', 'Batch sizes to time; compare each implementation at its fastest one.', name='batch', unit='LIST', parse=integer_list)
    check: int = option(0, 'Number of seeds whose images are compared with the plain implementation in float64.', unit='INT', least=0)
    # fmt: on


def compare_ways(options: OptimumOptions) -> None:
    """Time complete sampling with both implementations at each training-set size and batch size."""
    device = choose_device(options.device)
    for size in options.sizes:
        images = training_images(options.data, size)
        makers: dict[str, Callable[[], Denoiser]] = {
            'optimal': partial(OptimalDenoiser, images, device=device),
            'plain': partial(PlainDenoiser, images, device),
        }
        ways = []
        for name, make in makers.items():
            denoiser = make()
            ways += [
                Way(f'{name}, batch {batch}', batch, partial(sample, denoiser, range(batch), device), name == 'plain')
                for batch in options.batches
            ]
        compare(f'optimum of {size:,} images', 'images', ways, device, options)
        if options.check:
            share = identical_share(images, options.check, options.batches[0])
            print(f'{100 * share:.2f} % of {options.check} images equal the plain implementation in float64')


main = click.command()(report_errors(with_options(OptimumOptions)(compare_ways)))

if __name__ == '__main__':
    main()
