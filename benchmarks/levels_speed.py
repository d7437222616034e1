"""Measure how the processor time of `diagnose.py levels` divides between the network and the closed forms.

    python -m benchmarks.levels_speed --data=cifar10-train.zip --test=cifar10-test.zip

One line is printed for each batch of images, with the times at all noise levels since the start. Use one thread
(OMP_NUM_THREADS=1) to measure the time of one core. The network has random weights, which do not affect its speed.
"""

import time
from dataclasses import dataclass
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks.benchmark_networks import measured_networks
from dnnlib.util import report_errors
from evaluation.diagnosis.image_sets import load_sets
from evaluation.diagnosis.levels import LevelsRequest, Measured
from evaluation.diagnosis_options import DenoisingOptions, LevelsOptions
from torch_utils.misc import place


@dataclass
class Timed:
    """A denoiser that adds up the processor time of its calls, in seconds."""

    denoiser: Any
    seconds: float = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.denoiser, name)

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        start = time.process_time()
        denoised = self.denoiser(x, sigma, class_labels)
        self.seconds += time.process_time() - start
        return denoised


@click.command()
@click.option('--data', metavar='ZIP', required=True, help='Training set.')
@click.option('--test', metavar='ZIP', required=True, help='Held-out set. Noise is added to its images.')
@click.option('--levels', metavar='INT', default=18, show_default=True, help='Number of noise levels.')
@click.option('--num', metavar='INT', default=1000, show_default=True, help='Number of images.')
@click.option('--batch', metavar='INT', default=64, show_default=True, help='Images at a time.')
@report_errors
def main(data: str, test: str, levels: int, num: int, batch: int) -> None:
    """Measure the time of `diagnose.py levels --from=test`, batch by batch."""
    sets = load_sets(data, test, num, allow_overlap=False)
    start = time.process_time()
    network: Any = place(measured_networks(batch, batch)[0].build().eval().requires_grad_(False), 'cpu')
    options = LevelsOptions(levels=levels, denoising=DenoisingOptions(batch_size=batch))
    measured = Measured(LevelsRequest(options, sets, ['test'], (), torch.device('cpu')), Timed(network))
    measured.references = {name: Timed(denoiser) for name, denoiser in measured.references.items()}
    timed: dict[str, Any] = {'network': measured.denoiser, **measured.references}
    print(f'{len(measured.levels)} levels, |D| = {len(sets.training.images):,}, {torch.get_num_threads()} threads, '
          f'{torch.backends.cpu.get_cpu_capability()}')  # fmt: skip
    for first in range(0, num, batch):
        part = slice(first, min(first + batch, num))
        measured.noised(part, 'test')
        total = time.process_time() - start
        parts = ', '.join(
            f'{name} {denoiser.seconds:.1f} s ({100 * denoiser.seconds / total:.1f} %)'
            for name, denoiser in timed.items()
        )
        print(f'{part.stop} images: {total:.1f} s: {parts}', flush=True)


if __name__ == '__main__':
    main()
