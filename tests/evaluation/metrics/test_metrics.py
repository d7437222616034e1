import json
from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from evaluation.memorization import TrainingImages
from evaluation.metrics import METRICS, compute_metrics
from evaluation.spaces import FeatureSpace, PixelSpace
from tests.evaluation.naive import in_both_spaces, metric, random_sets, with_and_without_ties


@with_and_without_ties
@pytest.mark.parametrize('name', METRICS)
def test_pixels_and_the_same_numbers_as_features_agree(levels, name):
    sets = random_sets(levels, 60, 50, 45)
    assert metric(name, PixelSpace(), *sets) == metric(name, FeatureSpace(), *sets)


def test_all_at_once_are_those_one_by_one_in_the_order_asked_for():
    sets = random_sets(256, 60, 50, 45)
    names = list(METRICS)[::-1]
    together = compute_metrics(names, PixelSpace(), *sets)
    assert list(together) == names
    for name in names:
        assert together[name] == metric(name, PixelSpace(), *sets)


def test_results_survive_json():
    result = compute_metrics(list(METRICS), PixelSpace(), *random_sets(256, 60, 50, 45))
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_torch_and_numpy_images_give_the_same():
    sets = random_sets(4, 60, 50, 45)
    tensors: Any = [torch.from_numpy(images) for images in sets]
    names = list(METRICS)
    assert compute_metrics(names, PixelSpace(), *sets) == compute_metrics(names, PixelSpace(), *tensors)


class CountingSpace(PixelSpace):
    def __init__(self):
        super().__init__()
        self.asked = []

    def nearest(self, queries, references, k):
        self.asked.append((id(queries), id(references)))
        return super().nearest(queries, references, k)


def test_distances_that_metrics_share_are_computed_once():
    generated, training, test = random_sets(256, 60, 50, 45)
    space = CountingSpace()
    compute_metrics(list(METRICS), space, generated, training, test)
    assert (id(generated), id(training)) in space.asked
    assert (id(training), id(training)) in space.asked
    assert len(set(space.asked)) == len(space.asked)


def test_neighbours_that_are_known_are_not_computed_again():
    generated, training = random_sets(4, 60, 50)
    known = TrainingImages(training).nearest_two(generated)
    space = CountingSpace()
    names = ['ratio_curve', 'authenticity']
    result = compute_metrics(names, space, generated, training, nearest_two=known)
    assert result == compute_metrics(names, PixelSpace(), generated, training)
    assert id(generated) not in {queries for queries, _ in space.asked}


@in_both_spaces
@pytest.mark.parametrize('name', ['ratio_curve', 'authenticity', 'test_gap', 'copying_test'])
def test_a_single_generated_image_is_judged(space, name):
    json.dumps(metric(name, space, *random_sets(256, 1, 2, 1)), allow_nan=False)


@in_both_spaces
@pytest.mark.parametrize('name', ['ratio_curve', 'authenticity', 'test_gap', 'copying_test'])
def test_one_distinct_training_image_is_too_few(space, name):
    generated, training, test = random_sets(256, 5, 1, 5)
    with pytest.raises(UserError, match='only one is distinct'):
        metric(name, space, generated, np.repeat(training, 3, axis=0), test)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'fid'; there are ratio_curve, authenticity, copying_test, precision_recall"):
        compute_metrics(['ratio_curve', 'fid'], PixelSpace(), *random_sets(256, 5, 5))


@pytest.mark.parametrize('name', ['copying_test', 'test_gap'])
def test_a_metric_of_the_test_set_asks_for_one(name):
    with pytest.raises(UserError, match=f'--metrics={name} needs --test-ref'):
        compute_metrics([name], PixelSpace(), *random_sets(256, 5, 5))


def test_sets_of_different_shapes_are_refused():
    generated, training = random_sets(256, 5, 5)
    with pytest.raises(UserError, match=r'generated images: each is \[1, 1, 4\], and a training one \[1, 2, 2\]'):
        compute_metrics(['ratio_curve'], PixelSpace(), generated.reshape(5, 1, 1, 4), training)
    with pytest.raises(UserError, match=r'test images: each is \[1, 1, 4\]'):
        compute_metrics(['ratio_curve'], PixelSpace(), generated, training, training.reshape(5, 1, 1, 4))


def test_empty_sets_are_refused():
    generated, training = random_sets(256, 0, 5)
    with pytest.raises(UserError, match='generated images: empty'):
        compute_metrics(['ratio_curve'], PixelSpace(), generated, training)
