"""Subcommands of `python -m dataset_utils` and the files that they write."""

import json
import os
import random
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import dataset_tool
from dataset_utils import open_source
from dataset_utils.command_line import main
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
    """Indices of the first `count` images of a digit."""
    return [index for index, label in enumerate(DIGIT_LABELS) if label == digit][:count]


class TestSize:
    def test_the_first_images_of_each_class_keep_labels_and_names(self, tmp_path):
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

    def test_subsets_of_cifar_keep_the_class_names(self, tmp_path, cifar):
        _, labels, manifest = make('size', cifar, tmp_path / 'c.zip', '--max-images=100')
        assert manifest['class_names'] == CIFAR_CLASSES
        assert [cifar_labels(40)[index] for index in manifest['indices']] == labels

    def test_mnist_images_are_padded_as_by_dataset_tool(self, tmp_path):
        path, expected, _ = write_idx(tmp_path)
        images, _, _ = make('size', path, tmp_path / 'm.zip', '--max-images=10')
        assert images.shape == (10, 32, 32, 1)
        assert np.array_equal(images[:, 2:30, 2:30, 0], expected[:10])

    def test_with_a_seed_smaller_sets_are_contained_in_larger_ones(self, tmp_path):
        small, large = (
            make('size', 'digits', tmp_path / f'{size}.zip', f'--max-images={size}', '--seed=4')[2]['indices']
            for size in (50, 200)
        )
        assert set(small) < set(large)
        assert Counter(DIGIT_LABELS[index] for index in large) == dict.fromkeys(range(10), 20)

    def test_a_subset_of_a_subset_is_the_smaller_subset(self, tmp_path):
        make('size', 'digits', tmp_path / '200.zip', '--max-images=200')
        again, labels, _ = make('size', tmp_path / '200.zip', tmp_path / 'again.zip', '--max-images=50')
        direct, direct_labels, _ = make('size', 'digits', tmp_path / '50.zip', '--max-images=50')
        assert np.array_equal(again, direct)
        assert labels == direct_labels

    def test_unlabelled_images_are_taken_in_order_or_with_a_seed_drawn_uniformly(self, tmp_path):
        source = write_zip(tmp_path / 'a.zip', labelled_files(random_images(20), None))
        images, labels, manifest = make('size', source, tmp_path / 'd.zip', '--max-images=7')
        assert np.array_equal(images, random_images(20)[:7])
        assert labels is None
        assert manifest['labels'] == 'none'
        drawn = make('size', source, tmp_path / 'e.zip', '--max-images=7', '--seed=5')[2]['indices']
        assert drawn == np.random.RandomState([5, 0]).permutation(20)[:7].tolist()
        message = refused('size', source, tmp_path / 'f.zip', '--max-images=21')
        assert '--max-images requires 21 images but there are only 20; give at most 20' in message
        assert 'has no labels' in refused('classes', source, tmp_path / 'f.zip', '--max-images=2', '--num-classes=2')

    def test_more_images_than_a_class_has_are_refused(self, tmp_path):
        message = refused('size', 'digits', tmp_path / 'd.zip', '--max-images=1790')
        assert '179 images of class 0, which has 178; give at most 1740' in message

    def test_a_size_that_the_classes_do_not_divide_is_refused(self, tmp_path):
        message = refused('size', 'digits', tmp_path / 'd.zip', '--max-images=55')
        assert '--max-images=55 is not a multiple of the number of classes (10); give 50' in message

    def test_an_invalid_destination_is_refused_before_the_source_is_read(self, tmp_path):
        (tmp_path / 'd.zip').write_bytes(b'x')
        assert 'exists; add --overwrite' in refused('size', 'nowhere', tmp_path / 'd.zip', '--max-images=10')

    def test_an_empty_source_argument_is_refused(self, tmp_path):
        assert '--source=: no such file' in refused('size', '', tmp_path / 'd.zip', '--max-images=10')


class TestClasses:
    def test_the_first_classes_are_taken_with_the_remainder_in_the_last(self, tmp_path):
        images, labels, _ = make('classes', 'digits', tmp_path / 'd.zip', '--num-classes=3', '--max-images=11')
        assert labels == [0] * 3 + [1] * 3 + [2] * 5
        assert np.array_equal(images, DIGIT_IMAGES[first_of(0, 3) + first_of(1, 3) + first_of(2, 5)])

    def test_too_many_classes_are_refused(self, tmp_path):
        message = refused('classes', 'digits', tmp_path / 'd.zip', '--num-classes=11', '--max-images=110')
        assert '--num-classes=11 exceeds the 10 classes of the source' in message


class TestResolution:
    def test_the_same_images_are_resized_with_lanczos(self, tmp_path, cifar):
        options = ['--resolution=16x16', '--max-images=50']
        images, labels, manifest = make('resolution', cifar, tmp_path / 'r.zip', *options)
        original, original_labels, original_manifest = make('size', cifar, tmp_path / 's.zip', '--max-images=50')
        resized = [PIL.Image.fromarray(image).resize((16, 16), PIL.Image.Resampling.LANCZOS) for image in original]
        assert np.array_equal(images, np.stack([np.asarray(image) for image in resized]))
        assert labels == original_labels
        assert manifest['indices'] == original_manifest['indices']

    def test_a_resolution_out_of_range_is_refused(self, tmp_path):
        options = ['--resolution=8193x8193', '--max-images=50']
        message = refused('resolution', 'digits', tmp_path / 'r.zip', *options, status=2)
        assert '--resolution=8193x8193 is out of range; give 1 to 8192 pixels' in message

    def test_a_resolution_that_is_not_square_is_refused(self, tmp_path):
        options = ['--resolution=16x8', '--max-images=50']
        assert '16x8 is not square; give 16x16' in refused(
            'resolution', 'digits', tmp_path / 'r.zip', *options, status=2
        )


class TestLabels:
    def test_random_labels_match_the_paper(self, tmp_path):
        options = ['--num-classes=10', '--max-images=100']
        images, labels, manifest = make('random-labels', 'digits', tmp_path / 'r.zip', *options)
        assert labels is not None
        assert labels[:10] == [0, 7, 6, 5, 8, 1, 7, 8, 5, 5]
        assert np.array_equal(images, make('size', 'digits', tmp_path / 's.zip', '--max-images=100')[0])
        assert manifest['class_names'] is None
        assert manifest['labels'] == "random: Python's random.Random(1024).randint(0, 9) for each image in order"

    @pytest.mark.parametrize(('classes', 'is_fine'), [(2**21, True), (2**21 + 1, False)])
    def test_more_classes_than_can_be_read_again_are_refused(self, tmp_path, classes, is_fine):
        options = [f'--num-classes={classes}', '--max-images=10']
        if is_fine:
            make('random-labels', 'digits', tmp_path / 'r.zip', *options)
            assert max(open_source(tmp_path / 'r.zip').labels or []) > 10**6
        else:
            message = refused('random-labels', 'digits', tmp_path / 'r.zip', *options)
            assert '--num-classes=2097153 is out of range; give 1 to 2097152' in message

    def test_random_labels_depend_on_the_label_seed(self, tmp_path):
        options = ['--num-classes=10', '--max-images=100']
        first = make('random-labels', 'digits', tmp_path / 'a.zip', *options)
        second = make('random-labels', 'digits', tmp_path / 'b.zip', *options, '--label-seed=1')
        assert np.array_equal(first[0], second[0])
        assert first[1] != second[1]

    def test_a_unique_label_is_the_position_of_the_image(self, tmp_path):
        images, labels, manifest = make('unique-labels', 'digits', tmp_path / 'u.zip', '--max-images=100')
        assert labels == list(range(100))
        assert np.array_equal(images, make('size', 'digits', tmp_path / 's.zip', '--max-images=100')[0])
        assert manifest['class_names'] is None

    @pytest.mark.parametrize('command', ['random-labels', 'unique-labels'])
    def test_a_source_without_labels_can_be_given_labels(self, tmp_path, command):
        source = write_zip(tmp_path / 'a.zip', labelled_files(random_images(20), None))
        options = ['--num-classes=2'] if command == 'random-labels' else []
        images, labels, _ = make(command, source, tmp_path / 'd.zip', '--max-images=10', *options)
        assert np.array_equal(images, random_images(20)[:10])
        generator = random.Random(1024)
        drawn = [generator.randint(0, 1) for _ in range(10)]
        assert labels == (drawn if command == 'random-labels' else list(range(10)))


class TestOneClass:
    def test_a_class_is_selected_by_its_name(self, tmp_path, cifar):
        _, labels, manifest = make('one-class', cifar, tmp_path / 'c.zip', '--class-name=dog', '--max-images=7')
        assert labels == [5] * 7
        assert manifest['indices'] == [index for index, label in enumerate(cifar_labels(40)) if label == 5][:7]

    def test_without_a_size_all_images_of_a_class_are_taken(self, tmp_path):
        images, labels, _ = make('one-class', 'digits', tmp_path / 'd.zip', '--class-name=7')
        assert np.array_equal(images, DIGIT_IMAGES[first_of(7, 1000)])
        assert set(labels or []) == {7}

    def test_an_unknown_class_is_refused(self, tmp_path, cifar):
        message = refused('one-class', cifar, tmp_path / 'c.zip', '--class-name=wolf')
        assert '--class-name=wolf is not a class of the source; give one of 0 (airplane), 1 (automobile)' in message


class TestSplit:
    def test_a_split_makes_two_disjoint_halves(self, tmp_path):
        result = invoke(main, 'split', '--source=digits', f'--dest={tmp_path / "half.zip"}', '--max-images=500')
        assert result.exit_code == 0, result.output
        first, second = (read_zip(tmp_path / f'half-{half}.zip') for half in 'ab')
        assert first[1] == second[1] == [digit for digit in range(10) for _ in range(50)]
        assert not set(first[2]['indices']) & set(second[2]['indices'])
        assert np.array_equal(first[0], make('size', 'digits', tmp_path / 's.zip', '--max-images=500')[0])

    def test_a_split_with_held_out_makes_a_training_and_a_held_out_set(self, tmp_path):
        options = ['--source=digits', f'--dest={tmp_path / "set.zip"}', '--held-out=97']
        result = invoke(main, 'split', *options)
        sizes = '8x8 grey, 10 classes'
        assert result.stdout.splitlines() == [
            f'1,700 images, {sizes} → {tmp_path / "set-a.zip"}',
            f'97 images, {sizes} → {tmp_path / "set-b.zip"}',
        ]
        first, second = (read_zip(tmp_path / f'set-{half}.zip')[2]['indices'] for half in 'ab')
        assert sorted(first + second) == list(range(1797))
        for half in 'ab':
            verified = invoke(main, 'info', tmp_path / f'set-{half}.zip', '--verify=digits')
            assert 'Verified' in verified.stdout, verified.output

    def test_a_split_requires_a_size(self, tmp_path):
        message = refused('split', 'digits', tmp_path / 'half.zip', status=2)
        assert 'give --max-images (the size of each set) or --held-out' in message

    def test_a_split_can_write_folders(self, tmp_path):
        assert invoke(main, 'split', '--source=digits', f'--dest={tmp_path / "half"}', '--max-images=10').exit_code == 0
        assert sorted(os.listdir(tmp_path)) == ['half-a', 'half-b']

    def test_a_failed_split_leaves_neither_half(self, tmp_path):
        (tmp_path / 'half-b.zip').write_bytes(b'x')
        assert 'half-b.zip already exists' in refused('split', 'digits', tmp_path / 'half.zip', '--max-images=10')
        files = labelled_files(random_images(4), [0, 0, 0, 0]) | {'00000/img00000003.png': b'broken'}
        source = write_zip(tmp_path / 'a.zip', files)
        assert 'not a readable PNG' in refused('split', source, tmp_path / 'new.zip', '--max-images=2')

    @pytest.mark.parametrize('dest', ['', '.', 'folder/..', '.zip'])
    def test_a_destination_without_a_name_is_refused(self, tmp_path, monkeypatch, dest):
        monkeypatch.chdir(tmp_path)
        message = refusal(invoke(main, 'split', '--source=digits', f'--dest={dest}', '--max-images=10'))
        assert f'--dest={dest} has no file name, but both sets are named after it; add one, such as half.zip' in message

    def test_more_images_than_both_halves_can_have_are_refused(self, tmp_path):
        message = refused('split', 'digits', tmp_path / 'half.zip', '--max-images=900')
        assert '180 images of class 0, which has 178; give at most 870' in message


class TestOriginalNames:
    FILES = tuple(f'{folder}/IMG_{n}.png' for folder in ('cat', 'dog') for n in range(4))

    @pytest.fixture
    def converted(self, tmp_path):
        pixels = random_images(8)
        files = {name: image_bytes(image) for name, image in zip(self.FILES, pixels, strict=True)}
        folder = write_files(tmp_path / 'photos', files | {'cat/IMG_1.png': b'broken'})
        options = [f'--source={folder}', f'--dest={tmp_path / "set.zip"}', '--skip-unreadable']
        assert invoke(dataset_tool.main, *options).exit_code == 0
        return tmp_path / 'set.zip'

    def test_original_names_are_those_of_the_files_even_after_a_damaged_file(self, converted):
        assert read_zip(converted)[2]['original_names'] == [name for name in self.FILES if name != 'cat/IMG_1.png']

    def test_original_names_of_a_selection_are_those_of_its_files(self, tmp_path, converted):
        _, _, manifest = make('one-class', converted, tmp_path / 'a.zip', '--class-name=dog', '--seed=3')
        names = [f'dog/IMG_{index - 3}.png' for index in manifest['indices']]  # 3 images of cats precede them
        assert manifest['original_names'] == names
        again = make('duplicate', tmp_path / 'a.zip', tmp_path / 'b.zip', '--copies=2', '--fraction=0.25')
        assert again[2]['original_names'] == [*names, names[0]]
        assert open_source(tmp_path / 'b.zip').original_names == again[2]['original_names']

    def test_original_names_are_empty_for_images_of_a_mixture_without_files(self, tmp_path, converted):
        array = tmp_path / 'array.npy'
        np.save(array, random_images(3))
        bare = tmp_path / 'bare.zip'
        assert invoke(dataset_tool.main, f'--source={converted}', f'--dest={bare}', '--no-labels').exit_code == 0
        options = [f'--blend={bare}', '--blend-rate=0.5', '--max-images=4']
        assert make('mixture', array, tmp_path / 'm.zip', *options)[2]['original_names'] == ['', '', *self.FILES[0:3:2]]

    def test_a_set_without_original_names_can_be_verified(self, tmp_path, converted):
        with zipfile.ZipFile(converted) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        manifest = json.loads(files['manifest.json'])
        changed = manifest | {'original_names': manifest['original_names'][::-1]}
        del manifest['original_names']
        for name, value, words in [('old', manifest, 'Verified'), ('new', changed, '"original_names" in the manifest')]:
            path = write_zip(tmp_path / f'{name}.zip', files | {'manifest.json': json.dumps(value).encode()})
            output = invoke(main, 'info', path, f'--verify={tmp_path / "photos"}').output
            assert words in output, output
        assert open_source(tmp_path / 'old.zip').original_names is None
        _, _, selected = make('size', tmp_path / 'old.zip', tmp_path / 's.zip', '--max-images=2')
        assert 'original_names' not in selected


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
    def test_the_same_command_gives_the_same_bytes(self, tmp_path, command):
        for name in ('a.zip', 'b.zip'):
            make(command, 'digits', tmp_path / name, *SELECTIONS[command])
        assert (tmp_path / 'a.zip').read_bytes() == (tmp_path / 'b.zip').read_bytes()

    @pytest.mark.parametrize('command', SELECTIONS)
    def test_verification_detects_a_changed_pixel_or_label(self, tmp_path, command):
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


def test_the_source_may_be_a_url(tmp_path, cifar):
    make('size', cifar, tmp_path / 'path.zip', '--max-images=10')
    make('size', cifar.as_uri(), tmp_path / 'url.zip', '--max-images=10')
    assert (tmp_path / 'path.zip').read_bytes() == (tmp_path / 'url.zip').read_bytes()
    result = invoke(main, 'info', tmp_path / 'path.zip', f'--verify={cifar.as_uri()}')
    assert 'Verified' in result.stdout, result.output
    options = [f'--blend={(tmp_path / "path.zip").as_uri()}', '--blend-rate=0.5', '--max-images=10']
    make('mixture', tmp_path / 'url.zip', tmp_path / 'm.zip', *options)
    message = refused('size', 'ftp://example.org/a.zip', tmp_path / 'd.zip', '--max-images=10')
    assert 'only file, http and https URLs are supported' in message


def test_the_command_runs_as_a_module(tmp_path):
    command = [sys.executable, '-m', 'dataset_utils', 'size', '--source=digits', f'--dest={tmp_path / "d.zip"}']
    root = Path(__file__).parents[2]
    result = subprocess.run([*command, '--max-images=10'], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout == f'10 images, 8x8 grey, 10 classes → {tmp_path / "d.zip"}\n'
    assert zipfile.is_zipfile(tmp_path / 'd.zip')
