import numpy as np
import pytest
import torch

from evaluation.memorization import memorization_ratio
from evaluation.metrics.ratio_curve import ratio_curve
from tests.evaluation.naive import distances, in_both_spaces, metric, once, random_sets, with_and_without_ties


@in_both_spaces
@with_and_without_ties
def test_curve_and_quantiles_equal_those_of_all_distances(space, levels):
    generated, training = random_sets(levels, 70, 40)
    d1, d2 = np.sort(distances(generated, once(training)), axis=1)[:, :2].T
    result = metric('ratio_curve', space, generated, training)
    assert result['thresholds'] == pytest.approx(np.arange(1, 101) / 100)
    # Squared distances are integers here, so ties are exact.
    expected = [np.mean(np.round(d1**2) * 100**2 < step**2 * np.round(d2**2)) for step in range(1, 101)]
    assert result['ratios'] == expected
    assert result['quantiles'] == pytest.approx(np.quantile(d1 / d2, result['quantile_levels']), abs=1e-12)
    assert result['mean'] == pytest.approx(np.mean(d1 / d2), abs=1e-12)


def test_a_ratio_of_distances_equal_to_the_threshold_is_not_below_it():
    result = ratio_curve(torch.tensor([1, 0, 9]), torch.tensor([4, 5, 9]))  # d1/d2 is 0.5, 0 and 1
    ratios = dict(zip(result.thresholds, result.ratios, strict=True))
    assert (ratios[0.01], ratios[0.5], ratios[0.51], ratios[1.0]) == (1 / 3, 1 / 3, 2 / 3, 2 / 3)
    assert result.quantiles[0] == 0
    assert result.quantiles[5] == 0.5
    assert result.quantiles[-1] == 1


def test_the_curve_at_the_usual_threshold_equals_the_memorization_ratio():
    generated, training = random_sets(256, 200, 30)
    result = metric('ratio_curve', in_both_spaces.args[1][0], generated, training)
    assert result['ratios'][49] == memorization_ratio(generated, training, threshold=0.5).ratio


def test_for_a_single_image_all_quantiles_are_equal():
    result = ratio_curve(torch.tensor([9.0]), torch.tensor([16.0]))
    assert set(result.quantiles) == {0.75}
    assert result.mean == 0.75


def test_distances_that_underflow_count_as_equal():
    assert ratio_curve(torch.tensor([0.0]), torch.tensor([0.0])).mean == 1
