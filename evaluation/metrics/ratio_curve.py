"""The memorization ratio at every threshold, and the distribution of d1/d2 that determines it.

d1 and d2 are the distances from a generated image to its nearest and second-nearest distinct training images. An image
counts as a copy at a threshold t if d1 < t · d2; the usual threshold is 1/3 (Gu et al. 2023, Yoon et al. 2023). The
curve shows whether a ratio depends on this choice. d1/d2 is near 0 for copies and near 1 for new images, and a model
that memorizes makes few images in between.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from evaluation.memorization import memorized
from evaluation.metrics.distances import Distances

# Thresholds 0.01, 0.02, …, 1. At 1, all images are copies except those equally near to two training images.
THRESHOLDS = tuple(step / 100 for step in range(1, 101))
QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class RatioCurve:
    """The memorization ratio at many thresholds, and statistics of d1/d2.

    ratios: the memorization ratio at each of `thresholds`. quantiles: the quantiles of d1/d2 at `quantile_levels`.
    mean: the mean of d1/d2.
    """

    thresholds: list[float]
    ratios: list[float]
    quantile_levels: list[float]
    quantiles: list[float]
    mean: float


def from_distances(distances: Distances, seed: int) -> RatioCurve:
    _, squared = distances.nearest_two
    return ratio_curve(squared[:, 0], squared[:, 1])


def ratio_curve(nearest: Tensor, second: Tensor) -> RatioCurve:
    """Compute the curve from the squared distances to the nearest and second-nearest distinct training images.

    nearest, second: [N] with N >= 1, both of the same dtype.
    Thresholds are applied as in `evaluation.memorization.memorized`. Quantiles are interpolated linearly. If d2 is 0
    (possible for distinct features by underflow), d1/d2 is set to 1.
    """
    counts = [int(memorized(nearest, second, threshold).sum()) for threshold in THRESHOLDS]
    first, other = nearest.double().sqrt().numpy(), second.double().sqrt().numpy()
    quotients = np.divide(first, other, out=np.ones_like(first), where=other > 0)
    return RatioCurve(
        thresholds=list(THRESHOLDS),
        ratios=[count / len(nearest) for count in counts],
        quantile_levels=list(QUANTILES),
        quantiles=np.quantile(quotients, QUANTILES).tolist(),
        mean=float(quotients.mean()),
    )
