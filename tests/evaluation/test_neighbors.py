import numpy as np
import pytest
import torch

from evaluation import neighbors
from evaluation.neighbors import NeighborIndex, nearest_neighbors
from tests.helpers import DATA


def naive(queries, references, k):
    """Indices and squared distances of the k nearest references in int64, sorted by distance, then by index."""
    differences = queries.reshape(len(queries), 1, -1).astype(np.int64) - references.reshape(1, len(references), -1)
    distances = (differences**2).sum(axis=2)
    index = np.argsort(distances, axis=1, kind='stable')[:, :k]
    return index, np.take_along_axis(distances, index, axis=1)


def random_images(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def assert_exact(queries, references, k):
    index, distance = nearest_neighbors(queries, references, k)
    expected_index, expected_distance = naive(queries, references, k)
    assert index.dtype == distance.dtype == torch.int64
    np.testing.assert_array_equal(distance, expected_distance)
    np.testing.assert_array_equal(index, expected_index)


def test_neighbours_equal_those_of_the_reference_data():
    data = np.load(DATA / 'nearest_neighbors_digits.npz')
    index, distance = nearest_neighbors(data['queries'], data['references'])
    np.testing.assert_array_equal(index, data['nearest_index'])
    np.testing.assert_array_equal(distance, data['nearest_squared_distance'])


@pytest.mark.parametrize('k', [1, 2, 3, 5])
@pytest.mark.parametrize('count', [5, 1024, 1025, 2500])
def test_neighbours_equal_those_of_all_distances_in_int64(k, count):
    assert_exact(random_images(0, 40, 3, 4, 4), random_images(1, count, 3, 4, 4), k)


def test_more_queries_than_a_block_are_all_answered():
    assert_exact(random_images(0, 1030, 1, 3, 3), random_images(1, 60, 1, 3, 3), 2)


def test_at_equal_distances_the_lowest_index_comes_first():
    few_values = np.random.default_rng(0).integers(0, 2, (2300, 1, 2, 2), dtype=np.uint8)
    assert_exact(few_values[:50], few_values, 4)


def test_extreme_pixels_do_not_overflow():
    black, white = np.zeros((1, 3, 120, 120), np.uint8), np.full((1, 3, 120, 120), 255, np.uint8)
    _, distance = nearest_neighbors(black, np.concatenate([white, black]))
    assert distance.tolist() == [[0, 255**2 * 3 * 120 * 120]]


def test_distances_of_images_too_large_for_int32_are_exact():
    side = 128
    assert 3 * side * side > neighbors.MAX_PIXELS
    references = random_images(1, 6, 3, side, side)
    references[2] = 255
    assert_exact(
        np.concatenate([random_images(0, 2, 3, side, side), np.zeros((1, 3, side, side), np.uint8)]), references, 2
    )


def test_neighbours_are_the_same_without_an_int8_product(monkeypatch):
    monkeypatch.setattr('torch_utils.int8.device_product_is_exact', lambda device_type: False)
    assert_exact(random_images(0, 20, 3, 32, 32), random_images(1, 50, 3, 32, 32), 2)


def test_an_empty_set_of_queries_has_no_neighbours():
    index, distance = NeighborIndex(random_images(0, 5, 1, 2, 2)).query(np.zeros((0, 1, 2, 2), np.uint8))
    assert index.shape == distance.shape == (0, 2)


@pytest.mark.parametrize('shape', [(3, 4, 4), (1, 1, 1), (3, 100, 100)])
def test_counts_within_balls_equal_those_of_all_distances_in_int64(shape):
    references = random_images(1, 20 if shape[1] > 10 else 2100, *shape)
    queries = np.concatenate([references[:5], random_images(0, 14, *shape), np.full((1, *shape), 255, np.uint8)])
    references[-1] = queries[-2] = 0
    place, distances = naive(queries, references, len(references))
    distances = np.take_along_axis(distances, place.argsort(axis=1), axis=1)
    radii = distances[np.arange(len(references)) % len(queries), np.arange(len(references))]
    radii[-2:] = 2**40, 255**2 * references[0].size  # above the largest possible distance, and equal to it
    below, within = NeighborIndex(references).count_within(queries, torch.from_numpy(radii))
    assert below.dtype == within.dtype == torch.int64  # floats would lose counts beyond 2^24
    np.testing.assert_array_equal(below, (distances < radii).sum(axis=1))
    np.testing.assert_array_equal(within, (distances <= radii).sum(axis=1))
    assert (within > below).sum() >= 15
