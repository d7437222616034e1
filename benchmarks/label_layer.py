"""Time forward and backward passes of the label layer, with class indices and with one-hot labels.

    python -m benchmarks.label_layer

With the paper's 50,000 unique labels, one-hot labels are a matrix [batch, 50,000]. This matrix is multiplied once in
the forward pass and once in the backward pass. The script also compares the results of class indices and of one-hot
labels.
"""

import math
from dataclasses import dataclass
from functools import partial

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import TimingOptions, Way, compare
from cli.command import with_options
from dnnlib.options import option
from dnnlib.util import report_errors
from torch_utils.distributed import choose_device
from training.networks.layers import Init, Linear, embed_labels


@dataclass(frozen=True, kw_only=True)
class LabelOptions(TimingOptions):
    """Size of the label layer."""

    # fmt: off
    num_classes: int = option(50_000, 'Number of classes.', unit='INT', least=1)
    batch_size: int = option(512, 'Number of images per step.', name='batch', unit='INT', least=1)
    channels: int = option(128, 'Width of the label embedding.', unit='INT', least=1)
    # fmt: on


def compare_ways(options: LabelOptions) -> None:
    """Time the label layer with class indices and with one-hot labels."""
    device = choose_device(options.device)
    torch.manual_seed(0)
    layer = Linear(options.num_classes, options.channels, Init('xavier_uniform')).to(device)
    index = torch.randint(options.num_classes, [options.batch_size], device=device)
    target = torch.randn(options.batch_size, options.channels, device=device)
    gathered, plain = (run(layer, index, target, one_hot) for one_hot in (False, True))
    ways = [
        Way('gather of columns', 1, partial(run, layer, index, target, one_hot=False)),
        Way('one-hot and linear', 1, partial(run, layer, index, target, one_hot=True), plain=True),
    ]
    compare(f'{options.num_classes:,} classes, batch {options.batch_size}', 'steps', ways, device, options)
    difference = max(((a - b).norm() / b.norm()).item() for a, b in zip(gathered, plain, strict=True))
    print(f'largest relative difference of outputs and gradients: {difference:.1e}')


def run(layer: Linear, index: Tensor, target: Tensor, one_hot: bool) -> list[Tensor]:
    """Make one forward and backward pass; return the output and the gradients of weight and bias."""
    layer.zero_grad()
    labels = F.one_hot(index, layer.in_features).float() if one_hot else index
    output = embed_labels(layer, labels, math.sqrt(layer.in_features))
    (output * target).sum().backward()
    gradients = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
    return [output.detach(), *gradients]


main = click.command()(report_errors(with_options(LabelOptions)(compare_ways)))

if __name__ == '__main__':
    main()
