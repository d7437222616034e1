"""The two networks that are measured: the paper's, and the demo's."""

from dataclasses import dataclass

import torch

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
