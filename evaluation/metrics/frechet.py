"""The Fréchet distance of two sets of features: the FID for features of EDM's Inception network.

    ||mean_a - mean_b||² + tr A + tr B - 2 tr (A B)^½

of the means and the unbiased covariances A, B. Source: Heusel et al. 2017, "GANs trained by a two time-scale update
rule converge to a local Nash equilibrium"; Dowson and Landau 1982.

The last trace is the sum of the singular values of F Gᵀ for any factors A = FᵀF and B = GᵀG. A factor comes from a
symmetric eigendecomposition; if there are fewer images than dimensions, the centred features are a smaller one. No
matrix square root is needed, and small values are not lost by squaring.

The distance falls with the number of images: compare values of equal numbers only.
"""

from dataclasses import dataclass

import numpy as np

from dnnlib.util import UserError
from evaluation.features.saved import Features

_BLOCK = 4096  # features that are converted to float64 at a time


@dataclass(frozen=True)
class Moments:
    """Mean [d] and unbiased covariance [d, d] of `count` features, float64. count: None if unknown."""

    count: int | None
    mean: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class FrechetDistances:
    """Distances of num_generated generated images to num_training training images.

    to_test: to num_test held-out images, or None; difference: to_test minus the distance to as many training images,
    which is above 0 if the images resemble the training images more than they resemble held-out ones.
    """

    to_training: float
    num_generated: int
    num_training: int
    to_test: float | None = None
    num_test: int | None = None
    difference: float | None = None


def from_features(features: Features, seed: int) -> FrechetDistances:
    generated, training, test = features.generated, features.training, features.test
    to_training = frechet_distance(generated, training)
    result = FrechetDistances(to_training, len(generated), len(training))
    if test is None:
        return result
    count = min(len(training), len(test))
    to_test = frechet_distance(generated, _some(test, count, seed))
    if count < len(training):
        to_training = frechet_distance(generated, _some(training, count, seed))
    return FrechetDistances(result.to_training, len(generated), len(training), to_test, count, to_test - to_training)


def _some(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` random rows, in their order."""
    chosen = np.random.default_rng(seed).choice(len(rows), count, replace=False)
    return rows if count == len(rows) else rows[np.sort(chosen)]


def frechet_distance(a: np.ndarray | Moments, b: np.ndarray | Moments) -> float:
    """The distance, at least 0, of features [N, d] and [M, d], each as such or as their moments; N, M >= 2.

    Raises UserError for fewer than two features, and for features of different dimensions.
    """
    (mean, trace, factor), (other_mean, other_trace, other_factor) = _parts(a), _parts(b)
    if len(mean) != len(other_mean):
        raise UserError(f'{len(mean)} and {len(other_mean)} features per image; compute both with the same extractor')
    both = np.linalg.svd(factor @ other_factor.T, compute_uv=False).sum()
    return max(0.0, float(np.square(mean - other_mean).sum() + trace + other_trace - 2 * both))


def moments(features: np.ndarray) -> Moments:
    """Moments of features [N, d]. Raises UserError for fewer than two."""
    mean = _mean(features)
    covariance = np.zeros([len(mean), len(mean)])
    for start in range(0, len(features), _BLOCK):
        centred = features[start : start + _BLOCK] - mean
        covariance += centred.T @ centred
    return Moments(len(features), mean, covariance / (len(features) - 1))


def _mean(features: np.ndarray) -> np.ndarray:
    if len(features) < 2:
        raise UserError(f'{len(features)} images: a covariance needs at least two')
    return features.mean(axis=0, dtype=np.float64)


def _parts(a: np.ndarray | Moments) -> tuple[np.ndarray, float, np.ndarray]:
    """The mean [d], the trace of the covariance, and a factor [r, d] of it with r <= d."""
    if isinstance(a, np.ndarray):
        if len(a) < a.shape[1]:
            mean = _mean(a)
            factor = (a - mean) / np.sqrt(len(a) - 1)
            return mean, float(np.square(factor).sum()), factor
        a = moments(a)
    values, vectors = np.linalg.eigh(a.covariance)
    # Eigenvalues of 0 come out as rounding errors, whose roots would be far larger.
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return a.mean, float(np.trace(a.covariance)), (vectors[:, kept] * np.sqrt(values[kept])).T
