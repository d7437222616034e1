"""Compares implementations of training or sampling, with two networks: the paper's network and the demo's."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.edm_checkout import edm_modules
from benchmarks.timing import TimingOptions, Way, compare
from cli.command import with_options
from dnnlib.options import option
from dnnlib.util import report_errors
from torch_utils.distributed import choose_device
from torch_utils.misc import layout
from training.preconditioning import VPPrecond


@dataclass(frozen=True)
class Measured:
    """A network and its batch size."""

    name: str
    resolution: int
    channels: int
    batch_size: int
    arguments: dict

    def build(self) -> VPPrecond:
        torch.manual_seed(0)
        common = {'model_type': 'SongUNet', 'channel_mult': [2, 2, 2], 'dropout': 0.13}
        return VPPrecond(self.resolution, self.channels, **{**common, **self.arguments})

    def build_edm(self, networks: Any) -> torch.nn.Module:
        """Build this network with EDM's code. networks: EDM's module `training.networks`."""
        common = {'model_type': 'SongUNet', 'channel_mult': [2, 2, 2], 'dropout': 0.13}
        return networks.VPPrecond(self.resolution, self.channels, **{**common, **self.arguments})

    def images(self) -> torch.Tensor:
        return torch.randn(self.batch_size, self.channels, self.resolution, self.resolution)


def measured_networks(batch_paper: int, batch_demo: int) -> list[Measured]:
    """The paper's basic network and the network of `--preset=digits`."""
    paper = {'model_channels': 128, 'num_blocks': 2, 'attn_resolutions': [16]}
    demo = {'model_channels': 16, 'num_blocks': 1, 'attn_resolutions': [4], 'dropout': 0}
    return [
        Measured('paper: DDPM++, 128 channels, 2 blocks, 32x32', 32, 3, batch_paper, paper),
        Measured('demo: DDPM++, 16 channels, 1 block, 8x8', 8, 1, batch_demo, demo),
    ]


Step = Callable[[], None]


@dataclass(frozen=True)
class Variant:
    """How this toolkit's code runs a network.

    replayed: whether a CUDA graph launches the kernels. compiled: whether the network is compiled.
    """

    precision: str
    channels_last: bool = True
    replayed: bool = False
    compiled: bool = False

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def name(self) -> str:
        flags = ('channels_last', 'replayed', 'compiled')
        return ' '.join([self.precision, *(flag for flag in flags if getattr(self, flag))])


def variants(device: torch.device, training: bool, compiled: bool, layouts: bool) -> list[Variant]:
    """The variants to time: all precisions in the layout that this toolkit uses, and others on request.

    training: whether networks are trained, not evaluated.
    layouts: whether to time both memory layouts. On a GPU, each variant is timed with and without CUDA graphs.
    compiled: whether to also time a compiled network in bfloat16.
    """
    on_gpu = device.type == 'cuda'
    found = []
    for precision in ['fp32', 'tf32', 'bf16', 'fp16'] if on_gpu else ['fp32', 'bf16']:
        used = layout(device, precision, training) == torch.channels_last
        for channels_last in (False, True) if layouts else (used,):
            found.append(Variant(precision, channels_last))
            found += [Variant(precision, channels_last, replayed=True)] * on_gpu
    found += [Variant('bf16', compiled=True)] * compiled
    return found + [Variant('bf16', compiled=True, replayed=True)] * (compiled and on_gpu)


@dataclass(frozen=True, kw_only=True)
class SpeedOptions(TimingOptions):
    """Which networks to time."""

    # fmt: off
    network: str = option('all', 'Network to time.', choices=('paper', 'demo', 'all'))
    batch_paper: int = option(16, "Batch size of the paper's network.", unit='INT', least=1)
    batch_demo: int = option(256, "Batch size of the demo's network.", unit='INT', least=1)
    compiled: bool = option(False, 'Also time a compiled network in bfloat16; compiling takes a minute or two.', name='compile', switch=True)
    layouts: bool = option(True, 'Time both memory layouts.', switch=True)
    edm: Path | None = option(None, "Checkout of NVlabs/edm whose code is timed as well.", unit='DIR')
    # fmt: on


@dataclass(frozen=True)
class NetworkWork:
    """A task, training or sampling, that several implementations perform with the same networks.

    steps: number of network evaluations or training steps per image. plain, edm, ours: functions that return one step
    of the plain baseline, of EDM's code and of this toolkit. `edm` takes EDM's modules `training.networks` and
    `training.loss`.
    """

    name: str
    steps: int
    plain: Callable[[Measured, torch.device], Step]
    edm: Callable[[Measured, torch.device, Any, Any], Step]
    ours: Callable[[Measured, torch.device, Variant], Step]

    def compare(self, options: SpeedOptions) -> None:
        """Print the images per second of each implementation and its speed relative to the fastest baseline."""
        device = choose_device(options.device)
        for measured in measured_networks(options.batch_paper, options.batch_demo):
            if options.network not in ('all', measured.name.split(':')[0]):
                continue

            def way(name: str, step: Step, plain: bool = False, measured: Measured = measured) -> Way:
                return Way(name, measured.batch_size / self.steps, step, plain)

            found = [way('plain', self.plain(measured, device), plain=True)]
            if options.edm is not None:
                found.append(way('edm', self.edm(measured, device, *edm_modules(options.edm)), plain=True))
            for variant in variants(device, self.name == 'training', options.compiled, options.layouts):
                found.append(way(variant.name, self.ours(measured, device, variant)))
            compare(f'{self.name}, {measured.name}, batch {measured.batch_size}', 'images', found, device, options)

    def command(self, help: str) -> click.Command:
        return click.command(help=help)(report_errors(with_options(SpeedOptions)(self.compare)))
