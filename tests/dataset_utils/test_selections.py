import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dataset_utils import open_source, selections
from dnnlib.util import UserError

CONFORMANCE = Path(__file__).parents[3] / 'shared' / 'conformance' / 'cifar10_subsets.json'
LABELS = [2, 0, 1, 0, 2, 1, 1, 0, 2, 0, 1, 2]
NAMES = ['bird', 'cat', 'dog']


def test_balanced_takes_the_first_of_each_class_class_after_class():
    assert selections.balanced(LABELS, NAMES, 6, None) == [1, 3, 2, 5, 0, 4]


def test_classes_that_are_absent_do_not_count():
    assert selections.balanced([7, 3, 7, 3], None, 4, None) == [1, 3, 0, 2]


def test_size_that_the_classes_do_not_divide_is_refused():
    with pytest.raises(UserError, match=r'--max-images=8 is no multiple of the 3 classes; give 6'):
        selections.balanced(LABELS, NAMES, 8, None)


def test_size_below_the_number_of_classes_is_refused_with_the_smallest_possible():
    with pytest.raises(UserError, match=r'give 3'):
        selections.balanced(LABELS, NAMES, 2, None)


def test_class_with_too_few_images_is_named_with_the_largest_size():
    labels = [0, 0, 0, 1, 1, 2, 2, 2]
    with pytest.raises(UserError, match=r'3 images of class 1 \(cat\), which has 2; the largest possible is .*=6'):
        selections.balanced(labels, NAMES, 9, None)


@pytest.mark.parametrize('seed', [None, 0, 1, 2**32 - 1])
def test_smaller_sets_are_contained_in_larger_ones(seed):
    labels = np.random.default_rng(0).integers(0, 5, 500).tolist()
    small, large = (selections.balanced(labels, None, size, seed) for size in (50, 200))
    assert set(small) < set(large)
    assert Counter(labels[index] for index in large) == dict.fromkeys(range(5), 40)
    assert len(set(large)) == 200


def test_seeds_draw_different_images():
    labels = [0] * 100 + [1] * 100
    drawn = {tuple(selections.balanced(labels, None, 20, seed)) for seed in (None, 0, 1, 2)}
    assert len(drawn) == 4
    zeros, ones = np.array(selections.balanced(labels, None, 20, 0)).reshape(2, 10)
    assert set(zeros) != set(ones - 100), 'each class has an order of its own'


def test_seeded_order_is_that_of_numpys_frozen_generator():
    order = np.random.RandomState([5, 1]).permutation(4)  # seeded by (seed, label)
    ones = [2, 5, 6, 10]
    assert selections.members(LABELS, 5)[1] == [ones[position] for position in order]


@pytest.mark.skipif(
    'CIFAR10_ARCHIVE' not in os.environ or not CONFORMANCE.exists(),
    reason='needs CIFAR10_ARCHIVE=cifar-10-python.tar.gz, and the conformance data',
)
def test_subsets_of_cifar10_are_the_papers():
    source = open_source(os.environ['CIFAR10_ARCHIVE'])
    expected = json.loads(CONFORMANCE.read_text())
    assert source.labels is not None
    for size in ('100', '1000'):
        assert selections.balanced(source.labels, source.class_names, int(size), None) == expected['size'][size]
