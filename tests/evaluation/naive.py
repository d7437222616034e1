"""What the tests of metrics compare with: small random sets, in pixels and in features, and all of their distances."""

import numpy as np
import pytest

from evaluation.metrics import compute_metrics
from evaluation.spaces import FeatureSpace, PixelSpace

# Images of 2x2 pixels: of 4 grey levels they often repeat and tie, of 256 hardly ever.
in_both_spaces = pytest.mark.parametrize('space', [PixelSpace(), FeatureSpace()], ids=['pixels', 'features'])
with_and_without_ties = pytest.mark.parametrize('levels', [4, 256], ids=['ties', 'no ties'])


def random_sets(levels, *sizes, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, levels, (size, 1, 2, 2), dtype=np.uint8) for size in sizes]


def metric(name, space, *sets, **options):
    """The metric of sets of images, as they are in pixels, and flat and in float32 as features."""
    if isinstance(space, FeatureSpace):
        sets = tuple(images.reshape(len(images), -1).astype(np.float32) for images in sets)
    return compute_metrics([name], space, *sets, **options)[name]


def distances(queries, references):
    """All distances, float64 [N, M]."""
    queries = queries.reshape(len(queries), 1, -1).astype(np.float64)
    return np.sqrt(((queries - references.reshape(1, len(references), -1)) ** 2).sum(axis=2))


def distances_to_others(images):
    """All distances within a set, infinite from each image to itself, float64 [N, N]."""
    return distances(images, images) + np.diag(np.full(len(images), np.inf))


def once(images):
    """The distinct images, each once, in no particular order."""
    return np.unique(images.reshape(len(images), -1), axis=0).reshape(-1, *images.shape[1:])
