import numpy as np
import pytest
import torch

from evaluation.intervals import wilson_interval
from evaluation.metrics.authenticity import authenticity
from evaluation.spaces import PixelSpace
from tests.evaluation.naive import (
    distances,
    distances_to_others,
    in_both_spaces,
    metric,
    random_sets,
    with_and_without_ties,
)


@in_both_spaces
@with_and_without_ties
@pytest.mark.parametrize('num_training', [2, 40])
def test_authpct_equals_that_of_all_distances(space, levels, num_training):
    generated, training = random_sets(levels, 70, num_training)
    to_training = distances(generated, training)
    nearest = to_training.argmin(axis=1)
    within = distances_to_others(training)
    flags = to_training.min(axis=1) > within.min(axis=1)[nearest]
    result = metric('authenticity', space, generated, training)
    assert result['num_authentic'] == flags.sum()
    assert result['authpct'] == pytest.approx(100 * flags.mean())
    assert (result['authpct_low'] / 100, result['authpct_high'] / 100) == pytest.approx(
        wilson_interval(flags.sum(), 70)
    )
    not_copies = np.where(within > 0, within, np.inf)
    flags = to_training.min(axis=1) > not_copies.min(axis=1)[nearest]
    assert result['authpct_distinct'] == pytest.approx(100 * flags.mean())


def test_authentic_images_are_farther_away_than_training_images_are_from_each_other():
    spacing = torch.tensor([4, 4, 4])
    assert authenticity(torch.tensor([3, 4, 5]), spacing, spacing).num_authentic == 1


def test_near_copies_of_a_duplicated_image_are_authentic_unless_duplicates_are_merged():
    training = np.array([100, 100, 200], np.uint8).reshape(-1, 1, 1, 1)
    generated = np.array([100, 103], np.uint8).reshape(-1, 1, 1, 1)
    result = metric('authenticity', PixelSpace(), generated, training)
    assert result['authpct'] == 50  # 103 is at distance 3 from 100, which is at distance 0 from its duplicate
    assert result['authpct_distinct'] == 0


def test_all_images_or_no_image_can_be_authentic():
    near, far = torch.zeros(10), torch.full([10], 9.0)
    assert authenticity(near, far, far).authpct == 0
    assert authenticity(far, near, near).authpct == 100
