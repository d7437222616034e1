"""`python -m dataset_utils`, from the command line to the files."""

import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from dataset_utils import open_source
from dataset_utils.command_line import main
from dataset_utils.imagenet import superclasses
from tests.dataset_utils.commands import make, refused
from tests.dataset_utils.making import (
    CIFAR_CLASSES,
    cifar_labels,
    image_bytes,
    labelled_files,
    random_images,
    read_zip,
    write_files,
    write_idx,
    write_zip,
)
from tests.helpers import invoke, refusal

DIGITS = open_source('digits')
DIGIT_IMAGES, DIGIT_LABELS = DIGITS.load(), DIGITS.labels


def first_of(digit: int, count: int) -> list[int]:
    """Indices of the first images of a digit, found naively."""
    return [index for index, label in enumerate(DIGIT_LABELS) if label == digit][:count]


class TestSize:
    def test_first_of_each_class_with_labels_and_names(self, tmp_path):
        images, labels, manifest = make('size', 'digits', tmp_path / 'd.zip', '--max-images=30')
        expected = [index for digit in range(10) for index in first_of(digit, 3)]
        assert np.array_equal(images, DIGIT_IMAGES[expected])
        assert labels == [digit for digit in range(10) for _ in range(3)]
        assert manifest == {
            'source': 'digits',
            'source_sha256': DIGITS.sha256(),
            'rule': 'size',
            'arguments': {'max_images': 30, 'seed': None},
            'indices': expected,
            'labels': 'those of the source',
            'class_names': list('0123456789'),
            'version': 1,
        }

    def test_cifar_keeps_its_class_names(self, tmp_path, cifar):
        _, labels, manifest = make('size', cifar, tmp_path / 'c.zip', '--max-images=100')
        assert manifest['class_names'] == CIFAR_CLASSES
        assert [cifar_labels(40)[index] for index in manifest['indices']] == labels

    def test_mnist_is_padded_as_dataset_tool_pads_it(self, tmp_path):
        path, expected, _ = write_idx(tmp_path)
        images, _, _ = make('size', path, tmp_path / 'm.zip', '--max-images=10')
        assert images.shape == (10, 32, 32, 1)
        assert np.array_equal(images[:, 2:30, 2:30, 0], expected[:10])

    def test_seeded_sets_are_nested(self, tmp_path):
        small, large = (
            make('size', 'digits', tmp_path / f'{size}.zip', f'--max-images={size}', '--seed=4')[2]['indices']
            for size in (50, 200)
        )
        assert set(small) < set(large)
        assert Counter(DIGIT_LABELS[index] for index in large) == dict.fromkeys(range(10), 20)

    def test_subset_of_a_subset_is_the_smaller_subset(self, tmp_path):
        make('size', 'digits', tmp_path / '200.zip', '--max-images=200')
        again, labels, _ = make('size', tmp_path / '200.zip', tmp_path / 'again.zip', '--max-images=50')
        direct, direct_labels, _ = make('size', 'digits', tmp_path / '50.zip', '--max-images=50')
        assert np.array_equal(again, direct)
        assert labels == direct_labels

    def test_unlabelled_images_are_taken_in_order_or_drawn_uniformly(self, tmp_path):
        source = write_zip(tmp_path / 'a.zip', labelled_files(random_images(20), None))
        images, labels, manifest = make('size', source, tmp_path / 'd.zip', '--max-images=7')
        assert np.array_equal(images, random_images(20)[:7])
        assert labels is None
        assert manifest['labels'] == 'none'
        drawn = make('size', source, tmp_path / 'e.zip', '--max-images=7', '--seed=5')[2]['indices']
        assert drawn == np.random.RandomState([5, 0]).permutation(20)[:7].tolist()
        message = refused('size', source, tmp_path / 'f.zip', '--max-images=21')
        assert '--max-images requires 21 images of 20; give at most 20' in message
        assert 'has no labels' in refused('classes', source, tmp_path / 'f.zip', '--max-images=2', '--num-classes=2')

    def test_more_images_than_a_class_has(self, tmp_path):
        message = refused('size', 'digits', tmp_path / 'd.zip', '--max-images=1790')
        assert '179 images of class 0, which has 178; give at most 1740' in message

    def test_size_that_the_classes_do_not_divide(self, tmp_path):
        message = refused('size', 'digits', tmp_path / 'd.zip', '--max-images=55')
        assert '--max-images=55 is not a multiple of the 10 classes; give 50' in message

    def test_refusal_of_the_destination_comes_before_reading(self, tmp_path):
        (tmp_path / 'd.zip').write_bytes(b'x')
        assert 'exists; add --overwrite' in refused('size', 'nowhere', tmp_path / 'd.zip', '--max-images=10')

    def test_empty_source_is_what_is_refused(self, tmp_path):
        assert '--source=: no such file' in refused('size', '', tmp_path / 'd.zip', '--max-images=10')


class TestClasses:
    def test_first_classes_with_the_remainder_in_the_last(self, tmp_path):
        images, labels, _ = make('classes', 'digits', tmp_path / 'd.zip', '--num-classes=3', '--max-images=11')
        assert labels == [0] * 3 + [1] * 3 + [2] * 5
        assert np.array_equal(images, DIGIT_IMAGES[first_of(0, 3) + first_of(1, 3) + first_of(2, 5)])

    def test_too_many_classes(self, tmp_path):
        message = refused('classes', 'digits', tmp_path / 'd.zip', '--num-classes=11', '--max-images=110')
        assert '--num-classes=11 is more than the 10 classes of the source' in message


class TestResolution:
    def test_same_images_resized_with_lanczos(self, tmp_path, cifar):
        options = ['--resolution=16x16', '--max-images=50']
        images, labels, manifest = make('resolution', cifar, tmp_path / 'r.zip', *options)
        original, original_labels, original_manifest = make('size', cifar, tmp_path / 's.zip', '--max-images=50')
        resized = [PIL.Image.fromarray(image).resize((16, 16), PIL.Image.Resampling.LANCZOS) for image in original]
        assert np.array_equal(images, np.stack([np.asarray(image) for image in resized]))
        assert labels == original_labels
        assert manifest['indices'] == original_manifest['indices']

    def test_resolution_out_of_range(self, tmp_path):
        options = ['--resolution=8193x8193', '--max-images=50']
        message = refused('resolution', 'digits', tmp_path / 'r.zip', *options, status=2)
        assert '--resolution=8193x8193 is out of range; give an edge of 1 to 8192 pixels' in message

    def test_resolution_that_is_not_square(self, tmp_path):
        options = ['--resolution=16x8', '--max-images=50']
        assert '16x8 is not square; write it like 16x16' in refused(
            'resolution', 'digits', tmp_path / 'r.zip', *options, status=2
        )


class TestLabels:
    def test_random_labels_are_the_papers(self, tmp_path):
        options = ['--num-classes=10', '--max-images=100']
        images, labels, manifest = make('random-labels', 'digits', tmp_path / 'r.zip', *options)
        assert labels is not None
        assert labels[:10] == [0, 7, 6, 5, 8, 1, 7, 8, 5, 5]
        assert np.array_equal(images, make('size', 'digits', tmp_path / 's.zip', '--max-images=100')[0])
        assert manifest['class_names'] is None
        assert manifest['labels'] == "random: Python's random.Random(1024).randint(0, 9) for each image in order"

    @pytest.mark.parametrize(('classes', 'is_fine'), [(2**21, True), (2**21 + 1, False)])
    def test_random_labels_beyond_what_can_be_read_again(self, tmp_path, classes, is_fine):
        options = [f'--num-classes={classes}', '--max-images=10']
        if is_fine:
            make('random-labels', 'digits', tmp_path / 'r.zip', *options)
            assert max(open_source(tmp_path / 'r.zip').labels or []) > 10**6
        else:
            message = refused('random-labels', 'digits', tmp_path / 'r.zip', *options)
            assert '--num-classes=2097153 is not in the range from 1 to 2097152' in message

    def test_random_labels_of_another_seed(self, tmp_path):
        options = ['--num-classes=10', '--max-images=100']
        first = make('random-labels', 'digits', tmp_path / 'a.zip', *options)
        second = make('random-labels', 'digits', tmp_path / 'b.zip', *options, '--label-seed=1')
        assert np.array_equal(first[0], second[0])
        assert first[1] != second[1]

    def test_unique_labels_are_positions(self, tmp_path):
        images, labels, manifest = make('unique-labels', 'digits', tmp_path / 'u.zip', '--max-images=100')
        assert labels == list(range(100))
        assert np.array_equal(images, make('size', 'digits', tmp_path / 's.zip', '--max-images=100')[0])
        assert manifest['class_names'] is None

    @pytest.mark.parametrize('command', ['random-labels', 'unique-labels'])
    def test_unlabelled_source(self, tmp_path, command):
        source = write_zip(tmp_path / 'a.zip', labelled_files(random_images(20), None))
        options = ['--num-classes=2'] if command == 'random-labels' else []
        images, labels, _ = make(command, source, tmp_path / 'd.zip', '--max-images=10', *options)
        assert np.array_equal(images, random_images(20)[:10])
        generator = random.Random(1024)
        drawn = [generator.randint(0, 1) for _ in range(10)]
        assert labels == (drawn if command == 'random-labels' else list(range(10)))


class TestOneClass:
    def test_by_name(self, tmp_path, cifar):
        _, labels, manifest = make('one-class', cifar, tmp_path / 'c.zip', '--class-name=dog', '--max-images=7')
        assert labels == [5] * 7
        assert manifest['indices'] == [index for index, label in enumerate(cifar_labels(40)) if label == 5][:7]

    def test_all_of_a_class(self, tmp_path):
        images, labels, _ = make('one-class', 'digits', tmp_path / 'd.zip', '--class-name=7')
        assert np.array_equal(images, DIGIT_IMAGES[first_of(7, 1000)])
        assert set(labels or []) == {7}

    def test_unknown_class(self, tmp_path, cifar):
        message = refused('one-class', cifar, tmp_path / 'c.zip', '--class-name=wolf')
        assert '--class-name=wolf is not a class of the source, which has 0 (airplane), 1 (automobile)' in message


class TestImagenetClass:
    BIRDS = superclasses()['bird']
    OPTIONS = ('--superclass=bird', '--resolution=8x8')

    @pytest.fixture
    def tree(self, tmp_path) -> Path:
        """The 17 synsets of birds with 4 images each, and one synset that is no bird."""
        pixels = iter(random_images(72, 24))
        names = [f'{synset}/{synset}_{number}.JPEG' for synset in [*self.BIRDS, 'n09999999'] for number in range(4)]
        return write_files(tmp_path / 'train', {name: image_bytes(next(pixels)[:20], 'JPEG') for name in names})

    def synsets(self, tree: Path, manifest: dict) -> list[str]:
        return [open_source(tree).describe(index).split('/')[0] for index in manifest['indices']]

    def test_spread_evenly_over_the_synsets_with_cifars_label(self, tmp_path, tree):
        images, labels, manifest = make('imagenet-class', tree, tmp_path / 'b.zip', *self.OPTIONS, '--max-images=20')
        assert labels == [2] * 20
        assert manifest['class_names'] == CIFAR_CLASSES
        expected = {synset: 2 if number < 3 else 1 for number, synset in enumerate(self.BIRDS)}
        assert Counter(self.synsets(tree, manifest)) == expected
        with PIL.Image.open(tree / open_source(tree).describe(manifest['indices'][0])) as image:
            cropped = image.crop((2, 0, 22, 20)).resize((8, 8), PIL.Image.Resampling.LANCZOS)
        assert np.array_equal(images[0], np.asarray(cropped))

    def test_default_resolution_is_cifars(self, tmp_path, tree):
        images, _, _ = make('imagenet-class', tree, tmp_path / 'b.zip', '--superclass=bird', '--max-images=2')
        assert images.shape == (2, 32, 32, 3)

    def test_draw_depends_on_the_seed_alone_and_is_nested(self, tmp_path, tree):
        def drawn(name: str, *arguments: str) -> list[str]:
            _, _, manifest = make('imagenet-class', tree, tmp_path / name, *self.OPTIONS, *arguments)
            return [open_source(tree).describe(index) for index in manifest['indices']]

        plain = drawn('a.zip', '--max-images=17')
        assert set(plain) < set(drawn('b.zip', '--max-images=40'))
        assert plain != drawn('c.zip', '--max-images=17', '--seed=1')
        shutil.rmtree(tree / 'n09999999')
        write_files(tree, {'n00000001/a.JPEG': image_bytes(random_images(1)[0])})
        assert plain == drawn('d.zip', '--max-images=17')

    def test_images_that_are_not_drawn_are_not_even_opened(self, tmp_path, tree):
        _, _, manifest = make('imagenet-class', tree, tmp_path / 'a.zip', *self.OPTIONS, '--max-images=17')
        source = open_source(tree)
        for index in set(range(len(source))) - set(manifest['indices']):
            (tree / source.describe(index)).write_bytes(b'broken')
        make('imagenet-class', tree, tmp_path / 'b.zip', *self.OPTIONS, '--max-images=17')
        assert (tmp_path / 'a.zip').read_bytes() == (tmp_path / 'b.zip').read_bytes()

    def test_archive_of_imagenet_will_do(self, tmp_path, tree):
        files = {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob('*.JPEG')}
        archive = write_zip(tmp_path / 'train.zip', files)
        first = make('imagenet-class', tree, tmp_path / 'a.zip', *self.OPTIONS, '--max-images=20')
        second = make('imagenet-class', archive, tmp_path / 'b.zip', *self.OPTIONS, '--max-images=20')
        assert np.array_equal(first[0], second[0])

    def test_missing_synsets_are_counted_and_named(self, tmp_path, tree):
        for synset in self.BIRDS[3:5]:
            shutil.rmtree(tree / synset)
        message = refused('imagenet-class', tree, tmp_path / 'b.zip', *self.OPTIONS, '--max-images=17')
        assert f'it has 15 of the 17 synset folders of bird ({self.BIRDS[3]}, {self.BIRDS[4]} missing' in message

    def test_tree_of_the_wrong_level(self, tmp_path, tree):
        (tmp_path / 'ILSVRC').mkdir()
        shutil.copytree(tree, tmp_path / 'ILSVRC' / 'train')
        write_files(tmp_path / 'ILSVRC', {'other/a.JPEG': image_bytes(random_images(1)[0])})
        message = refused('imagenet-class', tmp_path / 'ILSVRC', tmp_path / 'b.zip', *self.OPTIONS, '--max-images=17')
        assert 'it has 0 of the 17 synset folders of bird (' in message
        assert 'its folders are other, train); give' in message
        message = refused('imagenet-class', tree / self.BIRDS[0], tmp_path / 'b.zip', *self.OPTIONS, '--max-images=17')
        assert 'it has 0 of the 17 synset folders of bird (' in message
        assert 'its folders are none); give' in message

    def test_unknown_superclass_lists_those_that_are(self, tmp_path, tree):
        message = refused('imagenet-class', tree, tmp_path / 'b.zip', '--superclass=fish', '--max-images=17')
        assert '--superclass=fish is unknown; give one of bird, cat, dog' in message

    def test_resolution_out_of_range(self, tmp_path, tree):
        options = ['--superclass=bird', '--resolution=8193x8193', '--max-images=17']
        message = refused('imagenet-class', tree, tmp_path / 'b.zip', *options, status=2)
        assert '--resolution=8193x8193 is out of range; give an edge of 1 to 8192 pixels' in message

    def test_more_images_than_a_synset_has(self, tmp_path, tree):
        message = refused('imagenet-class', tree, tmp_path / 'b.zip', *self.OPTIONS, '--max-images=69')
        assert f'--max-images=69 requires 5 images of {self.BIRDS[0]}, which has 4 images; lower it' in message
        (tree / self.BIRDS[0] / f'{self.BIRDS[0]}_2.JPEG').write_bytes(b'broken')
        options = [*self.OPTIONS, '--max-images=68', '--skip-unreadable']
        message = refused('imagenet-class', tree, tmp_path / 'b.zip', *options)
        assert f'requires 4 images of {self.BIRDS[0]}, which has 3 readable images; lower it' in message

    def test_empty_synset_folder_counts_as_missing(self, tmp_path, tree):
        for path in (tree / self.BIRDS[0]).iterdir():
            path.unlink()
        message = refused('imagenet-class', tree, tmp_path / 'b.zip', *self.OPTIONS, '--max-images=17')
        assert f'it has 16 of the 17 synset folders of bird ({self.BIRDS[0]} missing or empty; its' in message

    def test_unreadable_image_is_named_or_replaced_and_listed(self, tmp_path, tree):
        _, _, manifest = make('imagenet-class', tree, tmp_path / 'a.zip', *self.OPTIONS, '--max-images=17')
        broken = open_source(tree).describe(manifest['indices'][5])
        (tree / broken).write_bytes((tree / broken).read_bytes()[:300])
        message = refused('imagenet-class', tree, tmp_path / 'b.zip', *self.OPTIONS, '--max-images=17')
        assert f'{broken} is not a readable JPEG' in message
        assert 'add --skip-unreadable' in message
        options = [*self.OPTIONS, '--max-images=17', '--skip-unreadable']
        _, _, replaced = make('imagenet-class', tree, tmp_path / 'b.zip', *options)
        assert replaced['arguments']['skipped'] == [broken]
        assert self.synsets(tree, replaced) == self.BIRDS
        differing = [
            i for i, pair in enumerate(zip(manifest['indices'], replaced['indices'], strict=True)) if len({*pair}) > 1
        ]
        assert differing == [5]
        assert 'Verified' in invoke(main, 'info', tmp_path / 'b.zip', f'--verify={tree}').stdout

    def test_table_holds_every_synset_once(self):
        assert {name: len(synsets) for name, synsets in superclasses().items()} == {'bird': 17, 'cat': 13, 'dog': 123}
        assert len({synset for synsets in superclasses().values() for synset in synsets}) == 153
        assert superclasses()['cat'][:2] == ['n02123045', 'n02123159']  # tabby, tiger cat


class TestMixture:
    @pytest.fixture
    def sets(self, tmp_path) -> tuple[Path, Path]:
        paths = tmp_path / 'a.zip', tmp_path / 'b.zip'
        for seed, path in enumerate(paths):
            write_zip(path, labelled_files(random_images(1000, 2, 1, seed), [5] * 1000))
        return paths

    @pytest.mark.parametrize(('rate', 'first'), [(0, 1000), (0.2, 800), (0.5, 500), (0.8, 199), (1, 0)])
    def test_counts_are_the_papers(self, tmp_path, sets, rate, first):
        options = [f'--blend={sets[1]}', f'--blend-rate={rate}', '--max-images=1000']
        images, labels, manifest = make('mixture', sets[0], tmp_path / 'm.zip', *options)
        parts = [random_images(1000, 2, 1, seed) for seed in (0, 1)]
        assert np.array_equal(images, np.concatenate([parts[0][:first], parts[1][: 1000 - first]]))
        assert labels == [5] * 1000
        assert manifest['source'] == ['a.zip', 'b.zip']
        assert manifest['source_sha256'] == [open_source(path).sha256() for path in sets]
        assert manifest['indices'] == [list(range(first)), list(range(1000 - first))]
        assert manifest['arguments'] == {'blend_rate': rate, 'max_images': 1000}

    @pytest.mark.parametrize('rate', [-0.1, 1.1, 'half'])
    def test_rate_out_of_range(self, tmp_path, sets, rate):
        options = [f'--blend={sets[1]}', f'--blend-rate={rate}', '--max-images=10']
        assert '--blend-rate' in refused('mixture', sets[0], tmp_path / 'm.zip', *options, status=2)

    @pytest.mark.parametrize(
        ('images', 'labels', 'message'),
        [
            (random_images(20, 3, 1), [5] * 20, r'is 2x2 grey, but --blend=.* is 3x3 grey; bring both to one size'),
            (random_images(20, 2, 1), None, r'other\.zip has no labels, but the set that it is mixed with has'),
            (random_images(3, 2, 1), [5] * 3, r'other\.zip has 3 images, but 5 are needed; lower --max-images'),
        ],
    )
    def test_sets_that_do_not_fit(self, tmp_path, sets, images, labels, message):
        other = write_zip(tmp_path / 'other.zip', labelled_files(images, labels))
        options = [f'--blend={other}', '--blend-rate=0.5', '--max-images=10']
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(refused('mixture', sets[0], tmp_path / 'm.zip', *options))

    def test_grey_and_colour_images_become_colour(self, tmp_path, sets):
        other = write_zip(tmp_path / 'other.zip', labelled_files(random_images(20, 2, 3), [5] * 20))
        options = [f'--blend={other}', '--blend-rate=0.5', '--max-images=4']
        images, _, _ = make('mixture', sets[0], tmp_path / 'm.zip', *options)
        expected = [*np.repeat(open_source(sets[0]).load()[:2], 3, axis=3), *random_images(20, 2, 3)[:2]]
        assert np.array_equal(images, expected)

    def test_sets_whose_classes_have_other_names(self, tmp_path, cifar):
        make('resolution', cifar, tmp_path / 'c.zip', '--resolution=8x8', '--max-images=10')
        make('size', 'digits', tmp_path / 'd.zip', '--max-images=10')
        grey = np.array(read_zip(tmp_path / 'd.zip')[0])
        files = {f'{name}/{name}.png': image_bytes(np.repeat(grey[:1], 3, axis=3)[0]) for name in 'xy'}
        other = write_zip(tmp_path / 'xy.zip', files)
        options = [f'--blend={other}', '--blend-rate=0.5', '--max-images=2']
        message = refused('mixture', tmp_path / 'c.zip', tmp_path / 'm.zip', *options)
        assert 'have different class names' in message

    @pytest.mark.parametrize('command', ['random-labels', 'unique-labels'])
    @pytest.mark.parametrize('is_blend', [True, False])
    def test_made_up_labels_do_not_mix(self, tmp_path, command, is_blend):
        options = ['--max-images=20', *(['--num-classes=10'] if command == 'random-labels' else [])]
        make(command, 'digits', tmp_path / 'made.zip', *options)
        source, blend = ('digits', tmp_path / 'made.zip') if is_blend else (tmp_path / 'made.zip', 'digits')
        options = [f'--blend={blend}', '--blend-rate=0.5', '--max-images=10']
        message = refused('mixture', source, tmp_path / 'm.zip', *options)
        assert f'made.zip has labels made by {command}, which do not mix' in message
        assert message.endswith('mix the sets that it was made of, and then label the mixture')

    @pytest.mark.parametrize('is_blend', [True, False])
    def test_label_that_the_other_set_has_no_class_for(self, tmp_path, is_blend):
        other = write_zip(tmp_path / 'other.zip', labelled_files(random_images(5, 8, 1), [0, 10, 1, 2, 3]))
        source, blend = ('digits', other) if is_blend else (other, 'digits')
        options = [f'--blend={blend}', '--blend-rate=0.5', '--max-images=10']
        message = refused('mixture', source, tmp_path / 'm.zip', *options)
        assert 'other.zip has the label 10, but the set that it is mixed with has 10 classes' in message

    def test_destination_must_not_be_the_blend(self, tmp_path, sets):
        options = [f'--blend={sets[1]}', '--blend-rate=0.5', '--max-images=10', '--overwrite']
        assert 'contain one another' in refused('mixture', sets[0], sets[1], *options)


class TestDuplicate:
    def test_fraction_is_there_so_many_times(self, tmp_path):
        make('size', 'digits', tmp_path / 's.zip', '--max-images=100')
        options = ['--copies=4', '--fraction=0.2']
        images, labels, _ = make('duplicate', tmp_path / 's.zip', tmp_path / 'd.zip', *options)
        assert len(images) == 100 + 20 * 3
        counts = Counter(image.tobytes() for image in images)
        assert Counter(counts.values()) == {1: 80, 4: 20}
        assert Counter(labels) == dict.fromkeys(range(10), 16)
        assert np.array_equal(images[:100], read_zip(tmp_path / 's.zip')[0])

    def test_unlabelled_source(self, tmp_path):
        source = write_zip(tmp_path / 'a.zip', labelled_files(random_images(10), None))
        images, labels, _ = make('duplicate', source, tmp_path / 'd.zip', '--copies=2', '--fraction=0.5')
        assert np.array_equal(images, np.concatenate([random_images(10), random_images(10)[:5]]))
        assert labels is None

    @pytest.mark.parametrize('option', ['--fraction=1.5', '--fraction=-1', '--copies=1'])
    def test_values_out_of_range(self, tmp_path, option):
        options = ['--copies=2', '--fraction=0.5', option]
        assert option.split('=')[0] in refused('duplicate', 'digits', tmp_path / 'd.zip', *options, status=2)

    def test_more_images_than_names(self, tmp_path):
        message = refused('duplicate', 'digits', tmp_path / 'd.zip', '--copies=1000000', '--fraction=0')
        assert '--copies=1000000 may give more than 100000000 images' in message

    def test_fraction_that_repeats_nothing(self, tmp_path):
        make('size', 'digits', tmp_path / 's.zip', '--max-images=100')
        message = refused('duplicate', tmp_path / 's.zip', tmp_path / 'd.zip', '--copies=4', '--fraction=0.004')
        assert '--fraction=0.004 of 100 images is less than one, so none is repeated; raise it' in message
        images, _, _ = make('duplicate', tmp_path / 's.zip', tmp_path / 'd.zip', '--copies=4', '--fraction=0')
        assert len(images) == 100, 'no duplicates, on purpose'

    def test_fraction_that_is_no_number(self, tmp_path):
        message = refused('duplicate', 'digits', tmp_path / 'd.zip', '--copies=2', '--fraction=nan')
        assert '--fraction=nan is not in the range from 0 to 1' in message


class TestSplit:
    def test_two_disjoint_halves(self, tmp_path):
        result = invoke(main, 'split', '--source=digits', f'--dest={tmp_path / "half.zip"}', '--max-images=500')
        assert result.exit_code == 0, result.output
        first, second = (read_zip(tmp_path / f'half-{half}.zip') for half in 'ab')
        assert first[1] == second[1] == [digit for digit in range(10) for _ in range(50)]
        assert not set(first[2]['indices']) & set(second[2]['indices'])
        assert np.array_equal(first[0], make('size', 'digits', tmp_path / 's.zip', '--max-images=500')[0])

    def test_folders(self, tmp_path):
        assert invoke(main, 'split', '--source=digits', f'--dest={tmp_path / "half"}', '--max-images=10').exit_code == 0
        assert sorted(os.listdir(tmp_path)) == ['half-a', 'half-b']

    def test_either_both_or_none(self, tmp_path):
        (tmp_path / 'half-b.zip').write_bytes(b'x')
        assert 'half-b.zip exists' in refused('split', 'digits', tmp_path / 'half.zip', '--max-images=10')
        files = labelled_files(random_images(4), [0, 0, 0, 0]) | {'00000/img00000003.png': b'broken'}
        source = write_zip(tmp_path / 'a.zip', files)
        assert 'not a readable PNG' in refused('split', source, tmp_path / 'new.zip', '--max-images=2')

    @pytest.mark.parametrize('dest', ['', '.', 'folder/..', '.zip'])
    def test_destination_without_a_name(self, tmp_path, monkeypatch, dest):
        monkeypatch.chdir(tmp_path)
        message = refusal(invoke(main, 'split', '--source=digits', f'--dest={dest}', '--max-images=10'))
        assert f'--dest={dest} has no name for the halves; end it in one, such as half.zip' in message

    def test_more_images_than_two_halves_hold(self, tmp_path):
        message = refused('split', 'digits', tmp_path / 'half.zip', '--max-images=900')
        assert '180 images of class 0, which has 178; give at most 870' in message


SELECTIONS = {
    'size': ['--max-images=100', '--seed=2'],
    'classes': ['--num-classes=3', '--max-images=100'],
    'resolution': ['--resolution=5x5', '--max-images=100'],
    'random-labels': ['--num-classes=4', '--max-images=100'],
    'unique-labels': ['--max-images=100'],
    'one-class': ['--class-name=3', '--max-images=100'],
    'mixture': ['--blend=digits', '--blend-rate=0.3', '--max-images=100'],
    'duplicate': ['--copies=2', '--fraction=0.1'],
}


class TestEverySelection:
    @pytest.mark.parametrize('command', SELECTIONS)
    def test_same_command_gives_the_same_bytes(self, tmp_path, command):
        for name in ('a.zip', 'b.zip'):
            make(command, 'digits', tmp_path / name, *SELECTIONS[command])
        assert (tmp_path / 'a.zip').read_bytes() == (tmp_path / 'b.zip').read_bytes()

    @pytest.mark.parametrize('command', SELECTIONS)
    def test_verifies_and_a_changed_pixel_or_label_is_found(self, tmp_path, command):
        images, labels, manifest = make(command, 'digits', tmp_path / 'a.zip', *SELECTIONS[command])
        sources = ['--verify=digits'] * (2 if command == 'mixture' else 1)
        result = invoke(main, 'info', tmp_path / 'a.zip', *sources)
        assert result.exit_code == 0, result.output
        assert 'Verified: every image' in result.stdout
        images[60, 2, 2, 0] ^= 1
        assert labels is not None
        labels[70] += 1
        forged = labelled_files(images, labels) | {
            'manifest.json': json.dumps(manifest | {'class_names': None}).encode()
        }
        message = refusal(invoke(main, 'info', write_zip(tmp_path / 'b.zip', forged), *sources))
        assert f'2 of {len(images)} images or labels differ' in message
        assert 'the first is 00000/img00000060.png' in message


def test_source_may_be_a_url(tmp_path, cifar):
    make('size', cifar, tmp_path / 'path.zip', '--max-images=10')
    make('size', cifar.as_uri(), tmp_path / 'url.zip', '--max-images=10')
    assert (tmp_path / 'path.zip').read_bytes() == (tmp_path / 'url.zip').read_bytes()
    result = invoke(main, 'info', tmp_path / 'path.zip', f'--verify={cifar.as_uri()}')
    assert 'Verified' in result.stdout, result.output
    options = [f'--blend={(tmp_path / "path.zip").as_uri()}', '--blend-rate=0.5', '--max-images=10']
    make('mixture', tmp_path / 'url.zip', tmp_path / 'm.zip', *options)
    message = refused('size', 'ftp://example.org/a.zip', tmp_path / 'd.zip', '--max-images=10')
    assert 'only file, http and https are supported' in message


def test_command_runs_as_a_module(tmp_path):
    command = [sys.executable, '-m', 'dataset_utils', 'size', '--source=digits', f'--dest={tmp_path / "d.zip"}']
    root = Path(__file__).parents[2]
    result = subprocess.run([*command, '--max-images=10'], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout == ''
    assert zipfile.is_zipfile(tmp_path / 'd.zip')
