"""The kernel distance (KID) between two sets of features: the squared maximum mean discrepancy with a cubic kernel.

k(x, y) = (x·y / d + 1)³, in float64. Source: Bińkowski et al. 2018, "Demystifying MMD GANs". The estimate is unbiased:
its expectation does not depend on the number of images. It can be negative.

Conventions: the distance is the mean over disjoint random subsets of both sets, with Student's 95 % interval. Disjoint
subsets are independent; other implementations use overlapping subsets, whose standard deviation does not give the error
of the mean.
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dnnlib.util import UserError, counted
from evaluation.features.saved import Features, require_rows
from evaluation.intervals import t_quantile

SUBSET_SIZE = 1000  # from Bińkowski et al.; smaller if there would be fewer than ten subsets
FEWEST_SUBSETS, MOST_SUBSETS = 10, 100


@dataclass(frozen=True)
class KernelDistance:
    """The mean over num_subsets subsets with subset_size images each, and its interval (None for a single subset)."""

    distance: float
    low: float | None
    high: float | None
    num_subsets: int
    subset_size: int


@dataclass(frozen=True)
class KernelDistances:
    """Distances to training images and to held-out images (or None). difference: to_test minus to_training."""

    to_training: KernelDistance
    to_test: KernelDistance | None
    difference: float | None


def from_features(features: Features, seed: int) -> KernelDistances:
    to_training = kernel_distance(features.generated, features.training, seed)
    if features.test is None:
        return KernelDistances(to_training, None, None)
    to_test = kernel_distance(features.generated, features.test, seed)
    return KernelDistances(to_training, to_test, to_test.distance - to_training.distance)


def kernel_distance(a: np.ndarray | Tensor, b: np.ndarray | Tensor, seed: int = 0) -> KernelDistance:
    """The distance between features [N, d] and [M, d]; N, M >= 2.

    Raises UserError if N or M is less than two, if the feature dimensions differ, or if features are not finite.
    """
    a, b = np.asarray(a), np.asarray(b)
    require_rows(a)
    require_rows(b)
    if a.shape[1] != b.shape[1]:
        raise UserError(
            f'the sets have {a.shape[1]} and {b.shape[1]} features per image; compute both with the same extractor'
        )
    fewest = min(len(a), len(b))
    if fewest < 2:
        raise UserError(f'{counted(fewest, "image", "d")}: a kernel distance needs at least two')
    size = max(2, min(SUBSET_SIZE, fewest // FEWEST_SUBSETS))
    count = min(MOST_SUBSETS, fewest // size)
    random = np.random.default_rng(seed)
    first, second = (random.permutation(len(rows))[: count * size].reshape(count, size) for rows in (a, b))
    values = [squared_discrepancy(a[i], b[j]) for i, j in zip(first, second, strict=True)]
    mean = float(np.mean(values))
    if count == 1:
        return KernelDistance(mean, None, None, count, size)
    half = t_quantile(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return KernelDistance(mean, mean - half, mean + half, count, size)


def squared_discrepancy(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimate over all pairs of features. a: [N, d]. b: [M, d]."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return _between_others(a) + _between_others(b) - 2 * float(_kernel(a, b).mean())


def _between_others(rows: np.ndarray) -> float:
    """The mean kernel over pairs of different rows."""
    values = _kernel(rows, rows)
    return float(values.sum() - values.trace()) / (len(rows) * (len(rows) - 1))


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3
