import json
import math
import subprocess
import sys
import types
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from evaluation.memorization import TrainingImages
from evaluation.metrics import METRICS, Metric, compute_metrics
from evaluation.printing import numbers_of
from evaluation.spaces import FeatureSpace, PixelSpace
from tests.evaluation.naive import in_both_spaces, metric, random_sets, with_and_without_ties
from tests.helpers import ROOT

OF_DISTANCES = [name for name, metric in METRICS.items() if metric.needs == 'distances']


@with_and_without_ties
@pytest.mark.parametrize('name', OF_DISTANCES)
def test_metrics_of_pixels_equal_those_of_the_same_values_as_features(levels, name):
    sets = random_sets(levels, 60, 50, 45)
    assert metric(name, PixelSpace(), *sets) == metric(name, FeatureSpace(), *sets)


def test_several_metrics_at_once_equal_single_ones_in_the_requested_order():
    sets = random_sets(256, 60, 50, 45)
    names = OF_DISTANCES[::-1]
    together = compute_metrics(names, PixelSpace(), *sets)
    assert list(together) == names
    for name in names:
        assert together[name] == metric(name, PixelSpace(), *sets)


def test_results_can_be_stored_as_json():
    result = compute_metrics(OF_DISTANCES, PixelSpace(), *random_sets(256, 60, 50, 45))
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_torch_and_numpy_images_give_the_same_metrics():
    sets = random_sets(4, 60, 50, 45)
    tensors: Any = [torch.from_numpy(images) for images in sets]
    names = OF_DISTANCES
    assert compute_metrics(names, PixelSpace(), *sets) == compute_metrics(names, PixelSpace(), *tensors)


class PlainMirrored(PixelSpace):
    """The smaller of the distances to an image and to its mirror image, for all pairs in float64."""

    def squared(self, queries, references):
        versions = references, references[..., ::-1]
        return np.minimum(*(np.square(queries[:, None].astype(float) - x).sum(axis=(2, 3, 4)) for x in versions))

    def nearest(self, queries, references, k):
        squared = self.squared(queries, references)
        index = np.argsort(squared, axis=1, kind='stable')[:, :k]
        return torch.from_numpy(index), torch.from_numpy(np.take_along_axis(squared, index, axis=1))

    def count_within(self, queries, references, squared_radii):
        squared, radii = self.squared(queries, references), squared_radii.numpy()
        return torch.from_numpy((squared < radii).sum(axis=1)), torch.from_numpy((squared <= radii).sum(axis=1))

    def distinct(self, rows):
        return torch.from_numpy(self.squared(rows, rows).argmin(axis=1)).unique()


@with_and_without_ties
def test_metrics_of_mirrored_images_equal_those_of_all_distances_in_float64(levels):
    generated, training, test = random_sets(levels, 60, 50, 45)
    training[40:45], generated[:6] = training[:5, ..., ::-1], training[10:16, ..., ::-1]
    found = compute_metrics(OF_DISTANCES, PixelSpace(mirrored=True), generated, training, test)
    assert found == compute_metrics(OF_DISTANCES, PlainMirrored(), generated, training, test)
    known = TrainingImages(torch.from_numpy(training), mirrored=True).nearest_two(torch.from_numpy(generated))
    space = PixelSpace(mirrored=True)
    assert found == compute_metrics(OF_DISTANCES, space, generated, training, test, nearest_two=known)
    # All sets count as sets of images and mirror images. (Only the cells of the C_T test are found without mirroring.)
    names = [name for name in OF_DISTANCES if name != 'copying_test']
    for images in (generated, training, test):
        images[::2] = images[::2, ..., ::-1].copy()
    other = compute_metrics(names, space, generated, training, test)
    assert other == {name: found[name] for name in names}


class CountingSpace(PixelSpace):
    def __init__(self):
        super().__init__()
        self.asked = []

    def nearest(self, queries, references, k):
        self.asked.append((id(queries), id(references)))
        return super().nearest(queries, references, k)


def test_distances_shared_by_several_metrics_are_computed_once():
    generated, training, test = random_sets(256, 60, 50, 45)
    space = CountingSpace()
    compute_metrics(OF_DISTANCES, space, generated, training, test)
    assert (id(generated), id(training)) in space.asked
    assert (id(training), id(training)) in space.asked
    assert len(set(space.asked)) == len(space.asked)


def test_known_neighbours_are_not_computed_again():
    generated, training = random_sets(4, 60, 50)
    known = TrainingImages(training).nearest_two(generated)
    space = CountingSpace()
    names = ['ratio_curve', 'authenticity']
    result = compute_metrics(names, space, generated, training, nearest_two=known)
    assert result == compute_metrics(names, PixelSpace(), generated, training)
    assert id(generated) not in {queries for queries, _ in space.asked}


@in_both_spaces
@pytest.mark.parametrize('name', ['ratio_curve', 'authenticity', 'test_gap', 'copying_test'])
def test_a_single_generated_image_is_enough(space, name):
    json.dumps(metric(name, space, *random_sets(256, 1, 2, 1)), allow_nan=False)


@in_both_spaces
@pytest.mark.parametrize('name', ['ratio_curve', 'authenticity', 'test_gap', 'copying_test'])
def test_one_distinct_training_image_is_too_few(space, name):
    generated, training, test = random_sets(256, 5, 1, 5)
    with pytest.raises(UserError, match='only one distinct training image'):
        metric(name, space, generated, np.repeat(training, 3, axis=0), test)


def test_an_unknown_metric_is_refused_with_a_list_of_known_metrics():
    with pytest.raises(UserError, match="'fid'; choose from ratio_curve, authenticity, copying_test, precision_recall"):
        compute_metrics(['ratio_curve', 'fid'], PixelSpace(), *random_sets(256, 5, 5))


@pytest.mark.parametrize('name', ['copying_test', 'test_gap'])
def test_a_metric_that_needs_a_test_set_is_refused_without_one(name):
    with pytest.raises(UserError, match=f'`metrics`={name} requires a held-out set; give `test_set`'):
        compute_metrics([name], PixelSpace(), *random_sets(256, 5, 5))


def test_sets_of_different_shapes_are_refused():
    generated, training = random_sets(256, 5, 5)
    with pytest.raises(UserError, match=r'generated images have shape \[1, 1, 4\], but training images have'):
        compute_metrics(['ratio_curve'], PixelSpace(), generated.reshape(5, 1, 1, 4), training)
    with pytest.raises(UserError, match=r'held-out images have shape \[1, 1, 4\]'):
        compute_metrics(['ratio_curve'], PixelSpace(), generated, training, training.reshape(5, 1, 1, 4))


@pytest.mark.parametrize('name', ['frechet', 'kernel_distance'])
@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda rows: rows.astype(np.uint8), r'must be float32 or float64 \[N, d\], not uint8 \[20, 4\]'),
        (lambda rows: rows[:, :, None], r'must be float32 or float64 \[N, d\], not float64 \[20, 4, 1\]'),
        (lambda rows: np.where(rows == rows[3], np.nan, rows), 'row 3 is not finite'),
    ],
)
def test_rows_that_are_not_features_are_refused(name, change, message):
    rows = np.random.default_rng(0).normal(size=[20, 4])
    with pytest.raises(UserError, match=f'generated images.*{message}'):
        compute_metrics([name], FeatureSpace(), change(rows), rows)


@pytest.mark.parametrize('k', [0, -1])
def test_a_ball_must_reach_to_a_neighbour(k):
    generated, training = random_sets(256, 9, 9)
    with pytest.raises(UserError, match=f'`k`={k} must be at least 1'):
        compute_metrics(['precision_recall'], PixelSpace(), generated, training, k=k)


def test_empty_sets_are_refused():
    generated, training = random_sets(256, 0, 5)
    with pytest.raises(UserError, match='generated images are empty'):
        compute_metrics(['ratio_curve'], PixelSpace(), generated, training)


def test_reversed_views_are_accepted_and_lists_are_refused():
    sets = random_sets(256, 9, 9, 9)
    copies = [images[::-1].copy() for images in sets]
    found = compute_metrics(OF_DISTANCES, PixelSpace(), *(images[::-1] for images in sets))
    assert found == compute_metrics(OF_DISTANCES, PixelSpace(), *copies)
    wrong: Any = list(sets[1])
    with pytest.raises(UserError, match='training images must be an array or a tensor, not list'):
        compute_metrics(['ratio_curve'], PixelSpace(), sets[0], wrong)


@dataclass
class Distance:
    value: Any


def from_distances(distances, seed):
    return Distance(float(distances.to_test.sum()) + seed)


def from_features(features, seed):
    return Distance(float(np.abs(features.generated.mean(axis=0) - features.training.mean(axis=0)).sum()))


@pytest.mark.parametrize('needs', ['distances', 'features'])
def test_a_new_metric_needs_one_file_and_one_line(needs, monkeypatch):
    monkeypatch.setitem(METRICS, 'new', Metric('a new one', __name__, needs=needs, needs_test=needs == 'distances'))
    generated, training, test = random_sets(256, 30, 20, 10)
    if needs == 'distances':
        squared = ((generated[:, None].astype(int) - test[None]) ** 2).sum(axis=(2, 3, 4)).min(axis=1)
        assert metric('new', PixelSpace(), generated, training, test, seed=3) == {'value': squared.sum() + 3}
        return
    a, b = (images.reshape(len(images), -1).astype(float) for images in (generated, training))
    mean = np.abs(a.sum(axis=0) / 30 - b.sum(axis=0) / 20).sum()
    assert metric('new', FeatureSpace(), generated, training)['value'] == pytest.approx(mean)
    with pytest.raises(UserError, match='cannot be computed from pixels; give `features`'):
        metric('new', PixelSpace(), generated, training)


def test_every_metric_value_that_shows_memorization_is_computed():
    sets = random_sets(256, 70, 65, 60)
    rows = [images.reshape(len(images), -1)[:, :5].astype(float) for images in sets]
    names = [name for name in METRICS if METRICS[name].needs == 'distances']
    found = compute_metrics(names, PixelSpace(), *sets) | compute_metrics(
        [name for name in METRICS if name not in names], FeatureSpace(), *rows
    )
    assert dict(numbers_of(found)).keys() >= {
        f'{name}.{number}' for name, metric in METRICS.items() for number in metric.memorized
    }


def test_metric_names_and_summaries_are_available_without_torch():
    code = "import sys, evaluation.metrics as m; assert 'torch' not in sys.modules; print(*m.METRICS)"
    found = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == list(METRICS)


def returns(monkeypatch, result):
    """Register the metric 'own', which returns this result; return what `compute_metrics` makes of it."""
    module = types.ModuleType('own_metric')
    monkeypatch.setattr(module, 'from_distances', lambda distances, seed: result, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(METRICS, 'own', Metric('own', module.__name__))
    return compute_metrics(['own'], PixelSpace(), *random_sets(256, 5, 5))['own']


def test_results_with_arrays_and_infinite_numbers_can_be_stored_as_json(monkeypatch):
    values = [np.float32(0.5), torch.tensor(2), np.arange(2), (1.5, [np.int64(3)]), math.nan, torch.tensor([math.inf])]
    found = returns(monkeypatch, Distance(values))
    assert found == {'value': [0.5, 2, [0, 1], [1.5, [3]], None, [None]]}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ('result', 'message'),
    [
        ({'value': 1}, 'the metric own must return a dataclass of numbers, not dict'),
        (1.5, 'the metric own must return a dataclass of numbers, not float'),
        (Distance('high'), 'the result own.value is str; a metric must return numbers, arrays, lists and None'),
    ],
)
def test_results_of_another_type_are_refused(monkeypatch, result, message):
    with pytest.raises(UserError, match=message):
        returns(monkeypatch, result)
