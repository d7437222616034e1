import math

import numpy as np
import pytest
import torch

from evaluation.metrics.data_copying import Cells, copying, mann_whitney_z
from evaluation.spaces import FeatureSpace, PixelSpace
from tests.evaluation.naive import distances, in_both_spaces, metric, random_sets, with_and_without_ties


def naive_z(generated, test):
    """Z score of the Mann-Whitney U test, counted over all pairs."""
    u = sum((a > b) + (a == b) / 2 for a in generated for b in test)
    m, n = len(generated), len(test)
    return (u - m * n / 2) / math.sqrt(m * n * (m + n + 1) / 12)


@in_both_spaces
@with_and_without_ties
def test_the_z_scores_equal_those_counted_over_all_pairs(space, levels):
    generated, training, test = random_sets(levels, 50, 60, 41)
    result = metric('copying_test', space, generated, training, test)
    first, second = test[:21], test[21:]
    for name, ours, theirs, references in [
        ('plain', generated, test, training),
        ('exchanged', training, test, generated),
        ('split_test', generated, second, first),
    ]:
        expected = naive_z(distances(ours, references).min(axis=1), distances(theirs, references).min(axis=1))
        assert result[name]['global_z'] == pytest.approx(expected, abs=1e-12)
        assert result[name]['global_p'] == pytest.approx(math.erfc(-expected / math.sqrt(2)) / 2, abs=1e-12)


def test_the_z_score_of_a_case_worked_by_hand_is_found():
    # 1 exceeds neither 2 nor 3; 3 exceeds 2 and ties with 3. So U = 1.5 and Z = (1.5 - 2) / sqrt(4 · 5 / 12).
    assert mann_whitney_z(torch.tensor([1, 3]), torch.tensor([2, 3])) == pytest.approx(-0.5 / math.sqrt(5 / 3))


def test_cells_are_weighted_by_test_images_and_small_cells_are_left_out():
    random = np.random.default_rng(0)
    generated, test = torch.from_numpy(random.random(100)), torch.from_numpy(random.random(120))
    # (generated, test) images per cell: (40, 30), (41, 71), (19, 0), (0, 19), (0, 0); three cells have too few.
    generated_cells = np.repeat([0, 1, 2], [40, 41, 19])
    test_cells = np.repeat([0, 1, 3], [30, 71, 19])
    result = copying(generated, test, generated_cells, test_cells, num_cells=5)
    ours, theirs = generated.tolist(), test.tolist()
    z = [naive_z(ours[:40], theirs[:30]), naive_z(ours[40:81], theirs[30:101])]
    assert result.cell_z == pytest.approx(z)
    assert result.cell_share == pytest.approx([30 / 101, 71 / 101])
    assert result.clustered_z == pytest.approx((30 * z[0] + 71 * z[1]) / 101)
    assert result.num_cells_left_out == 3


def test_a_cell_needs_twenty_images_of_each_set():
    values = torch.arange(20.0)
    cells = np.zeros(20, int)
    assert copying(values, values, cells, cells, 1).clustered_z == 0
    assert copying(values[1:], values, cells[1:], cells, 1).clustered_z is None
    assert copying(values, values[1:], cells, cells[1:], 1).clustered_z is None


@in_both_spaces
def test_without_copying_z_is_approximately_standard_normal(space):
    found = []
    for seed in range(40):
        result = metric('copying_test', space, *random_sets(256, 60, 80, 60, seed=seed))
        found += [[result['plain']['global_z'], result['exchanged']['global_z'], result['split_test']['global_z']]]
    means, deviations = np.mean(found, axis=0), np.std(found, axis=0)
    assert np.all(np.abs(means) < 4 / math.sqrt(40) * deviations)
    assert np.all((deviations > 0.6) & (deviations < 1.7))


@in_both_spaces
def test_near_copies_have_z_far_below_zero(space):
    training, test = random_sets(250, 300, 300)
    result = metric('copying_test', space, training[:200] + np.uint8(1), training, test)
    assert result['plain']['global_z'] < -10
    assert result['plain']['clustered_z'] < -5
    assert result['plain']['global_p'] < 1e-20
    assert result['exchanged']['global_z'] < -5
    assert abs(result['split_test']['global_z']) < 3


def test_images_far_from_the_data_have_z_far_above_zero():
    generated, training, test = random_sets(50, 100, 100, 100)
    assert metric('copying_test', PixelSpace(), generated + np.uint8(200), training, test)['plain']['global_z'] > 10


def test_separate_clouds_are_separate_cells_and_a_seed_fixes_the_cells():
    random = np.random.default_rng(0)
    clouds = np.concatenate([random.normal(center, 0.1, (50, 4)) for center in (0, 10, 20)])
    cells = Cells(FeatureSpace(), clouds, seed=3).of(clouds)
    assert [len(set(part)) for part in np.split(cells, 3)] == [1, 1, 1]
    assert len(set(cells)) == 3
    np.testing.assert_array_equal(cells, Cells(FeatureSpace(), clouds, seed=3).of(clouds))


def test_cells_are_fitted_to_a_subset_of_a_large_training_set(monkeypatch):
    monkeypatch.setattr('evaluation.metrics.data_copying._SAMPLE_NUMBERS', 4 * 30)
    (training,) = random_sets(256, 500)
    asked = []

    class Recording(PixelSpace):
        def vectors(self, rows):
            asked.append(len(rows))
            return super().vectors(rows)

    cells = Cells(Recording(), training)
    assert asked == [30]
    assert cells.of(training).shape == (500,)


def test_a_set_of_equal_images_is_one_cell():
    assert Cells(PixelSpace(), np.zeros((30, 1, 2, 2), np.uint8)).count == 1


def test_a_single_test_image_cannot_be_split_into_halves():
    result = metric('copying_test', PixelSpace(), *random_sets(256, 30, 30, 1))
    assert result['split_test'] is None
    assert result['plain']['clustered_z'] is None
