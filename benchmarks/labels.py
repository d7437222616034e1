"""Time the label layer with class indices and with one-hot labels: forward and backward, on the same weights in one run.

    python -m benchmarks.labels

The paper's 50,000 unique labels make a one-hot matrix of [batch, 50,000], and two products with it. Runs alternate. Their
median times and their results are compared.
"""

import math
import statistics
import time

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib.util import report_errors
from training.networks.layers import Init, Linear, embed_labels


@click.command()
@click.option('--num-classes', metavar='INT', default=50_000, show_default=True, help='Classes.')
@click.option('--batch', 'batch_size', metavar='INT', default=512, show_default=True, help='Images of a step.')
@click.option('--channels', metavar='INT', default=128, show_default=True, help="Width of the label's embedding.")
@click.option('--runs', metavar='INT', default=9, show_default=True, help='Runs of each way.')
@report_errors
def main(num_classes: int, batch_size: int, channels: int, runs: int) -> None:
    """Measure the label layer with class indices and with one-hot labels; on the CPU."""
    torch.manual_seed(0)
    layer = Linear(num_classes, channels, Init('xavier_uniform'))
    index = torch.randint(num_classes, [batch_size])
    target = torch.randn(batch_size, channels)
    # The first run of each way also allocates the gradient, and is not counted.
    gathered, plain = run(layer, index, target, one_hot=False), run(layer, index, target, one_hot=True)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(runs):
        for one_hot, times in seconds.items():
            start = time.perf_counter()
            run(layer, index, target, one_hot)
            times.append(time.perf_counter() - start)
    ours, theirs = (1000 * statistics.median(times) for times in seconds.values())
    difference = max(((a - b).norm() / b.norm()).item() for a, b in zip(gathered, plain, strict=True))
    print(f'{num_classes} classes, batch {batch_size}, {channels} channels, {torch.get_num_threads()} threads')
    print(f'gather of columns   {ours:9.2f} ms')
    print(f'one-hot and linear  {theirs:9.2f} ms')
    print(f'ratio               {theirs / ours:9.1f}x')
    print(f'relative difference of outputs and gradients: {difference:.1e}')


def run(layer: Linear, index: Tensor, target: Tensor, one_hot: bool) -> list[Tensor]:
    """One forward and backward pass; returns the output and the gradients of weight and bias."""
    layer.zero_grad()
    labels = F.one_hot(index, layer.in_features).float() if one_hot else index
    output = embed_labels(layer, labels, math.sqrt(layer.in_features))
    (output * target).sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]
    return [output.detach(), *gradients]


if __name__ == '__main__':
    main()
