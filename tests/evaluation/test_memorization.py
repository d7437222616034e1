import math

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from evaluation.intervals import wilson_interval
from evaluation.memorization import TrainingSet, memorization_ratio, memorized
from tests.helpers import DATA
from training.dataset import Dataset


def grey(*values):
    """Grey images of one pixel each, uint8 [N, 1, 1, 1]."""
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


def test_the_ratio_equals_that_of_the_reference_data():
    data = np.load(DATA / 'nearest_neighbors_digits.npz')
    result = memorization_ratio(data['queries'], data['references'])
    np.testing.assert_array_equal(result.memorized, data['memorized'])
    assert result.ratio == float(data['memorization_ratio'])


def test_a_copy_is_closer_than_a_third_of_the_second_distance():
    # The images' distances to 100 are 24, 25 and 26, and to 200 they are 76, 75 and 74; 24 · 3 < 76, but 25 · 3 = 75.
    assert memorization_ratio(grey(124, 125, 126), grey(100, 200)).memorized.tolist() == [True, False, False]


def test_the_threshold_is_a_parameter():
    assert memorization_ratio(grey(124, 130), grey(100, 200), threshold=0.5).memorized.tolist() == [True, True]
    assert memorization_ratio(grey(124, 130), grey(100, 200), threshold=0.1).memorized.tolist() == [False, False]


def test_an_image_at_distance_zero_is_memorized():
    assert memorized(torch.tensor([0]), torch.tensor([1])).tolist() == [True]


def test_copy_of_a_duplicated_training_image_counts_as_memorized():
    result = memorization_ratio(grey(101), grey(200, 100, 100, 100))
    assert result.memorized.tolist() == [True]
    assert result.indices.tolist() == [[1, 0]]
    assert result.num_duplicates == 2


def test_indices_refer_to_the_original_order_of_the_references():
    result = memorization_ratio(grey(9, 52), grey(50, 50, 10, 10, 90))
    assert result.indices.tolist() == [[2, 0], [0, 4]]
    assert result.squared_distances.tolist() == [[1, 41**2], [4, 38**2]]


def test_the_mean_distance_is_root_mean_square_per_pixel():
    images = np.zeros((2, 1, 1, 2), np.uint8)
    images[1] = [[[3, 4]]]
    references = np.stack([images[0], np.full((1, 1, 2), 200, np.uint8)])
    assert memorization_ratio(images, references).mean_distance == pytest.approx((0 + math.sqrt(25 / 2)) / 2)


@pytest.mark.parametrize('references', [grey(5), grey(5, 5, 5)])
def test_fewer_than_two_distinct_training_images_are_refused(references):
    with pytest.raises(UserError, match=r'1 distinct image;.*at least two'):
        memorization_ratio(grey(1), references)


@pytest.mark.parametrize(
    ('images', 'threshold', 'message'),
    [
        (np.zeros([2, 3, 4, 4], np.float32), 1 / 3, r'`images` must be uint8 .*, not float32 \[2, 3, 4, 4\]'),
        (np.zeros([2, 4, 4, 3], np.uint8), 1 / 3, r'C = 1 or 3, not uint8 \[2, 4, 4, 3\]'),
        (np.zeros([2, 48], np.uint8), 1 / 3, r'not uint8 \[2, 48\]'),
        (np.zeros([3, 4, 4], np.uint8), 1 / 3, r'not uint8 \[3, 4, 4\]'),
        (np.zeros([0, 3, 4, 4], np.uint8), 1 / 3, r'N >= 1 .*, not uint8 \[0, 3, 4, 4\]'),
        (np.zeros([2, 3, 2, 8], np.uint8), 1 / 3, '8x2 with 3 channels, but `references` are 4x4 with 3'),
        (np.zeros([2, 3, 4, 4], np.uint8), 33, '`threshold`=33 is out of range'),
    ],
)
def test_arrays_of_another_type_or_shape_are_named_in_the_error(images, threshold, message):
    references = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4), dtype=np.uint8)
    with pytest.raises(UserError, match=message):
        memorization_ratio(images, references, threshold)


def test_references_of_another_type_are_named_in_the_error():
    with pytest.raises(UserError, match=r'`references` must be uint8 .*, not float64'):
        memorization_ratio(grey(1), grey(1, 2) / 255)


@pytest.mark.parametrize(('successes', 'total'), [(0, 10), (7, 10), (9210, 10000), (256, 256)])
def test_the_interval_equals_wilsons_formula(successes, total):
    z, share = 1.959963984540054, successes / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    assert wilson_interval(successes, total) == pytest.approx((middle - half, middle + half), abs=1e-12)


@pytest.mark.parametrize(
    ('threshold', 'nearest', 'second', 'expected'),
    [
        (1 / 3, 1, 9, False),
        (1 / 3, 1, 10, True),
        (2 / 5, 4, 25, False),
        (2 / 5, 4, 26, True),
        (0.001, 1, 999**2, False),  # the distances are 1 and 999
        (0.001, 1, 999**2 + 1, True),
        (0.0007, 49, 10**8 - 10**4, False),  # the distances are 7 and slightly less than 10,000
        (0.0007, 49, 10**8 + 10**4, True),
        (0.0004, 0, 1, True),
        (1e-200, 0, 1, True),
    ],
)
def test_a_copy_is_nearer_than_the_threshold_times_the_second_distance(threshold, nearest, second, expected):
    assert memorized(torch.tensor([nearest]), torch.tensor([second]), threshold).tolist() == [expected]


def test_the_reference_distance_is_the_mean_distance_to_the_nearest_other_image():
    # 10 and its copy count as one image, so the distances to the nearest other image are 20, 20, 20 and 40.
    training_set = TrainingSet(Dataset('four', torch.from_numpy(grey(10, 10, 30, 70)), None, ''))
    assert training_set.reference_distance == pytest.approx((20 + 20 + 20 + 40) / 4)
    assert training_set.near_share == 0


def test_near_copies_in_the_training_set_do_not_count_as_neighbours():
    # The ratio misses copies of the images 10, 12, 14 and 100, 101, whose other neighbours are far away.
    training_set = TrainingSet(Dataset('six', torch.from_numpy(grey(10, 12, 14, 100, 101, 200)), None, ''))
    assert training_set.reference_distance == pytest.approx((90 + 88 + 86 + 86 + 87 + 99) / 6)
    assert training_set.near_share == pytest.approx(5 / 6)
    assert not memorization_ratio(grey(11, 13), training_set.images).memorized.any()


def test_the_reference_distance_is_a_root_mean_square_over_pixels():
    # Of 6 pixels, 2 differ by 30: the root mean square is 30 / √3, whatever the number of pixels.
    images = torch.full([2, 1, 2, 3], 100, dtype=torch.uint8)
    images[1, 0, 0, :2] += 30
    assert TrainingSet(Dataset('two', images, None, '')).reference_distance == pytest.approx(30 / math.sqrt(3))


def test_images_far_from_any_data_are_counted():
    # The limit is √2 times the mean distance 25, about 35.36 grey levels.
    training_set = TrainingSet(Dataset('four', torch.from_numpy(grey(10, 10, 30, 70)), None, ''))
    _, squared_distances = training_set.nearest_two(grey(105, 106, 30, 45, 200))
    assert training_set.num_far(squared_distances[:, 0]) == 2  # the nearest images are 35, 36, 0, 15 and 130 away
