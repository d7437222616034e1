import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from evaluation import spaces
from evaluation.spaces import FeatureSpace, PixelSpace


def naive(queries, references):
    """All squared distances as plain sums in float64, [N, M]."""
    return np.stack([np.square(references.astype(np.float64) - query).sum(axis=1) for query in queries])


def assert_nearest(queries, references, k):
    index, squared = FeatureSpace().nearest(queries, references, k)
    all_squared = naive(queries, references)
    expected = np.argsort(all_squared, axis=1, kind='stable')[:, :k]
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(squared, np.take_along_axis(all_squared, expected, axis=1))


def assert_counts(queries, references, squared_radii):
    below, within = FeatureSpace().count_within(queries, references, torch.from_numpy(squared_radii))
    all_squared = naive(queries, references)
    np.testing.assert_array_equal(below, (all_squared < squared_radii).sum(axis=1))
    np.testing.assert_array_equal(within, (all_squared <= squared_radii).sum(axis=1))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(spaces, '_QUERY_BLOCK', 7)
    monkeypatch.setattr(spaces, '_REFERENCE_BLOCK', 5)
    monkeypatch.setattr(spaces, '_PART', 64)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('k', [1, 2, 6])
@pytest.mark.usefixtures('small_blocks')
def test_nearest_features_equal_those_found_with_plain_sums_in_float64(dtype, k):
    random = np.random.default_rng(0)
    assert_nearest(random.normal(size=(20, 30)).astype(dtype), random.normal(size=(43, 30)).astype(dtype), k)


@pytest.mark.usefixtures('small_blocks')
def test_among_equally_near_features_the_lowest_index_comes_first():
    few_values = np.random.default_rng(0).integers(0, 2, (60, 3)).astype(np.float32)
    assert_nearest(few_values[:20], few_values, 4)
    assert_nearest(np.zeros((3, 2)), np.zeros((60, 2)), 3)


def test_distances_are_exact_far_from_the_origin():
    random = np.random.default_rng(0)
    references = 1e6 + 1e-4 * random.normal(size=(300, 20))
    references[50:100] = references[100:150]
    queries = references[:40] + 1e-9 * random.normal(size=(40, 20))
    assert_nearest(queries, references, 3)
    # Two distant clouds: subtracting a single centre cannot bring both close to the origin.
    assert_nearest(np.concatenate([queries, -queries]), np.concatenate([references, -references]), 3)


@pytest.mark.parametrize('offset', [0, 1e6])
@pytest.mark.usefixtures('small_blocks')
def test_counts_within_balls_are_exact_even_on_their_surfaces(offset):
    random = np.random.default_rng(0)
    references = offset + random.normal(size=(30, 8))
    queries = np.concatenate([references[:10], offset + random.normal(size=(20, 8))])
    radii = np.sort(naive(references, references), axis=1)[:, 3]  # each ball has a reference on its surface
    assert ((naive(queries, references) == radii).sum()) >= 10
    assert_counts(queries, references, radii)


@pytest.mark.usefixtures('small_blocks')
def test_balls_of_radius_zero_contain_exact_copies():
    features = np.random.default_rng(0).integers(0, 2, (40, 3)).astype(np.float32)
    assert_counts(features[:20], features, np.zeros(40))


def test_distances_of_pixels_equal_those_of_the_same_values_as_features():
    random = np.random.default_rng(0)
    queries = random.integers(0, 256, (30, 3, 4, 4), dtype=np.uint8)
    references = random.integers(0, 256, (50, 3, 4, 4), dtype=np.uint8)
    flat_queries, flat_references = (x.reshape(len(x), -1).astype(np.float32) for x in (queries, references))
    index, squared = PixelSpace().nearest(queries, references, 3)
    feature_index, feature_squared = FeatureSpace().nearest(flat_queries, flat_references, 3)
    assert squared.dtype == torch.int64
    assert feature_squared.dtype == torch.float64
    np.testing.assert_array_equal(index, feature_index)
    np.testing.assert_array_equal(squared, feature_squared)
    radii = ((queries[:1].astype(np.int64) - references) ** 2).sum(
        axis=(1, 2, 3)
    )  # every ball has the first query on its surface
    counts = PixelSpace().count_within(queries, references, torch.from_numpy(radii))
    feature_radii = torch.from_numpy(radii.astype(np.float64))
    feature_counts = FeatureSpace().count_within(flat_queries, flat_references, feature_radii)
    assert counts[1].sum() > counts[0].sum()
    for ours, theirs in zip(counts, feature_counts, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_of_several_equal_rows_only_the_first_counts_as_distinct():
    features = np.array([[1, 0], [2, 0], [1, -0.0], [2, 1], [2, 0]], np.float32)
    assert FeatureSpace().distinct(features).tolist() == [0, 1, 3]
    pixels = np.array([7, 8, 7, 9, 8], np.uint8).reshape(-1, 1, 1, 1)
    assert PixelSpace().distinct(pixels).tolist() == [0, 1, 3]


def test_features_may_be_a_memory_map(tmp_path):
    features = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    np.save(tmp_path / 'features.npy', features)
    mapped = np.load(tmp_path / 'features.npy', mmap_mode='r')
    FeatureSpace().validate(mapped, 'features')
    index, squared = FeatureSpace().nearest(mapped, mapped, 1)
    assert index[:, 0].tolist() == list(range(20))
    assert not squared.any()


@pytest.mark.parametrize(
    ('rows', 'expected'),
    [
        (np.zeros((3, 4), np.int64), 'float32 or float64'),
        (np.zeros((3, 4), np.float16), 'float32 or float64'),
        (np.zeros(3, np.float32), r'\[N, d\]'),
        (np.zeros((3, 0), np.float32), r'\[N, d\]'),
        (np.zeros((0, 4), np.float32), 'empty'),
        (np.array([[0.0], [np.nan]]), 'row 1 is not finite'),
        (np.array([[0.0], [1.0], [-np.inf]], np.float32), 'row 2 is not finite'),
        (np.array([[1e200]]), 'row 0'),
    ],
)
def test_features_with_an_invalid_shape_dtype_or_value_are_refused(rows, expected):
    with pytest.raises(UserError, match=f'^--features=a.npy:? .*{expected}'):
        FeatureSpace().validate(rows, '--features=a.npy')


@pytest.mark.parametrize(
    ('rows', 'expected'),
    [
        (np.zeros((3, 1, 2, 2), np.float32), 'uint8'),
        (np.zeros((3, 4), np.uint8), r'\[N, C, H, W\]'),
        (np.zeros((0, 1, 2, 2), np.uint8), 'empty'),
    ],
)
def test_images_with_an_invalid_shape_or_dtype_are_refused(rows, expected):
    with pytest.raises(UserError, match=f'^these .*{expected}'):
        PixelSpace().validate(rows, 'these')


@pytest.mark.parametrize('scales', [(1e-130, 1e-130), (1e130, 1e-130), (1e-130, 1e130), (1e-30, 1), (3e18, 3e18)])
def test_distances_are_exact_for_features_of_any_magnitude_and_with_outliers(scales):
    random = np.random.default_rng(0)
    queries, references = (scale * random.normal(size=(40, 6)) for scale in scales)
    references[7] *= 1e4
    queries[:5] = references[:5]
    assert_nearest(queries, references, 3)
    assert_counts(queries, references, np.sort(naive(references, references), axis=1)[:, 2])


def test_few_pairs_are_compared_in_float64(monkeypatch):
    """For random features of realistic size, less than 1 % of the pairs are compared in float64."""
    compared = []
    exactly = spaces._squared_distances

    def counting(*arguments):
        compared.append(len(arguments[2]))
        return exactly(*arguments)

    monkeypatch.setattr(spaces, '_squared_distances', counting)
    random = np.random.default_rng(0)
    mixing = random.normal(size=(20, 512))
    queries, references = ((random.normal(size=(2000, 20)) @ mixing).astype(np.float32) for _ in range(2))
    FeatureSpace().nearest(queries, references, 6)
    FeatureSpace().count_within(queries, references, torch.full([2000], 1e4, dtype=torch.float64))
    assert sum(compared) < 0.01 * 2000 * 2000
