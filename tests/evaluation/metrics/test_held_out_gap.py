import math

import numpy as np
import pytest
import torch

from evaluation.intervals import wilson_interval
from evaluation.metrics.held_out_gap import held_out_gap
from evaluation.spaces import PixelSpace
from tests.evaluation.naive import distances, in_both_spaces, metric, once, random_sets, with_and_without_ties


@in_both_spaces
@with_and_without_ties
def test_the_gap_equals_that_of_all_distances(space, levels):
    generated, training, test = random_sets(levels, 60, 40, 30)
    to_training, to_test = distances(generated, training).min(axis=1), distances(generated, test).min(axis=1)
    gap = to_test - to_training
    half = 1.959963984540054 * math.sqrt(((gap - gap.mean()) ** 2).sum() / 59) / math.sqrt(60)
    nearer = int((to_training < to_test).sum())
    low, high = wilson_interval(nearer, 60)
    num_training, num_test = len(once(training)), len(once(test))
    assert metric('test_gap', space, generated, training, test) == pytest.approx(
        {
            'mean_to_training': to_training.mean(),
            'mean_to_test': to_test.mean(),
            'median_to_training': np.median(to_training),
            'median_to_test': np.median(to_test),
            'mean_gap': gap.mean(),
            'gap_low': gap.mean() - half,
            'gap_high': gap.mean() + half,
            'median_gap': np.median(gap),
            'share_nearer_to_training': nearer / 60,
            'share_low': low,
            'share_high': high,
            'share_tied': np.mean(to_training == to_test),
            'expected_share': num_training / (num_training + num_test),
        },
        abs=1e-12,
    )


def test_without_memorization_the_share_has_its_expected_value():
    generated, training, test = random_sets(256, 2000, 600, 200)
    result = metric('test_gap', PixelSpace(), generated, training, test)
    assert result['expected_share'] == pytest.approx(0.75, abs=0.01)
    assert abs(result['share_nearer_to_training'] - 0.75) < 0.05


def test_copies_are_nearer_to_training_than_to_held_out_images():
    training, test = random_sets(256, 200, 200)
    result = metric('test_gap', PixelSpace(), training, training, test)
    assert result['mean_to_training'] == 0
    assert result['share_nearer_to_training'] == 1
    assert result['gap_low'] > 0


def test_a_single_image_gives_a_mean_without_an_interval():
    result = held_out_gap(torch.tensor([9]), torch.tensor([25]), 10, 30)
    assert (result.mean_gap, result.median_gap, result.gap_low, result.gap_high) == (2, 2, None, None)
    assert result.expected_share == 0.25
