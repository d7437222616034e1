"""Copy rules, compared with plain loops in float64."""

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from evaluation.copy_rules import copies_record, find_copies
from evaluation.evaluation_options import CopyRule, copy_rule
from evaluation.intervals import wilson_interval
from evaluation.spaces import FeatureSpace, PixelSpace


def features(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 4))


@pytest.fixture
def sets():
    """40 generated images (15 of them near-copies) and 60 training images (the last equals the first)."""
    training, generated = features(60, 0), features(40, 1)
    training[59] = training[0]
    generated[:15] = training[:15] * 1.3 + 0.01 * features(15, 2)
    generated[0] = training[0]
    return generated, training


def test_the_relative_rule_applies_the_ratios_criterion_to_distinct_features(sets):
    generated, training = sets
    flags, nearest = find_copies(CopyRule('relative'), FeatureSpace(), generated, training)
    distances = np.linalg.norm(generated[:, None] - training[None, :59], axis=2)
    first, second = np.sort(distances, axis=1)[:, :2].T
    assert flags.tolist() == (first < second / 3).tolist()
    assert nearest.tolist() == distances.argmin(axis=1).tolist()
    assert flags[0]  # an exact copy of a training image that occurs twice


def test_the_cosine_rule_ignores_the_norm_of_features(sets):
    generated, training = sets
    flags, nearest = find_copies(copy_rule('cosine:0.95'), FeatureSpace(), generated, training)
    cosine = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in training[:59]] for a in generated])
    assert flags.tolist() == (cosine.max(axis=1) > 0.95).tolist()
    assert nearest.tolist() == cosine.argmax(axis=1).tolist()
    assert flags[:15].all()
    training[5] = 0
    with pytest.raises(UserError, match='`copy_rule`=cosine: all features of an image are 0'):
        find_copies(CopyRule('cosine', 0.5), FeatureSpace(), generated, training)


@pytest.mark.parametrize('count', [60, 30])
def test_the_adaptive_rule_compares_with_the_mean_distance_to_fifty_neighbours(sets, count):
    generated, training = sets[0], sets[1][:count]
    flags, _ = find_copies(CopyRule('adaptive'), FeatureSpace(), generated, training)
    distances = np.sort(np.linalg.norm(generated[:, None] - training[None, :59], axis=2), axis=1)
    assert flags.tolist() == (distances[:, 0] < 0.5 * distances[:, :50].mean(axis=1)).tolist()
    assert 0 < flags.sum() < 40


def test_copy_rules_apply_to_pixels_as_well():
    random = np.random.default_rng(0)
    training = random.integers(0, 256, (70, 1, 4, 4), dtype=np.uint8)
    generated = random.integers(0, 256, (20, 1, 4, 4), dtype=np.uint8)
    generated[:6] = training[:6] // 2
    flags, nearest = find_copies(CopyRule('adaptive'), PixelSpace(), generated, training)
    rows, others = (part.reshape(len(part), -1).astype(float) for part in (generated, training))
    distances = np.linalg.norm(rows[:, None] - others[None], axis=2)
    ordered = np.sort(distances, axis=1)
    assert flags.tolist() == (ordered[:, 0] < 0.5 * ordered[:, :50].mean(axis=1)).tolist()
    assert nearest.tolist() == distances.argmin(axis=1).tolist()


def test_the_record_of_a_rule_has_intervals_and_the_background_rate():
    copies, background = torch.tensor([True] * 3 + [False] * 7), torch.tensor([False] * 5)
    record = copies_record(copy_rule('cosine:0.60'), 'features', copies, background)
    low, high = wilson_interval(3, 10)
    assert (record['space'], record['rule']) == ('features', 'cosine:0.6')
    assert [record[name] for name in ('num_images', 'num_copies', 'ratio', 'ratio_low', 'ratio_high')] == [
        10, 3, 0.3, low, high,
    ]  # fmt: skip
    assert record['background']['num_copies'] == 0
    assert copies_record(CopyRule('adaptive'), 'pixels', copies, None)['background'] is None


@pytest.mark.parametrize('text', ['cosine', 'cosine:', 'cosine:1', 'cosine:0', 'cosine:nan', 'adaptive:2', 'l2', ''])
def test_unknown_copy_rules_are_refused(text):
    with pytest.raises(ValueError, match='is not relative, adaptive, or cosine with a threshold'):
        copy_rule(text)


def test_one_distinct_training_image_is_refused():
    with pytest.raises(UserError, match='the training set has fewer than two distinct images'):
        find_copies(CopyRule('adaptive'), FeatureSpace(), np.ones((3, 2)), np.ones((3, 2)))
