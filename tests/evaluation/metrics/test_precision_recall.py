import numpy as np
import pytest

from dnnlib.util import UserError
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
@pytest.mark.parametrize('k', [1, 3, 5])
def test_the_four_metrics_equal_those_of_all_distances(space, levels, k):
    generated, training = random_sets(levels, 60, 45)
    generated[:10] = training[:10]
    pairs = distances(generated, training)
    radii = np.sort(distances_to_others(training), axis=1)[:, k - 1]
    generated_radii = np.sort(distances_to_others(generated), axis=1)[:, k - 1]
    assert metric('precision_recall', space, generated, training, k=k) == pytest.approx(
        {
            'precision': np.mean((pairs <= radii).any(axis=1)),
            'recall': np.mean((pairs <= generated_radii[:, None]).any(axis=0)),
            'density': (pairs < radii).sum() / (k * len(generated)),
            'coverage': np.mean(pairs.min(axis=0) < radii),
            'k': k,
        },
        abs=1e-12,
    )


@in_both_spaces
def test_the_training_images_themselves_score_1(space):
    (training,) = random_sets(256, 50)
    result = metric('precision_recall', space, training, training)
    assert result == {'precision': 1, 'recall': 1, 'density': 1, 'coverage': 1, 'k': 5}


@in_both_spaces
def test_images_far_from_all_training_images_score_0(space):
    (training,) = random_sets(20, 50)
    result = metric('precision_recall', space, training + np.uint8(200), training)
    assert result == {'precision': 0, 'recall': 0, 'density': 0, 'coverage': 0, 'k': 5}


def test_copies_of_one_training_image_have_high_precision_and_low_recall():
    (training,) = random_sets(256, 50)
    result = metric('precision_recall', PixelSpace(), np.repeat(training[:1], 30, axis=0), training)
    assert result['precision'] == 1
    assert result['recall'] == 1 / 50  # the balls around the equal generated images have radius 0
    assert result['coverage'] < 0.5


@pytest.mark.parametrize(('generated', 'training', 'expected'), [(5, 6, '5 generated'), (6, 5, '5 training')])
def test_too_few_images_for_k_neighbours_are_refused(generated, training, expected):
    with pytest.raises(UserError, match=f'{expected} images are too few; give at least 6'):
        metric('precision_recall', PixelSpace(), *random_sets(256, generated, training))
    metric('precision_recall', PixelSpace(), *random_sets(256, 6, 6))
