"""Time the three denoisers of `diagnose.py levels`: the paper's network, the Gaussian denoiser and the optimum.

    python -m benchmarks.levels_speed --data=cifar10-train.zip

Each denoises a batch of noisy images at all noise levels. The network has random weights, which do not change its time.
"""

from dataclasses import dataclass
from functools import partial

import click
import torch

from benchmarks.benchmark_networks import measured_networks
from benchmarks.optimal_denoiser import training_images
from benchmarks.timing import TimingOptions, Way, compare
from cli.command import with_options
from dnnlib.options import option
from dnnlib.util import report_errors
from torch_utils.distributed import choose_device
from torch_utils.misc import place
from training.closed_form import GaussianDenoiser, OptimalDenoiser
from training.dataset import to_float
from training.denoiser import Denoiser
from training.sampling import rho_schedule


@dataclass(frozen=True, kw_only=True)
class LevelsSpeedOptions(TimingOptions):
    """What to measure; the device and the time are options of all benchmarks."""

    # fmt: off
    data: str | None = option(None, 'Training set. [default: random images of 3x32x32]', unit='ZIP|DIR|NPZ|NPY')
    size: int = option(50_000, 'Number of training images.', unit='INT', least=2)
    batch_size: int = option(64, 'Number of noisy images.', name='batch', unit='INT', least=1)
    levels: int = option(18, 'Number of noise levels.', unit='INT', least=2)
    # fmt: on


def compare_ways(options: LevelsSpeedOptions) -> None:
    """Time each denoiser on a batch of images at all noise levels."""
    device = choose_device(options.device)
    images = training_images(options.data, options.size)
    clean = to_float(images[: options.batch_size]).to(device, torch.float64)
    noise = torch.randn(clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device)
    levels = rho_schedule(0.002, 80, options.levels, 7).tolist()
    network = measured_networks(1, 1)[0].build().eval().requires_grad_(False)
    place(network, device)
    denoisers: dict[str, Denoiser] = {
        'network': network,
        'Gaussian': GaussianDenoiser(images, device=device),
        'optimum': OptimalDenoiser(images, device=device),
    }

    def denoise(denoiser: Denoiser) -> None:
        with torch.inference_mode():
            for sigma in levels:
                denoiser(clean + sigma * noise, torch.tensor(sigma, dtype=torch.float64, device=device))

    ways = [
        Way(name, len(clean), partial(denoise, denoiser), plain=name == 'network')
        for name, denoiser in denoisers.items()
    ]
    task = f'{options.levels} noise levels, {len(images):,} training images, batch {len(clean)}'
    compare(task, 'images', ways, device, options)


main = click.command()(report_errors(with_options(LevelsSpeedOptions)(compare_ways)))

if __name__ == '__main__':
    main()
