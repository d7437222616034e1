"""Small random image sets and their naively computed distances, for the tests of metrics."""

import numpy as np
import pytest

from evaluation.metrics import compute_metrics
from evaluation.spaces import FeatureSpace, PixelSpace

# Random 2x2 images often have duplicates and equal distances with 4 grey levels, but hardly ever with 256 levels.
in_both_spaces = pytest.mark.parametrize('space', [PixelSpace(), FeatureSpace()], ids=['pixels', 'features'])
with_and_without_ties = pytest.mark.parametrize('levels', [4, 256], ids=['ties', 'no ties'])


def random_sets(levels, *sizes, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, levels, (size, 1, 2, 2), dtype=np.uint8) for size in sizes]


def metric(name, space, *sets, **options):
    """Compute a metric on image sets: on their pixels, or with each image as a float32 feature vector."""
    if isinstance(space, FeatureSpace):
        sets = tuple(images.reshape(len(images), -1).astype(np.float32) for images in sets)
    return compute_metrics([name], space, *sets, **options)[name]


def distances(queries, references):
    """All pairwise distances, float64 [N, M]."""
    queries = queries.reshape(len(queries), 1, -1).astype(np.float64)
    return np.sqrt(((queries - references.reshape(1, len(references), -1)) ** 2).sum(axis=2))


def distances_to_others(images):
    """Pairwise distances within a set, float64 [N, N], with infinity on the diagonal."""
    return distances(images, images) + np.diag(np.full(len(images), np.inf))


def once(images):
    """The distinct images of a set."""
    return np.unique(images.reshape(len(images), -1), axis=0).reshape(-1, *images.shape[1:])
