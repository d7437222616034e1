"""Time one evaluation of each closed form, compared with a plain loop that follows its definition.

    python -m benchmarks.closed_forms --data=cifar-10-python.tar.gz

Each time is the processor time, in seconds, that one thread needs for one noisy image at noise level 20, 2 or 0.1.
Other load on the machine hardly affects processor time. The time with all of CIFAR-10 is extrapolated linearly from two
smaller training sets. The plain loop runs in NumPy and float64. Its time is proportional to the number of training
images, so it is measured with a few images and extrapolated. The Gaussian and the smoothed closed form are not compared
with a plain loop.
"""

import itertools
import time
from collections.abc import Callable

import click
import numpy as np
import torch
from torch import Tensor

from cli.command import Parsed
from dataset_utils import open_source
from dataset_utils.sources.partial import PartialSource
from dnnlib.options import integer_list
from dnnlib.util import report_errors
from training.closed_form import make_denoiser
from training.closed_form.local_score import LocalScoreDenoiser
from training.closed_form.patch import PatchDenoiser
from training.closed_form.pca_locality import PCALocalityDenoiser

LEVELS = (20.0, 2.0, 0.1)
FULL = 50_000


def seconds(action: Callable[[], object]) -> float:
    """Time the second call, in seconds of processor time; the first call may do one-time preparation."""
    action()
    start = time.process_time()
    action()
    return time.process_time() - start


def plain(name: str, images: np.ndarray, noisy: np.ndarray, sigma: float, window: int, masks: list | None) -> None:
    """Evaluate a closed form in a plain loop that follows its definition.

    images: training images, float64 [N, C, R, R]. noisy: a noisy image, float64 [C, R, R].
    """
    size, half = noisy.shape[1], window // 2

    def mean(squares: np.ndarray, values: np.ndarray) -> np.ndarray:
        logits = -squares / (2 * sigma**2)
        weights = np.exp(logits - logits.max())
        return np.tensordot(weights / weights.sum(), values, axes=1)

    if name == 'optimal':
        mean(np.square(images - noisy).sum(axis=(1, 2, 3)), images)
    elif name == 'patch':
        places = range(size - window + 1)
        for i, j in itertools.product(places, places):
            patch = np.s_[..., i : i + window, j : j + window]
            mean(np.square(images[patch] - noisy[patch]).sum(axis=(1, 2, 3)), images[patch])
    elif name == 'local':
        for i, j in itertools.product(range(size), range(size)):
            there = np.s_[..., max(i - half, 0) : i + half + 1, max(j - half, 0) : j + half + 1]
            mean(np.square(images[there] - noisy[there]).sum(axis=(1, 2, 3)), images[:, :, i, j])
    elif masks is not None:
        rows, query = images.reshape(len(images), -1), noisy.ravel()
        for number, mask in enumerate(masks):
            mean(np.square(rows[:, mask] - query[mask]).sum(axis=1), rows[:, number])


def measure(name: str, images: Tensor, count: int, plain_count: int, batch: int, sigma: float) -> tuple[float, float]:
    """Time the toolkit's denoiser and the plain loop with `count` training images, in seconds per noisy image.

    The plain loop is timed with `plain_count` training images, and its time is extrapolated.
    """
    denoiser = make_denoiser(name, images[:count])
    random = torch.Generator().manual_seed(0)
    clean = images[:batch].double() / 127.5 - 1
    x = clean + sigma * torch.randn(clean.shape, generator=random, dtype=torch.float64)
    fast = seconds(lambda: denoiser(x, sigma)) / batch
    window = denoiser.windows.at(sigma) if isinstance(denoiser, LocalScoreDenoiser | PatchDenoiser) else 1
    masks = None
    if isinstance(denoiser, PCALocalityDenoiser):
        masks = [mask.numpy() for mask in denoiser.masks((127.5 * sigma) ** 2)]
    few = images[:plain_count].double().numpy() / 127.5 - 1
    slow = seconds(lambda: plain(name, few, x[0].numpy(), sigma, window, masks)) * count / plain_count
    return fast, slow


@click.command()
@report_errors
@click.option('--data', type=str, required=True, help='Training set.')
@click.option('--sizes', type=Parsed(integer_list), default='1000,4000', help='Two training-set sizes to time.')
@click.option('--names', default='optimal,gaussian,smoothed,patch,local,pca-locality', help='Closed forms to time.')
@click.option('--plain-images', type=int, default=20, help='Number of training images for the plain loop.')
@click.option('--batch', type=int, default=8, help='Number of noisy images.')
def main(data: str, sizes: list[int], names: str, plain_images: int, batch: int) -> None:
    """Print a row for each closed form and noise level."""
    torch.set_num_threads(1)
    source = open_source(data)
    images = torch.from_numpy(np.array(PartialSource(source, range(max(sizes)))[np.arange(max(sizes))]))
    small, large = sorted(sizes)
    print(f'| closed form | sigma | {large:,} images, s | times plain loop | {FULL:,} images, s | times optimum |')
    print('|---|---|---|---|---|---|')
    optimum: dict[float, float] = {}
    for name in names.split(','):
        for sigma in LEVELS:
            fast, slow = measure(name, images, large, plain_images, batch, sigma)
            least, _ = measure(name, images, small, plain_images, batch, sigma)
            full = fast + (fast - least) / (large - small) * (FULL - large)
            optimum.setdefault(sigma, full)
            ratio = '' if name in ('gaussian', 'smoothed') else f'{slow / fast:.1f}'
            print(
                f'| {name} | {sigma:g} | {fast:.4g} | {ratio} | {full:.3g} | {full / optimum[sigma]:.3g} |', flush=True
            )


if __name__ == '__main__':
    main()
