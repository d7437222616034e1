"""Measure the cost of training, evaluation and held-out losses beyond the network's own arithmetic.

On a GPU, training and sampling replay CUDA graphs, but the arithmetic alone does not.

python -m benchmarks.step_overhead
"""

from dataclasses import dataclass

import click
import torch

from benchmarks.benchmark_networks import Measured, measured_networks
from benchmarks.sampling_speed import EVALUATIONS
from benchmarks.timing import TimingOptions, Way, compare
from cli.command import with_options
from dnnlib.options import option
from dnnlib.util import report_errors
from evaluation.memorization import TrainingImages
from torch_utils.distributed import choose_device
from torch_utils.misc import layout, place
from training.config import TrainingConfig
from training.dataset import Dataset, DatasetInfo, to_float
from training.held_out_loss import HeldOutLoss
from training.sampling import SamplerOptions, generate_images
from training.schedule import Schedule
from training.snapshot import NetworkConfig
from training.trainer import Trainer
from training.training_options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class OverheadOptions(TimingOptions):
    """What to measure; the device and the time are options of all benchmarks."""

    # fmt: off
    batch_paper: int = option(16, "Batch of the paper's network.", unit='INT', least=1)
    batch_demo: int = option(128, "Batch of the demo's network.", unit='INT', least=1)
    # fmt: on


def compare_ways(options: OverheadOptions) -> None:
    """Time complete steps and evaluations, and the same forward and backward passes alone, in float32."""
    device = choose_device(options.device)
    for measured in measured_networks(options.batch_paper, options.batch_demo):
        count, ending = measured.batch_size, f'{measured.name}, batch {measured.batch_size}'
        compare(f'training, {ending}', 'images', training_ways(measured, device), device, options)
        evaluation = evaluation_ways(measured, device)
        compare(f'evaluation, {ending}', 'images', evaluation, device, options)
        trainer, images = make_trainer(measured, device), Dataset('noise', random_pixels(measured, count), None, '')
        losses = HeldOutLoss(images, images, device)
        ways = [
            Way('training step', count, trainer.step, plain=True),
            Way('losses of training and held-out images', count, lambda: losses.evaluate(trainer.ema)),  # noqa: B023
        ]
        compare(f'held-out losses, {ending}', 'images of each set', ways, device, options)


def training_ways(measured: Measured, device: torch.device) -> list[Way]:
    trainer, bare = make_trainer(measured, device), make_trainer(measured, device)
    images = to_float(random_pixels(measured, measured.batch_size).to(device)).to(
        memory_format=layout(device, training=True)
    )

    def arithmetic() -> None:
        assert bare.flat.gradients is not None
        bare.flat.gradients.zero_()
        bare.loss(bare.forward, images).sum().backward()
        bare.optimizer.step()

    return [
        Way('forward, backward and optimizer', measured.batch_size, arithmetic, plain=True),
        Way('training step', measured.batch_size, trainer.step),
    ]


def evaluation_ways(measured: Measured, device: torch.device) -> list[Way]:
    net = measured.build().eval().requires_grad_(False)
    place(net, device)
    training = TrainingImages(random_pixels(measured, 50_000), device)
    x = measured.images().to(device, torch.float64)

    def denoise() -> None:
        with torch.inference_mode():
            for _ in range(EVALUATIONS):
                net(x, torch.ones([], device=device))

    def evaluate() -> None:
        for batch in generate_images(net, [list(range(measured.batch_size))], SamplerOptions(), device):
            training.nearest_two(batch.images)

    return [
        Way('the denoiser alone', measured.batch_size, denoise, plain=True),
        Way('sampling, and comparing with 50,000 images', measured.batch_size, evaluate),
    ]


def make_trainer(measured: Measured, device: torch.device) -> Trainer:
    size = 1000
    arguments = {'img_resolution': measured.resolution, 'img_channels': measured.channels, 'model_type': 'SongUNet',
                 'channel_mult': [2, 2, 2], 'dropout': 0.13, **measured.arguments}  # fmt: skip
    config = TrainingConfig(
        options=TrainingOptions(precond='vp', augment=0, lr=1e-4, seed=0),
        dataset=DatasetInfo('', '', size, measured.resolution, measured.channels, 0),
        network=NetworkConfig('VPPrecond', arguments),
        schedule=Schedule(size, measured.batch_size, 10**9, 0, 'mode2', 1000, 0.99929),
        precision='fp32',
        batch_gpu=measured.batch_size,
        snapshots=[],
        states=[],
    )
    return Trainer(config, Dataset('', random_pixels(measured, size), None, ''), device)


def random_pixels(measured: Measured, count: int) -> torch.Tensor:
    shape = [count, measured.channels, measured.resolution, measured.resolution]
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


main = click.command()(report_errors(with_options(OverheadOptions)(compare_ways)))

if __name__ == '__main__':
    main()
