import json
import os
from collections import Counter

import numpy as np
import pytest

from dataset_utils import open_source, selections
from dnnlib.util import UserError
from tests.helpers import DATA, needs_cifar10

SUBSETS = DATA / 'cifar10_subsets.json'
LABELS = [2, 0, 1, 0, 2, 1, 1, 0, 2, 0, 1, 2]
NAMES = ['bird', 'cat', 'dog']
ZEROS, ONES, TWOS = [1, 3, 7, 9], [2, 5, 6, 10], [0, 4, 8, 11]


def many_labels() -> list[int]:
    return np.random.default_rng(0).integers(0, 5, 500).tolist()


class TestHeldOut:
    def test_the_last_images_of_each_class_are_held_out_from_all_others(self):
        assert selections.held_out(LABELS, NAMES, 6, None, None) == ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11])

    def test_the_held_out_share_of_each_class_is_proportional_to_its_size(self):
        labels = [0] * 60 + [1] * 30 + [2] * 10
        training, chosen = selections.held_out(labels, None, 20, None, 3)
        assert Counter(labels[index] for index in chosen) == {0: 12, 1: 6, 2: 2}
        assert sorted(training + chosen) == list(range(100))
        assert selections.held_out(labels, None, 20, None, 4)[1] != chosen

    @pytest.mark.parametrize('seed', [None, 5])
    def test_held_out_images_come_from_outside_the_training_set(self, seed):
        labels = many_labels()
        training, chosen = selections.held_out(labels, None, 30, 200, seed)
        assert training == selections.balanced(labels, None, 200, seed)
        assert len(chosen) == 30
        assert not set(training) & set(chosen)

    def test_one_image_is_the_smallest_held_out_set(self):
        assert selections.held_out(LABELS, NAMES, 1, None, None)[1] == [ZEROS[-1]]
        with pytest.raises(UserError, match='`held_out`=0 is out of range'):
            selections.held_out(LABELS, NAMES, 0, None, None)

    @pytest.mark.parametrize(('count', 'max_images', 'most'), [(12, None, 11), (4, 9, 3), (1, 12, 0)])
    def test_more_held_out_images_than_are_left_over_are_refused(self, count, max_images, most):
        with pytest.raises(UserError, match=f'`held_out`={count} is out of range; {most}'):
            selections.held_out(LABELS, NAMES, count, max_images, None)


class TestBalanced:
    def test_the_first_images_of_each_class_are_taken_class_by_class(self):
        assert selections.balanced(LABELS, NAMES, 6, None) == [1, 3, 2, 5, 0, 4]

    def test_classes_without_images_do_not_count(self):
        assert selections.balanced([7, 3, 7, 3], None, 4, None) == [1, 3, 0, 2]

    def test_a_size_that_the_classes_do_not_divide_is_refused(self):
        with pytest.raises(UserError, match=r'`max_images`=8 is not a multiple of the number of classes \(3\); give 6'):
            selections.balanced(LABELS, NAMES, 8, None)

    def test_a_size_below_the_number_of_classes_is_refused_with_the_smallest_possible(self):
        with pytest.raises(UserError, match=r'give 3'):
            selections.balanced(LABELS, NAMES, 2, None)

    def test_a_class_with_too_few_images_is_named_with_the_largest_size(self):
        labels = [0, 0, 0, 1, 1, 2, 2, 2]
        with pytest.raises(UserError, match=r'3 images of class 1 \(cat\), which has 2; give at most 6'):
            selections.balanced(labels, NAMES, 9, None)

    @pytest.mark.parametrize('names', [None, ['0', '1', '2']])
    def test_a_class_without_a_distinct_name_is_called_by_its_label(self, names):
        with pytest.raises(UserError, match=r'of class 1, which has 2'):
            selections.balanced([0, 0, 0, 1, 1, 2, 2, 2], names, 9, None)

    @pytest.mark.parametrize('seed', [None, 0, 1, 2**32 - 1])
    def test_smaller_sets_are_contained_in_larger_ones(self, seed):
        labels = many_labels()
        small, large = (selections.balanced(labels, None, size, seed) for size in (50, 200))
        assert set(small) < set(large)
        assert Counter(labels[index] for index in large) == dict.fromkeys(range(5), 40)
        assert len(set(large)) == 200

    def test_seeds_draw_different_images(self):
        labels = [0] * 100 + [1] * 100
        drawn = {tuple(selections.balanced(labels, None, 20, seed)) for seed in (None, 0, 1, 2)}
        assert len(drawn) == 4
        zeros, ones = np.array(selections.balanced(labels, None, 20, 0)).reshape(2, 10)
        assert set(zeros) != set(ones - 100), 'each class must have its own order'

    def test_the_order_of_a_seed_is_that_of_numpys_frozen_generator(self):
        order = np.random.RandomState([5, 1]).permutation(4)  # seeded by (seed, label)
        assert selections.members(LABELS, 5)[1] == [ONES[position] for position in order]


class TestHalves:
    @pytest.mark.parametrize('seed', [None, 3])
    def test_halves_are_disjoint_and_balanced_and_the_first_is_the_plain_subset(self, seed):
        labels = many_labels()
        first, second = (selections.balanced(labels, None, 100, seed, 2, number) for number in (0, 1))
        assert first == selections.balanced(labels, None, 100, seed)
        assert not set(first) & set(second)
        for half in (first, second):
            assert Counter(labels[index] for index in half) == dict.fromkeys(range(5), 20)

    def test_the_second_half_has_the_next_images_of_each_class(self):
        assert selections.balanced(LABELS, None, 3, None, 2, 0) == [1, 2, 0]
        assert selections.balanced(LABELS, None, 3, None, 2, 1) == [3, 5, 4]

    def test_too_few_images_for_two_halves_are_refused(self):
        with pytest.raises(UserError, match=r'6 images of class 0 \(bird\), which has 4; give at most 6'):
            selections.balanced(LABELS, NAMES, 9, None, sets=2)


class TestFirstClasses:
    def test_the_last_class_gets_the_remainder(self):
        assert selections.first_classes(LABELS, NAMES, 2, 5, None) == [*ZEROS[:2], *ONES[:3]]

    def test_classes_are_counted_from_the_lowest_label_present(self):
        assert selections.first_classes([9, 4, 6, 4], None, 2, 2, None) == [1, 2]

    def test_all_classes_can_be_selected(self):
        assert selections.first_classes(LABELS, NAMES, 3, 12, None) == ZEROS + ONES + TWOS

    def test_more_classes_than_there_are_is_refused(self):
        with pytest.raises(UserError, match=r'`num_classes`=4 exceeds the 3 classes of the source'):
            selections.first_classes(LABELS, NAMES, 4, 8, None)

    def test_fewer_images_than_classes_is_refused(self):
        with pytest.raises(UserError, match=r'`max_images`=1 is less than `num_classes`=2'):
            selections.first_classes(LABELS, NAMES, 2, 1, None)

    def test_only_the_selected_classes_need_enough_images(self):
        assert selections.first_classes([0, 0, 0, 1], None, 1, 3, None) == [0, 1, 2]


class TestOneClass:
    @pytest.mark.parametrize('name', ['cat', '1'])
    def test_a_class_is_selected_by_its_name_or_label(self, name):
        assert selections.one_class(LABELS, NAMES, name, 2, None) == ONES[:2]
        assert selections.one_class(LABELS, NAMES, name, None, None) == ONES

    def test_a_class_name_takes_precedence_over_a_label(self):
        assert selections.one_class(LABELS, ['1', '2', '0'], '1', None, None) == ZEROS

    @pytest.mark.parametrize('name', ['fish', '3', '-1', ''])
    def test_an_unknown_class_is_refused_with_a_list_of_classes(self, name):
        with pytest.raises(
            UserError, match=rf'`class_name`={name} is not a class .* 0 \(bird\), 1 \(cat\), 2 \(dog\)$'
        ):
            selections.one_class(LABELS, NAMES, name, None, None)

    def test_more_images_than_the_class_has_are_refused(self):
        with pytest.raises(UserError, match=r'5 images of class 2 \(dog\), which has 4; give at most 4'):
            selections.one_class(LABELS, NAMES, 'dog', 5, None)


class TestRepeated:
    def test_the_originals_are_kept_and_the_first_images_of_each_class_repeated(self):
        again = [*ZEROS[:2], *ONES[:2], *TWOS[:2]]
        assert selections.repeated(LABELS, 12, 3, 0.5, None) == [*range(12), *again, *again]

    def test_without_labels_the_first_images_are_repeated(self):
        assert selections.repeated(None, 4, 2, 0.5, None) == [0, 1, 2, 3, 0, 1]

    def test_without_labels_a_seed_draws_like_for_a_class_with_label_0(self):
        order = np.random.RandomState([5, 0]).permutation(100)  # seeded by (seed, label)
        assert selections.repeated(None, 100, 2, 0.1, 5)[100:] == order[:10].tolist()

    @pytest.mark.parametrize(('fraction', 'expected'), [(0, 0), (0.29, 29), (1, 100)])
    def test_the_fraction_is_rounded_to_whole_images(self, fraction, expected):
        assert len(selections.repeated(None, 100, 2, fraction, None)) == 100 + expected

    def test_every_fraction_is_exact_in_total_and_even_over_the_classes(self):
        labels = [0] * 3 + [1] * 50 + [2] * 10 + [3] * 37
        before: set[int] = set()
        for percent in range(101):
            again = selections.repeated(labels, 100, 2, percent / 100, 3)[100:]
            assert len(set(again)) == len(again) == percent
            for label in range(4):
                count, share = sum(labels[index] == label for index in again), percent / 100 * labels.count(label)
                assert abs(count - share) <= 1
            assert before <= set(again)
            before = set(again)

    def test_a_fraction_below_one_image_per_class_repeats_images_of_some_classes(self):
        assert selections.repeated([0, 1, 2, 3] * 5, 20, 2, 0.1, None) == [*range(20), 0, 1]

    def test_a_larger_fraction_repeats_all_images_of_a_smaller_one(self):
        small, large = (set(selections.repeated(many_labels(), 500, 2, share, 7)[500:]) for share in (0.1, 0.4))
        assert small < large


class TestSpread:
    GROUPS = (('n00000003', range(0, 50)), ('n00000001', range(50, 100)), ('n00000002', range(100, 150)))

    def test_the_first_groups_give_one_extra_image(self):
        chosen = selections.spread(self.GROUPS, 8, 0)
        assert [index // 50 for index in chosen] == [0, 0, 0, 1, 1, 1, 2, 2]
        assert len(set(chosen)) == 8

    def test_smaller_sets_are_contained_in_larger_ones(self):
        assert set(selections.spread(self.GROUPS, 8, 0)) < set(selections.spread(self.GROUPS, 70, 0))

    def test_the_images_drawn_from_a_group_do_not_depend_on_other_groups(self):
        assert selections.spread(self.GROUPS[1:2], 10, 5) == selections.spread(self.GROUPS, 30, 5)[10:20]

    def test_different_seeds_draw_different_images(self):
        assert selections.spread(self.GROUPS, 30, 0) != selections.spread(self.GROUPS, 30, 1)

    def test_rejected_images_are_replaced_by_the_next_of_their_group(self):
        plain = selections.spread(self.GROUPS, 30, 0)
        chosen = selections.spread(self.GROUPS, 30, 0, lambda index: index != plain[3])
        assert plain[:3] + plain[4:10] == chosen[:9]
        assert chosen[9] not in plain
        assert chosen[10:] == plain[10:]

    def test_a_group_with_too_few_images_is_refused(self):
        with pytest.raises(
            UserError, match=r'`max_images`=153 requires 51 images of n00000003, which has 50 images; lower it'
        ):
            selections.spread(self.GROUPS, 153, 0)


def test_random_labels_are_those_of_pythons_random_module():
    # The first values of random.randint(0, 9) after random.seed(1024).
    assert selections.random_labels(23, 10) == [0, 7, 6, 5, 8, 1, 7, 8, 5, 5, 6, 1, 2, 6, 1, 6, 2, 6, 7, 7, 8, 5, 9]


def test_random_labels_match_the_paper():
    for name, expected in json.loads(SUBSETS.read_text())['random_labels'].items():
        count, num_classes = name.split('_classes')
        assert selections.random_labels(int(count), int(num_classes)) == expected


def first_labels_of_cifar10() -> list[int]:
    """Labels of CIFAR-10's first images, derived from the published subset of 1,000 (100 per class).

    The subset contains the first 100 images of each class. An image outside of it therefore belongs to a class that
    already has 100 images; it is given the class that reaches 100 images first.
    """
    subset = np.array(json.loads(SUBSETS.read_text())['size']['1000']).reshape(10, 100)
    labels = np.full(subset.max() + 1, subset.max(axis=1).argmin())
    labels[subset] = np.arange(10)[:, None]
    return labels.tolist()


def all_labels_of_cifar10() -> list[int]:
    labels = open_source(os.environ['CIFAR10_ARCHIVE']).labels
    assert labels is not None
    return list(labels)


@pytest.mark.parametrize('read', [first_labels_of_cifar10, pytest.param(all_labels_of_cifar10, marks=needs_cifar10)])
def test_subsets_of_cifar10_match_the_paper(read):
    labels, expected = read(), json.loads(SUBSETS.read_text())
    for size, indices in expected['size'].items():
        assert selections.balanced(labels, None, int(size), None) == indices
    for name, indices in expected['classes'].items():
        size, num_classes = map(int, name.split('_classes'))
        assert selections.first_classes(labels, None, num_classes, size, None) == indices
