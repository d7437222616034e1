"""The Fréchet distance between two sets of features; for features from EDM's Inception network, it is the FID.

    ||mean_a - mean_b||² + tr A + tr B - 2 tr (A B)^½

with means and unbiased covariances A and B. Source: Heusel et al. 2017, "GANs trained by a two time-scale update
rule converge to a local Nash equilibrium"; Dowson and Landau 1982.

The last trace is the sum of the singular values of F Gᵀ, for any factors with A = FᵀF and B = GᵀG. A factor comes from
a symmetric eigendecomposition. If there are fewer images than dimensions, the centred features serve as a smaller
factor. No matrix square root is needed, and no precision is lost by squaring small values.

The distance decreases with the number of images, so compare only distances for equal numbers of images.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from dnnlib.util import UserError, counted
from evaluation.features.saved import Features, require_rows

SUBSETS, MIN_IMAGES = 15, 50  # for `frechet_infinity`
_BLOCK = 4096  # number of rows converted to float64 at a time


@dataclass(frozen=True)
class Moments:
    """Mean [d] and unbiased covariance [d, d] of `count` features, float64. count is None if unknown."""

    count: int | None
    mean: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class FrechetDistances:
    """Distances from generated images to training images and to held-out images (None if there are none).

    num_generated, num_training, num_test: the numbers of images. num_features: the feature dimension.
    equal_to_training, equal_to_test: distances to num_equal training images and to num_equal held-out images.
    num_equal: the number of training images or of held-out images, whichever is smaller. difference: equal_to_test
    minus equal_to_training; positive if generated images resemble the training images more than the held-out images.
    """

    to_training: float
    num_generated: int
    num_training: int
    num_features: int
    to_test: float | None = None
    num_test: int | None = None
    equal_to_training: float | None = None
    equal_to_test: float | None = None
    num_equal: int | None = None
    difference: float | None = None


@dataclass(frozen=True)
class FrechetInfinity:
    """Distances from subsets of the generated images, and their extrapolation to infinitely many images.

    sizes: number of images in each subset. distances: each subset's distance to the reference. distance: the
    extrapolated distance.
    """

    distance: float
    sizes: list[int]
    distances: list[float]


def from_features(features: Features, seed: int) -> FrechetDistances:
    generated, training, test = _parts(features.generated), features.training, features.test
    sizes = len(features.generated), len(training), len(generated.mean)
    to_training = frechet_distance(generated, training)
    if test is None:
        return FrechetDistances(to_training, *sizes)
    to_test = frechet_distance(generated, test)
    count = min(len(training), len(test))
    same = to_training if count == len(training) else frechet_distance(generated, _some(training, count, seed))
    other = to_test if count == len(test) else frechet_distance(generated, _some(test, count, seed))
    return FrechetDistances(to_training, *sizes, to_test, len(test), same, other, count, other - same)


def frechet_infinity(generated: np.ndarray, reference: np.ndarray | Moments, seed: int = 0) -> FrechetInfinity:
    """Estimate the distance between a reference and infinitely many generated images.

    The estimate is the intercept of a line in 1/n, fitted by least squares to the distances of SUBSETS random subsets.
    Their sizes n range from a tenth of the images to all images, and are evenly spaced in 1/n. Source: Chong and
    Forsyth 2020, "Effectively unbiased FID and Inception score and where to find them". The bias due to the number of
    reference images remains.
    Raises UserError for fewer than MIN_IMAGES images.
    """
    count = len(generated)
    if count < MIN_IMAGES:
        raise UserError(
            f'{counted(count, "image", "d")}: extrapolating the Fréchet distance needs at least {MIN_IMAGES}'
        )
    sizes = np.round(1 / np.linspace(10 / count, 1 / count, SUBSETS)).astype(int)
    other = _parts(reference)
    distances = [frechet_distance(_some(generated, size, seed + place), other) for place, size in enumerate(sizes)]
    _, intercept = np.polyfit(1 / sizes, distances, 1)
    return FrechetInfinity(float(intercept), sizes.tolist(), distances)


def _some(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Select `count` random rows, in their original order."""
    chosen = np.random.default_rng(seed).choice(len(rows), count, replace=False)
    return rows if count == len(rows) else rows[np.sort(chosen)]


def frechet_distance(a: 'np.ndarray | Tensor | Moments | _Parts', b: 'np.ndarray | Tensor | Moments | _Parts') -> float:
    """The distance (>= 0) between features [N, d] and [M, d], or between their moments; N, M >= 2.

    Raises UserError if N or M is less than two, if the feature dimensions differ, or if features are not finite.
    """
    a, b = _parts(a), _parts(b)
    if len(a.mean) != len(b.mean):
        raise UserError(
            f'the sets have {len(a.mean)} and {len(b.mean)} features per image; compare images of the same size and '
            'channels, with the same extractor'
        )
    both = np.linalg.svd(a.factor @ b.factor.T, compute_uv=False).sum()
    return max(0.0, float(np.square(a.mean - b.mean).sum() + a.trace + b.trace - 2 * both))


def moments(features: np.ndarray | Tensor) -> Moments:
    """The moments of features [N, d]. Raises UserError like `frechet_distance`."""
    features = np.asarray(features)
    mean = _mean(features)
    covariance = np.zeros([len(mean), len(mean)])
    for start in range(0, len(features), _BLOCK):
        centred = features[start : start + _BLOCK] - mean
        covariance += centred.T @ centred
    return Moments(len(features), mean, covariance / (len(features) - 1))


def _mean(features: np.ndarray) -> np.ndarray:
    require_rows(features)
    if len(features) < 2:
        raise UserError(f'{counted(len(features), "image", "d")}: a covariance needs at least two')
    return features.mean(axis=0, dtype=np.float64)


class _Parts(NamedTuple):
    """A mean [d], the trace of a covariance, and a factor [r, d] of the covariance with r <= d."""

    mean: np.ndarray
    trace: float
    factor: np.ndarray


def _parts(a: np.ndarray | Tensor | Moments | _Parts) -> _Parts:
    if isinstance(a, _Parts):
        return a
    if not isinstance(a, Moments):
        a = np.asarray(a)
        if a.ndim == 2 and len(a) < a.shape[1]:
            mean = _mean(a)
            factor = (a - mean) / np.sqrt(len(a) - 1)
            return _Parts(mean, float(np.square(factor).sum()), factor)
        a = moments(a)
    values, vectors = np.linalg.eigh(a.covariance)
    # Drop eigenvalues that differ from 0 only by rounding, because the square root would magnify the rounding error.
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return _Parts(a.mean, float(np.trace(a.covariance)), (vectors[:, kept] * np.sqrt(values[kept])).T)
