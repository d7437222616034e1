"""Time all metrics of features, in seconds of the processor and of the clock, and their peak memory.

    python -m benchmarks.feature_metrics --images=50000 --features=512

The features are random mixtures of a few dozen factors, as a network's are; every tenth generated one is a near-copy.
"""

import resource
import time

import click
import numpy as np
import torch

from evaluation.metrics import METRICS
from evaluation.metrics.distances import Inputs
from evaluation.spaces import FeatureSpace


@click.command()
@click.option('--images', metavar='INT', default=50_000, show_default=True, help='Images of each of two sets.')
@click.option('--features', metavar='INT', default=512, show_default=True, help='Features of an image.')
@click.option('--metrics', metavar='LIST', help='Metrics to time. [default: all]')
def main(images: int, features: int, metrics: str | None) -> None:
    """Time metrics of features of generated, training and a tenth as many held-out images."""
    random = np.random.default_rng(0)
    mixing = random.normal(size=(48, features)).astype(np.float32)

    def rows(count: int) -> np.ndarray:
        factors = random.normal(size=(count, 48)).astype(np.float32)
        return factors @ mixing + 0.3 * random.normal(size=(count, features)).astype(np.float32)

    training, generated, test = rows(images), rows(images), rows(images // 10)
    generated[::10] = training[::10] + 0.01 * rows(len(training[::10]))
    inputs = Inputs(FeatureSpace(), generated, training, test)
    print(f'{images} images, {features} features, {torch.get_num_threads()} threads')
    for name in metrics.split(',') if metrics else METRICS:
        start, processor = time.perf_counter(), time.process_time()
        METRICS[name].compute(inputs, seed=0)
        used = time.process_time() - processor, time.perf_counter() - start
        print(f'{name:18} {used[0]:8.1f} s of the processor {used[1]:8.1f} s', flush=True)
    print(f'peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB')


if __name__ == '__main__':
    main()
