"""Draw the two figures of docs/optimal_denoiser.md.

    python -m benchmarks.optimal_figures --data=cifar-10-python.tar.gz --outdir=docs/figures

`optimum_replays.png` shows images sampled with the optimal denoiser, each next to its nearest training image.
A denoised image is a weighted mean of training images; `optimum_effective_number.png` plots the effective number of
these training images by noise level.
"""

from pathlib import Path

import click
import matplotlib
import torch
from torch import Tensor

from dnnlib.util import atomic_file, report_errors
from evaluation.memorization import memorization_ratio
from evaluation.pictures import draw_gallery
from training.closed_form.optimal import OptimalDenoiser
from training.contact_sheets import save_picture
from training.dataset import load_dataset
from training.sampling import StackedRandomGenerator, edm_sampler, rho_schedule, to_uint8

matplotlib.use('Agg')


def draw_replays(denoiser: OptimalDenoiser, images: Tensor, latents: Tensor, path: Path) -> None:
    """Draw generated images next to their nearest training images."""
    generated = to_uint8(edm_sampler(denoiser, latents))
    save_picture(path, draw_gallery(generated, memorization_ratio(generated, images), images, 'The optimal denoiser'))


def draw_effective_number(denoiser: OptimalDenoiser, latents: Tensor, path: Path) -> None:
    """Plot quartiles of the effective number of training images by noise level, along Euler sampling trajectories."""
    from matplotlib import pyplot

    sigmas = rho_schedule(0.002, 80, 18, 7).tolist()
    x, numbers = latents.double() * sigmas[0], []
    for sigma, sigma_next in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        numbers.append(
            denoiser.statistics(x, sigma).effective_number.quantile(torch.tensor([0.25, 0.5, 0.75]).double())
        )
        denoised = denoiser(x, sigma)
        x = denoised + (x - denoised) * (sigma_next / sigma)
        print(f'sigma {sigma:8.3f}: median effective number {numbers[-1][1]:.1f}', flush=True)
    low, middle, high = torch.stack(numbers, dim=1).tolist()
    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    axes.fill_between(sigmas, low, high, alpha=0.3, linewidth=0, label='middle half of the images')
    axes.plot(sigmas, middle, marker='o', markersize=4, label='median')
    axes.set(xscale='log', yscale='log', xlabel='noise level sigma', ylabel='effective number of training images')
    axes.legend(frameon=False)
    figure.tight_layout()
    with atomic_file(path) as file:
        figure.savefig(file, format='png', dpi=120, metadata={'Software': None})


@click.command()
@click.option('--data', metavar='ZIP|DIR', type=str, required=True, help='Training set.')
@click.option('--outdir', metavar='DIR', type=str, required=True, help='Folder for the figures.')
@click.option(
    '--count', metavar='INT', type=click.IntRange(min=1), default=128, show_default=True, help='Number of trajectories.'
)
@report_errors
def main(data: str, outdir: str, count: int) -> None:
    """Draw the two figures."""
    images = load_dataset(data).images
    denoiser = OptimalDenoiser(images)
    shape = [count, denoiser.img_channels, denoiser.img_resolution, denoiser.img_resolution]
    latents = StackedRandomGenerator('cpu', range(count)).randn(shape)
    folder = Path(outdir)
    folder.mkdir(parents=True, exist_ok=True)
    draw_replays(denoiser, images, latents[:24], folder / 'optimum_replays.png')
    draw_effective_number(denoiser, latents, folder / 'optimum_effective_number.png')


if __name__ == '__main__':
    main()
