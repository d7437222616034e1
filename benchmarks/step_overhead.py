"""Measure three shares: of a training step spent outside forward pass, backward pass and optimizer; of an evaluation
spent in the denoiser; and of a training run spent on the held-out loss.

python -m benchmarks.step_overhead
"""

import time
from collections.abc import Callable
from typing import Any

import click
import torch

from benchmarks.benchmark_networks import Measured, measured_networks
from dnnlib.util import report_errors
from evaluation.memorization import TrainingImages
from torch_utils.misc import place
from training.config import TrainingConfig
from training.dataset import Dataset, DatasetInfo
from training.held_out_loss import HeldOutLoss, Images
from training.sampling import SamplerOptions, generate_images
from training.schedule import Schedule
from training.snapshot import NetworkConfig
from training.trainer import Trainer
from training.training_options import TrainingOptions

# Defaults of train.py: images between two status lines, and images per set in the losses of --test-data.
TICK_IMAGES, TEST_IMAGES = 50_000, 256


class Clock:
    """Adds up the time spent in wrapped functions, counting nested calls once."""

    def __init__(self) -> None:
        self.seconds, self.is_running = 0.0, False

    def wrap(self, function: Callable) -> Callable:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.is_running:
                return function(*args, **kwargs)
            self.is_running, start = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start
                self.is_running = False

        return timed


@click.command()
@click.option('--batch-paper', metavar='INT', default=16, show_default=True, help="Batch size of the paper's network.")
@click.option('--batch-demo', metavar='INT', default=128, show_default=True, help="Batch size of the demo's network.")
@click.option('--steps', metavar='INT', default=10, show_default=True, help='Number of training steps to time.')
@click.option('--precision', metavar='fp32|bf16', default='fp32', show_default=True, help='Arithmetic.')
@report_errors
def main(batch_paper: int, batch_demo: int, steps: int, precision: str) -> None:
    """Measure what training and evaluation spend on work other than the network's arithmetic, on the CPU."""
    for measured in measured_networks(batch_paper, batch_demo):
        print(f'\n{measured.name}, batch {measured.batch_size}, {precision}')
        share = training_share(measured, steps, precision)
        print(f'training: {100 * (1 - share):.2f} % outside forward, backward and optimizer')
        share = evaluation_share(measured, precision)
        print(f'evaluation: {100 * share:.2f} % in the denoiser')
        share = held_out_share(measured, precision)
        print(f'training with --test-data: {100 * share:.2f} % in the losses of {TEST_IMAGES} images per set')


def training_share(measured: Measured, steps: int, precision: str) -> float:
    trainer = make_trainer(measured, precision)
    trainer.step()
    clock = Clock()
    trainer.loss = clock.wrap(trainer.loss)  # type: ignore[assignment]
    trainer.optimizer.step = clock.wrap(trainer.optimizer.step)  # type: ignore[method-assign]
    torch.Tensor.backward = clock.wrap(torch.Tensor.backward)  # type: ignore[method-assign]
    start = time.perf_counter()
    for _ in range(steps):
        trainer.step()
    return clock.seconds / (time.perf_counter() - start)


def make_trainer(measured: Measured, precision: str) -> Trainer:
    size = 1000
    arguments = {'img_resolution': measured.resolution, 'img_channels': measured.channels, 'model_type': 'SongUNet',
                 'channel_mult': [2, 2, 2], 'dropout': 0.13, **measured.arguments}  # fmt: skip
    options = TrainingOptions(precond='vp', augment=0, lr=1e-4, seed=0)
    config = TrainingConfig(
        options=options,
        dataset=DatasetInfo('', '', size, measured.resolution, measured.channels, 0),
        network=NetworkConfig('VPPrecond', arguments),
        schedule=Schedule(size, measured.batch_size, 10**9, 0, 'mode2', 1000, 0.99929),
        precision=precision,
        batch_gpu=measured.batch_size,
        snapshots=[],
        states=[],
    )
    return Trainer(config, Dataset('', random_pixels(measured, size), None, ''), torch.device('cpu'))


def evaluation_share(measured: Measured, precision: str) -> float:
    net = measured.build().eval().requires_grad_(False)
    place(net, 'cpu')
    net.set_precision(precision)
    training = TrainingImages(random_pixels(measured, 50_000))
    clock = Clock()
    net.forward = clock.wrap(net.forward)  # type: ignore[method-assign]
    start = time.perf_counter()
    for batch in generate_images(net, [list(range(measured.batch_size))], SamplerOptions(), 'cpu'):
        training.nearest_two(batch.images)
    return clock.seconds / (time.perf_counter() - start)


def held_out_share(measured: Measured, precision: str) -> float:
    """The share of a tick's processor time spent on the losses of `--test-data`, at the defaults of train.py.

    One training step and the losses of one batch per set are timed and scaled to the image counts of a tick.
    """
    trainer = make_trainer(measured, precision)
    trainer.step()
    images = Images(random_pixels(measured, measured.batch_size), None)
    held_out = HeldOutLoss(images, images, torch.device('cpu'))
    times = []
    for function in (trainer.step, lambda: held_out.evaluate(trainer.ema)):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    step, losses = times[0] * TICK_IMAGES, times[1] * TEST_IMAGES
    return losses / (step + losses)


def random_pixels(measured: Measured, count: int) -> torch.Tensor:
    shape = [count, measured.channels, measured.resolution, measured.resolution]
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


if __name__ == '__main__':
    main()
