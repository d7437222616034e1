"""Subcommands for intra-diversity: ImageNet classes, mixtures and duplicates."""

import shutil
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
    image_bytes,
    labelled_files,
    random_images,
    read_zip,
    write_files,
    write_zip,
)
from tests.helpers import invoke

DIGITS = open_source('digits')
DIGIT_IMAGES, DIGIT_LABELS = DIGITS.load(), DIGITS.labels


def first_of(digit: int, count: int) -> list[int]:
    """Indices of the first `count` images of a digit."""
    return [index for index, label in enumerate(DIGIT_LABELS) if label == digit][:count]


class TestImagenetClass:
    BIRDS = superclasses()['bird']
    OPTIONS = ('--superclass=bird', '--resolution=8x8')

    @pytest.fixture
    def tree(self, tmp_path) -> Path:
        """Folder with the 17 synsets of birds and one other synset, each with 4 images."""
        pixels = iter(random_images(72, 24))
        names = [f'{synset}/{synset}_{number}.JPEG' for synset in [*self.BIRDS, 'n09999999'] for number in range(4)]
        return write_files(tmp_path / 'train', {name: image_bytes(next(pixels)[:20], 'JPEG') for name in names})

    def synsets(self, tree: Path, manifest: dict) -> list[str]:
        return [open_source(tree).describe(index).split('/')[0] for index in manifest['indices']]

    def test_images_come_evenly_from_the_synsets_with_cifars_label(self, tmp_path, tree):
        images, labels, manifest = make('imagenet-class', tree, tmp_path / 'b.zip', *self.OPTIONS, '--max-images=20')
        assert labels == [2] * 20
        assert manifest['class_names'] == CIFAR_CLASSES
        expected = {synset: 2 if number < 3 else 1 for number, synset in enumerate(self.BIRDS)}
        assert Counter(self.synsets(tree, manifest)) == expected
        with PIL.Image.open(tree / open_source(tree).describe(manifest['indices'][0])) as image:
            cropped = image.crop((2, 0, 22, 20)).resize((8, 8), PIL.Image.Resampling.LANCZOS)
        assert np.array_equal(images[0], np.asarray(cropped))

    def test_the_default_resolution_is_that_of_cifar(self, tmp_path, tree):
        images, _, _ = make('imagenet-class', tree, tmp_path / 'b.zip', '--superclass=bird', '--max-images=2')
        assert images.shape == (2, 32, 32, 3)

    def test_drawn_images_depend_only_on_the_seed_and_smaller_sets_are_nested(self, tmp_path, tree):
        def drawn(name: str, *arguments: str) -> list[str]:
            _, _, manifest = make('imagenet-class', tree, tmp_path / name, *self.OPTIONS, *arguments)
            return [open_source(tree).describe(index) for index in manifest['indices']]

        plain = drawn('a.zip', '--max-images=17')
        assert set(plain) < set(drawn('b.zip', '--max-images=40'))
        assert plain != drawn('c.zip', '--max-images=17', '--seed=1')
        shutil.rmtree(tree / 'n09999999')
        write_files(tree, {'n00000001/a.JPEG': image_bytes(random_images(1)[0])})
        assert plain == drawn('d.zip', '--max-images=17')

    def test_images_that_are_not_drawn_are_not_opened(self, tmp_path, tree):
        _, _, manifest = make('imagenet-class', tree, tmp_path / 'a.zip', *self.OPTIONS, '--max-images=17')
        source = open_source(tree)
        for index in set(range(len(source))) - set(manifest['indices']):
            (tree / source.describe(index)).write_bytes(b'broken')
        make('imagenet-class', tree, tmp_path / 'b.zip', *self.OPTIONS, '--max-images=17')
        assert (tmp_path / 'a.zip').read_bytes() == (tmp_path / 'b.zip').read_bytes()

    def test_an_archive_of_imagenet_gives_the_same_images_as_the_folder(self, tmp_path, tree):
        files = {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob('*.JPEG')}
        archive = write_zip(tmp_path / 'train.zip', files)
        first = make('imagenet-class', tree, tmp_path / 'a.zip', *self.OPTIONS, '--max-images=20')
        second = make('imagenet-class', archive, tmp_path / 'b.zip', *self.OPTIONS, '--max-images=20')
        assert np.array_equal(first[0], second[0])

    def test_missing_synsets_are_counted_and_named_in_the_error(self, tmp_path, tree):
        for synset in self.BIRDS[3:5]:
            shutil.rmtree(tree / synset)
        message = refused('imagenet-class', tree, tmp_path / 'b.zip', *self.OPTIONS, '--max-images=17')
        assert (
            f' has 15 of the 17 synset folders for bird (missing or empty: {self.BIRDS[3]}, {self.BIRDS[4]};' in message
        )

    def test_a_folder_above_or_below_the_synset_folders_is_refused(self, tmp_path, tree):
        (tmp_path / 'ILSVRC').mkdir()
        shutil.copytree(tree, tmp_path / 'ILSVRC' / 'train')
        write_files(tmp_path / 'ILSVRC', {'other/a.JPEG': image_bytes(random_images(1)[0])})
        message = refused('imagenet-class', tmp_path / 'ILSVRC', tmp_path / 'b.zip', *self.OPTIONS, '--max-images=17')
        assert ' has 0 of the 17 synset folders for bird (' in message
        assert 'folders found: other, train); give' in message
        message = refused('imagenet-class', tree / self.BIRDS[0], tmp_path / 'b.zip', *self.OPTIONS, '--max-images=17')
        assert ' has 0 of the 17 synset folders for bird (' in message
        assert 'folders found: none); give' in message

    def test_an_unknown_superclass_is_refused_with_a_list_of_valid_ones(self, tmp_path, tree):
        message = refused('imagenet-class', tree, tmp_path / 'b.zip', '--superclass=fish', '--max-images=17')
        assert '--superclass=fish is unknown; give one of bird, cat, dog' in message

    def test_a_resolution_out_of_range_is_refused(self, tmp_path, tree):
        options = ['--superclass=bird', '--resolution=8193x8193', '--max-images=17']
        message = refused('imagenet-class', tree, tmp_path / 'b.zip', *options, status=2)
        assert '--resolution=8193x8193 is out of range; give 1 to 8192 pixels' in message

    def test_more_images_than_a_synset_has_are_refused(self, tmp_path, tree):
        message = refused('imagenet-class', tree, tmp_path / 'b.zip', *self.OPTIONS, '--max-images=69')
        assert f'--max-images=69 requires 5 images of {self.BIRDS[0]}, which has 4 images; lower it' in message
        (tree / self.BIRDS[0] / f'{self.BIRDS[0]}_2.JPEG').write_bytes(b'broken')
        options = [*self.OPTIONS, '--max-images=68', '--skip-unreadable']
        message = refused('imagenet-class', tree, tmp_path / 'b.zip', *options)
        assert f'requires 4 images of {self.BIRDS[0]}, which has 3 readable images; lower it' in message

    def test_an_empty_synset_folder_counts_as_missing(self, tmp_path, tree):
        for path in (tree / self.BIRDS[0]).iterdir():
            path.unlink()
        message = refused('imagenet-class', tree, tmp_path / 'b.zip', *self.OPTIONS, '--max-images=17')
        assert f' has 16 of the 17 synset folders for bird (missing or empty: {self.BIRDS[0]}; folders found' in message

    def test_an_unreadable_image_is_named_or_on_request_replaced_and_listed(self, tmp_path, tree):
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

    def test_the_table_lists_every_synset_once(self):
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
    def test_the_numbers_of_images_match_the_paper(self, tmp_path, sets, rate, first):
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
    def test_a_blend_rate_out_of_range_is_refused(self, tmp_path, sets, rate):
        options = [f'--blend={sets[1]}', f'--blend-rate={rate}', '--max-images=10']
        assert '--blend-rate' in refused('mixture', sets[0], tmp_path / 'm.zip', *options, status=2)

    @pytest.mark.parametrize(
        ('images', 'labels', 'message'),
        [
            (
                random_images(20, 3, 1),
                [5] * 20,
                r'contains 2x2 grey images, but --blend=.* contains 3x3 grey images; resize one',
            ),
            (random_images(20, 2, 1), None, r'other\.zip has no labels, but the other set has labels'),
            (random_images(3, 2, 1), [5] * 3, r'other\.zip has only 3 of the 5 images needed; lower --max-images'),
        ],
    )
    def test_sets_that_cannot_be_mixed_are_refused(self, tmp_path, sets, images, labels, message):
        other = write_zip(tmp_path / 'other.zip', labelled_files(images, labels))
        options = [f'--blend={other}', '--blend-rate=0.5', '--max-images=10']
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(refused('mixture', sets[0], tmp_path / 'm.zip', *options))

    def test_mixing_grey_and_colour_images_gives_colour_images(self, tmp_path, sets):
        other = write_zip(tmp_path / 'other.zip', labelled_files(random_images(20, 2, 3), [5] * 20))
        options = [f'--blend={other}', '--blend-rate=0.5', '--max-images=4']
        images, _, _ = make('mixture', sets[0], tmp_path / 'm.zip', *options)
        expected = [*np.repeat(open_source(sets[0]).load()[:2], 3, axis=3), *random_images(20, 2, 3)[:2]]
        assert np.array_equal(images, expected)

    def test_sets_with_different_class_names_are_refused(self, tmp_path, cifar):
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
    def test_random_and_unique_labels_are_refused(self, tmp_path, command, is_blend):
        options = ['--max-images=20', *(['--num-classes=10'] if command == 'random-labels' else [])]
        make(command, 'digits', tmp_path / 'made.zip', *options)
        source, blend = ('digits', tmp_path / 'made.zip') if is_blend else (tmp_path / 'made.zip', 'digits')
        options = [f'--blend={blend}', '--blend-rate=0.5', '--max-images=10']
        message = refused('mixture', source, tmp_path / 'm.zip', *options)
        assert f'made.zip has labels made by {command}, and such labels cannot be mixed' in message
        assert message.endswith('mix the sets from which it was made, then label the mixture')

    @pytest.mark.parametrize('is_blend', [True, False])
    def test_a_label_without_a_class_in_the_other_set_is_refused(self, tmp_path, is_blend):
        other = write_zip(tmp_path / 'other.zip', labelled_files(random_images(5, 8, 1), [0, 10, 1, 2, 3]))
        source, blend = ('digits', other) if is_blend else (other, 'digits')
        options = [f'--blend={blend}', '--blend-rate=0.5', '--max-images=10']
        message = refused('mixture', source, tmp_path / 'm.zip', *options)
        assert 'other.zip has the label 10, but the set to mix it with has only 10 classes' in message

    def test_the_destination_must_not_be_the_blended_set(self, tmp_path, sets):
        options = [f'--blend={sets[1]}', '--blend-rate=0.5', '--max-images=10', '--overwrite']
        assert 'overlaps with the source' in refused('mixture', sets[0], sets[1], *options)


class TestDuplicate:
    def test_the_given_fraction_of_images_occurs_the_given_number_of_times(self, tmp_path):
        make('size', 'digits', tmp_path / 's.zip', '--max-images=100')
        options = ['--copies=4', '--fraction=0.2']
        images, labels, _ = make('duplicate', tmp_path / 's.zip', tmp_path / 'd.zip', *options)
        assert len(images) == 100 + 20 * 3
        counts = Counter(image.tobytes() for image in images)
        assert Counter(counts.values()) == {1: 80, 4: 20}
        assert Counter(labels) == dict.fromkeys(range(10), 16)
        assert np.array_equal(images[:100], read_zip(tmp_path / 's.zip')[0])

    def test_a_source_without_labels_can_be_duplicated(self, tmp_path):
        source = write_zip(tmp_path / 'a.zip', labelled_files(random_images(10), None))
        images, labels, _ = make('duplicate', source, tmp_path / 'd.zip', '--copies=2', '--fraction=0.5')
        assert np.array_equal(images, np.concatenate([random_images(10), random_images(10)[:5]]))
        assert labels is None

    @pytest.mark.parametrize('option', ['--fraction=1.5', '--fraction=-1', '--copies=1'])
    def test_values_out_of_range_are_refused(self, tmp_path, option):
        options = ['--copies=2', '--fraction=0.5', option]
        assert option.split('=')[0] in refused('duplicate', 'digits', tmp_path / 'd.zip', *options, status=2)

    def test_more_images_than_there_are_file_names_are_refused(self, tmp_path):
        message = refused('duplicate', 'digits', tmp_path / 'd.zip', '--copies=1000000', '--fraction=0')
        assert '--copies=1000000 could give more than 100000000 images' in message

    def test_a_fraction_below_one_image_is_refused_unless_it_is_0(self, tmp_path):
        make('size', 'digits', tmp_path / 's.zip', '--max-images=100')
        message = refused('duplicate', tmp_path / 's.zip', tmp_path / 'd.zip', '--copies=4', '--fraction=0.004')
        assert '--fraction=0.004 of 100 images is less than one image, so nothing is repeated; raise it' in message
        images, _, _ = make('duplicate', tmp_path / 's.zip', tmp_path / 'd.zip', '--copies=4', '--fraction=0')
        assert len(images) == 100, 'a fraction of 0 repeats nothing'

    def test_a_fraction_that_is_not_a_number_is_refused(self, tmp_path):
        message = refused('duplicate', 'digits', tmp_path / 'd.zip', '--copies=2', '--fraction=nan')
        assert '--fraction=nan is out of range; give 0 to 1' in message
