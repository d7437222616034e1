"""Time all metrics on image features.

    python -m benchmarks.feature_metrics --images=50000 --features=512

The features are random mixtures of 48 factors plus noise, to resemble the features of a network. Every tenth generated
image is a near-copy of a training image. Each metric is computed at least three times: once to measure its peak memory,
and twice to time it.
"""

from dataclasses import dataclass
from functools import partial

import click
import numpy as np

from benchmarks.timing import TimingOptions, Way, compare
from cli.command import with_options
from dnnlib.options import option, word_list
from dnnlib.util import report_errors
from evaluation.metrics import METRICS
from evaluation.metrics.distances import Inputs
from evaluation.spaces import FeatureSpace
from torch_utils.distributed import choose_device


@dataclass(frozen=True, kw_only=True)
class FeatureOptions(TimingOptions):
    """Size of the sets, and the metrics to time."""

    # fmt: off
    images: int = option(50_000, 'Size of the training set and of the generated set; a tenth as many images are held out.', unit='INT', least=10)
    features: int = option(512, 'Number of features per image.', unit='INT', least=1)
    metrics: list[str] = option(','.join(METRICS), 'Metrics to time.', unit='LIST', parse=word_list)
    # fmt: on


def compare_metrics(options: FeatureOptions) -> None:
    """Time metrics on the features of generated, training and held-out images."""
    random = np.random.default_rng(0)
    mixing = random.normal(size=(48, options.features)).astype(np.float32)

    def rows(count: int) -> np.ndarray:
        factors = random.normal(size=(count, 48)).astype(np.float32)
        return factors @ mixing + 0.3 * random.normal(size=(count, options.features)).astype(np.float32)

    training, generated, test = rows(options.images), rows(options.images), rows(options.images // 10)
    generated[::10] = training[::10] + 0.01 * rows(len(training[::10]))
    device = choose_device(options.device)
    inputs = Inputs(FeatureSpace(device), generated, training, test)
    ways = [Way(name, options.images, partial(METRICS[name].compute, inputs, seed=0)) for name in options.metrics]
    compare(f'metrics of {options.images:,} images with {options.features} features', 'images', ways, device, options)


main = click.command()(report_errors(with_options(FeatureOptions)(compare_metrics)))

if __name__ == '__main__':
    main()
