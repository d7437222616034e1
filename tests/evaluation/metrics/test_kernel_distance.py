import numpy as np
import pytest

from dnnlib.util import UserError
from evaluation.metrics.kernel_distance import kernel_distance, squared_discrepancy
from evaluation.spaces import FeatureSpace
from tests.evaluation.naive import metric, random_sets


def features(count, shift=0.0, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32) + np.float32(shift)


def test_the_discrepancy_equals_that_of_all_pairs():
    a, b = features(9).astype(np.float64), features(7, 0.5, 1).astype(np.float64)

    def mean(rows, others, same):
        values = [(x @ y / 6 + 1) ** 3 for i, x in enumerate(rows) for j, y in enumerate(others) if not same or i != j]
        return sum(values) / len(values)

    expected = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
    assert squared_discrepancy(a, b) == pytest.approx(expected, rel=1e-12)


def test_the_distance_is_the_mean_over_disjoint_subsets_with_an_interval():
    a, b = features(300), features(250, 0.5, 1)
    found = kernel_distance(a, b, seed=3)
    assert (found.num_subsets, found.subset_size) == (10, 25)
    assert found == kernel_distance(a, b, seed=3)
    assert found != kernel_distance(a, b, seed=4)
    assert found.low < squared_discrepancy(a, b) < found.high
    assert found.high - found.distance == pytest.approx(found.distance - found.low)


def test_for_equal_distributions_95_percent_of_intervals_contain_0():
    found = [kernel_distance(features(200, seed=2 * i), features(200, seed=2 * i + 1)) for i in range(200)]
    assert 0.9 <= np.mean([one.low < 0 < one.high for one in found]) <= 0.99


def test_very_few_images_give_no_interval_or_are_refused():
    assert kernel_distance(features(2), features(9)).low is None
    with pytest.raises(UserError, match='1 image: a kernel distance needs at least two'):
        kernel_distance(features(1), features(9))
    with pytest.raises(UserError, match='6 and 2 features per image'):
        kernel_distance(features(5), features(5)[:, :2])


def test_the_difference_is_the_held_out_distance_minus_the_training_distance():
    generated, training, test = random_sets(256, 60, 50, 20)
    found = metric('kernel_distance', FeatureSpace(), generated, training, test)
    alone = metric('kernel_distance', FeatureSpace(), generated, training)
    assert found['to_training'] == alone['to_training']
    assert found['to_test'] == metric('kernel_distance', FeatureSpace(), generated, test)['to_training']
    assert found['difference'] == found['to_test']['distance'] - found['to_training']['distance']
    assert alone['to_test'] is None
