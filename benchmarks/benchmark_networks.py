"""The two networks that are measured, the paper's and the demo's, and the comparison of ways to compute with them."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import click
import torch

from cli.command import with_options
from dnnlib.options import option
from dnnlib.util import report_errors
from torch_utils.distributed import choose_device
from training.preconditioning import VPPrecond


@dataclass(frozen=True)
class Measured:
    """A network and the number of images of one pass."""

    name: str
    resolution: int
    channels: int
    batch_size: int
    arguments: dict

    def build(self) -> VPPrecond:
        torch.manual_seed(0)
        common = {'model_type': 'SongUNet', 'channel_mult': [2, 2, 2], 'dropout': 0.13}
        return VPPrecond(self.resolution, self.channels, **{**common, **self.arguments})

    def images(self) -> torch.Tensor:
        return torch.randn(self.batch_size, self.channels, self.resolution, self.resolution)


def measured_networks(batch_paper: int, batch_demo: int) -> list[Measured]:
    """The paper's basic network, and the network of `--preset=digits`."""
    paper = {'model_channels': 128, 'num_blocks': 2, 'attn_resolutions': [16]}
    demo = {'model_channels': 16, 'num_blocks': 1, 'attn_resolutions': [4], 'dropout': 0}
    return [
        Measured('paper: DDPM++, 128 channels, 2 blocks, 32x32', 32, 3, batch_paper, paper),
        Measured('demo: DDPM++, 16 channels, 1 block, 8x8', 8, 1, batch_demo, demo),
    ]


def ways(device: torch.device, compiled: bool) -> list[tuple[str, bool, bool]]:
    """All combinations of precision, channels_last and compilation that a device supports."""
    precisions = ['fp32', 'bf16'] if device.type == 'cpu' else ['fp32', 'tf32', 'bf16', 'fp16']
    return [
        (precision, channels_last, with_compile)
        for precision in precisions
        for channels_last in (False, True)
        for with_compile in ([False, True] if compiled else [False])
    ]


Step = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """What to measure, and for how long."""

    # fmt: off
    network: str = option('all', 'What to measure.', choices=('paper', 'demo', 'all'))
    batch_paper: int = option(16, "Batch of the paper's network.", unit='INT', least=1)
    batch_demo: int = option(256, "Batch of the demo's network.", unit='INT', least=1)
    seconds: float = option(5, 'Time for each way, and as much for the plain one.', unit='FLOAT', above=0)
    compiled: bool = option(False, 'Compiled networks as well; a minute or two each.', name='compile', switch=True)
    device: str = option('auto', 'Where to compute.', unit='auto|cuda|cpu')
    # fmt: on


def speed_command(
    plain: Callable[[Measured, torch.device], Step],
    step: Callable[[Measured, torch.device, str, bool, bool], Step],
    steps_per_image: int,
    help: str,
) -> click.Command:
    """A command that prints images per second of each way of computing, also relative to the plain way.

    plain, step: make what is timed; `step` for a precision, channels_last, and compilation.
    """

    @click.command(help=help)
    @report_errors
    @with_options(SpeedOptions)
    def main(options: SpeedOptions) -> None:
        device = choose_device(options.device)
        for measured in measured_networks(options.batch_paper, options.batch_demo):
            if options.network not in ('all', measured.name.split(':')[0]):
                continue
            print(f'\n{measured.name}, batch {measured.batch_size}, {device.type}, {torch.get_num_threads()} threads, '
                  f'{torch.backends.cpu.get_cpu_capability()}')  # fmt: skip
            base = plain(measured, device)
            for precision, channels_last, compiled in ways(device, options.compiled):
                found = step(measured, device, precision, channels_last, compiled)
                rate, ratio = compare(found, base, measured.batch_size, options.seconds, device)
                layout = 'channels_last' if channels_last else 'contiguous'
                mode, rate = 'compiled' if compiled else 'eager', rate / steps_per_image
                print(f'{precision}  {layout:<14} {mode:<9} {rate:>10.2f} img/s  {ratio:>6.2f}x', flush=True)

    return main


def compare(step: Step, plain: Step, batch_size: int, seconds: float, device: torch.device) -> tuple[float, float]:
    """Images per second of `step`, and their ratio to the images per second of `plain`."""
    times: dict[bool, list[float]] = {True: [], False: []}
    for action in (step, plain):
        action()
    deadline = time.perf_counter() + 2 * seconds
    while time.perf_counter() < deadline or len(times[False]) < 3:
        for is_plain, action in ((False, step), (True, plain)):
            for _ in range(3):
                start = time.perf_counter()
                action()
                if device.type == 'cuda':
                    torch.cuda.synchronize()
                times[is_plain].append(time.perf_counter() - start)
    ours, theirs = (statistics.median(times[key]) for key in (False, True))
    return batch_size / ours, theirs / ours
