"""Labels and manifests of folders and archives of images, and errors for invalid ones."""

import json

import pytest

from dataset_utils.manifest import Manifest
from dnnlib.util import UserError
from tests.dataset_utils.making import (
    image_bytes,
    labelled_files,
    random_images,
)

PIXELS = random_images(1)[0]
PNG = image_bytes(PIXELS)


def with_labels(labels: object) -> dict[str, bytes]:
    return {'a.png': PNG, 'b.png': PNG, 'dataset.json': json.dumps({'labels': labels}).encode()}


class TestLabels:
    def test_labels_of_dataset_json_take_precedence_over_folders(self, open_files):
        labels = json.dumps({'labels': [['cat/b.png', 4], ['dog/a.png', 2]]}).encode()
        source = open_files({'dog/a.png': PNG, 'cat/b.png': PNG, 'dataset.json': labels})
        assert source.labels == [4, 2]
        assert source.class_names is None

    def test_labels_that_are_null_mean_no_labels_despite_folders(self, open_files):
        source = open_files({'dog/a.png': PNG, 'cat/b.png': PNG, 'dataset.json': b'{"labels": null}'})
        assert source.labels is None
        assert source[0][1] is None

    def test_sorted_folders_are_the_classes(self, open_files):
        source = open_files({'dog/a.png': PNG, 'cat/z.png': PNG, 'cat/deep/y.png': PNG, 'emu/x.png': PNG})
        assert source.class_names == ['cat', 'dog', 'emu']
        assert [source.describe(index) for index in range(4)] == [
            'cat/deep/y.png',
            'cat/z.png',
            'dog/a.png',
            'emu/x.png',
        ]
        assert source.labels == [0, 0, 1, 2]

    def test_imagenets_synsets_are_the_classes(self, open_files):
        source = open_files({f'n0{number}440764/n0_{number}.JPEG': image_bytes(PIXELS, 'JPEG') for number in (3, 1, 2)})
        assert source.class_names == ['n01440764', 'n02440764', 'n03440764']
        assert source.labels == [0, 1, 2]

    def test_folders_above_the_class_folders_are_ignored(self, open_files):
        source = open_files({'photos/all/cat/a.png': PNG, 'photos/all/dog/b.png': PNG})
        assert source.class_names == ['cat', 'dog']

    def test_images_in_a_single_folder_are_one_class(self, open_files):
        source = open_files({'cat/a.png': PNG, 'cat/b.png': PNG})
        assert source.class_names == ['cat']
        assert source.labels == [0, 0]

    def test_images_without_folders_have_no_labels(self, open_files):
        assert open_files({'a.png': PNG, 'b.png': PNG}).labels is None

    @pytest.mark.parametrize(
        'names', [['00000/img00000007.png', '00001/img00001000.png'], ['000000/000999.png', '012000/012345.png']]
    )
    def test_folders_that_only_divide_numbered_images_are_not_classes(self, open_files, names):
        assert open_files(dict.fromkeys(names, PNG)).labels is None

    @pytest.mark.parametrize(
        'names',
        [
            ['00000/00000_00000.ppm', '00042/00000_00001.ppm'],  # as in the data set GTSRB
            ['00000/000001.png', '00001/000001.png'],
            ['00000/a.png', '00001/b.png'],
            ['0/a.png', '10/b.png'],
        ],
    )
    def test_other_numbered_folders_are_classes(self, open_files, names):
        source = open_files(dict.fromkeys(names, PNG))
        assert source.labels == [0, 1]
        assert source.class_names == [name.split('/')[0] for name in names]

    def test_images_outside_the_class_folders_are_refused(self, open_files):
        source = open_files({'a.png': PNG, 'dog/b.png': PNG, 'cat/c.png': PNG})
        with pytest.raises(UserError, match=r'a.png is next to folders of images'):
            source.labels  # noqa: B018 - reading them is what fails
        assert len(source.load()) == 3, 'images are read without labels'

    @pytest.mark.parametrize(
        ('names', 'found'),
        [
            (['train/cat/a.png', 'test/cat/a.png'], 'it has the folders test and train'),
            (['train/n01440764/a.png', 'val/n01440764/b.png'], 'it has the folders train and val'),
            (['x/Training/a.png', 'x/Testing/a.png', 'x/extra/a.png'], 'x has the folders Testing and Training'),
            (['train2017/a.png', 'val2017/a.png'], 'it has the folders train2017 and val2017'),
            (['bottle/test/good/a.png', 'bottle/train/good/a.png'], 'bottle has the folders test and train'),
        ],
    )
    def test_folders_of_training_and_test_images_are_refused_as_classes(self, open_files, names, found):
        with pytest.raises(UserError, match=f'{found}, whose images would be mixed; give only one of these folders'):
            open_files(dict.fromkeys(names, PNG))

    def test_a_single_folder_named_after_a_split_may_be_a_class(self, open_files):
        assert open_files({'train/a.png': PNG, 'truck/b.png': PNG}).class_names == ['train', 'truck']

    def test_dataset_json_allows_folders_named_after_splits(self, open_files):
        labels = json.dumps({'labels': [['test/a.png', 1], ['train/a.png', 0]]}).encode()
        assert open_files({'test/a.png': PNG, 'train/a.png': PNG, 'dataset.json': labels}).labels == [1, 0]

    def test_the_error_points_to_a_data_set_in_a_subfolder(self, open_files):
        deeper = {f'pets/{name}': data for name, data in labelled_files(random_images(2), [0, 1]).items()}
        with pytest.raises(UserError, match=r'in the subfolder pets/'):
            open_files(deeper).labels  # noqa: B018

    def test_hidden_files_and_other_files_are_not_images(self, open_files):
        source = open_files({'a.png': PNG, '.b.png': b'', '__MACOSX/._a.png': b'', '.git/c.png': b'', 'notes.txt': b''})
        assert len(source) == 1


class TestBrokenLabels:
    @pytest.mark.parametrize(
        ('labels', 'message'),
        [
            ([['a.png', 0]], r'no label for 1 of 2 images \(the first is b\.png\)'),
            ([], 'no label for 2 of 2 images'),
            ([['a.png', 0], ['b.png', 0], ['c.png', 1]], r'lists c\.png, which does not exist'),
            ([['a.png', 0], ['b.png', 0], ['../../etc/passwd.png', 1]], 'which does not exist'),
            ([['a.png', 0], ['b.png', -1]], r'labels\[1\]\[1\] must be a whole number of at least 0, not -1'),
            ([['a.png', 0], ['b.png', 1.5]], 'must be a whole number, not 1.5'),
            ([['a.png', 0], ['b.png', '1']], "must be a whole number, not '1'"),
            ([['a.png', 0], ['b.png', None]], 'must be a whole number, not None'),
            ([['a.png', 0], ['b.png', True]], 'must be a whole number, not True'),
            ([['a.png', 0], ['b.png', [0, 1]]], r'must be a whole number, not \[0, 1\]'),
            ([['a.png', 0], ['b.png', 10**30]], 'labels'),
            ([['a.png', 0], ['b.png', 0], ['b.png', 1]], r'gives two labels to b\.png'),
            ([['a.png', 0], ['b.png']], r'labels\[1\].* must be .*length 2'),
            ([['a.png', 0], 'b.png'], r"labels\[1\] must be a list, not 'b.png'"),
            ([['a.png', 0], [3, 4]], r'labels\[1\]\[0\] must be a string, not 3'),
            ({'a.png': 0}, 'labels must be a list or null'),
            (3, 'labels must be a list or null, not 3'),
        ],
    )
    def test_labels_of_the_wrong_shape_are_refused(self, open_files, labels, message):
        source = open_files(with_labels(labels))
        with pytest.raises(UserError, match=f'dataset.json.*{message}'):
            source.labels  # noqa: B018
        assert len(source.load()) == 2, 'images are read without labels'

    @pytest.mark.parametrize(
        'text', [b'', b'{', b'\xff\xfe\x00', b'[' * 100_000, b'{"labels": [["a.png", ' + b'9' * 5000 + b']]}']
    )
    def test_a_dataset_json_that_is_not_json_is_refused(self, open_files, text):
        with pytest.raises(UserError, match=r'dataset.json: not a JSON file .*; fix dataset.json, or remove it'):
            open_files({'a.png': PNG, 'dataset.json': text}).labels  # noqa: B018

    @pytest.mark.parametrize('text', [b'{}', b'[]', b'null', b'{"label": null}'])
    def test_a_dataset_json_with_other_contents_is_refused(self, open_files, text):
        with pytest.raises(UserError, match=r'dataset.json: the file (must be a table|lacks the key labels)'):
            open_files({'a.png': PNG, 'dataset.json': text}).labels  # noqa: B018


class TestManifest:
    MANIFEST = Manifest('a.zip', '00', 'size', {}, [0, 1], 'none', ['cat', 'dog'])

    def files(self, **changes) -> dict[str, bytes]:
        content = json.loads(self.MANIFEST.to_json()) | changes
        return with_labels([['a.png', 0], ['b.png', 1]]) | {'manifest.json': json.dumps(content).encode()}

    def test_class_names_of_the_manifest_are_kept(self, open_files):
        source = open_files(self.files())
        assert source.class_names == ['cat', 'dog']
        assert source.manifest == self.MANIFEST

    def test_class_names_may_be_missing(self, open_files):
        assert open_files(self.files(class_names=None)).class_names is None

    @pytest.mark.parametrize(
        'change', [{'class_names': 'cat'}, {'class_names': [1, 2]}, {'indices': 3}, {'rule': None}, {'arguments': []}]
    )
    def test_manifest_values_of_the_wrong_type_are_refused(self, open_files, change):
        with pytest.raises(UserError, match=rf'manifest.json: {next(iter(change))}.* must be'):
            open_files(self.files(**change)).labels  # noqa: B018

    def test_unknown_manifest_keys_are_refused(self, open_files):
        with pytest.raises(UserError, match=r'manifest.json: the file has an unknown key, date'):
            open_files(self.files(date='today')).labels  # noqa: B018

    def test_fewer_class_names_than_classes_are_refused(self, open_files):
        with pytest.raises(UserError, match=r'names 1 class, but dataset.json has the label 1'):
            open_files(self.files(class_names=['cat'])).labels  # noqa: B018

    def test_a_manifest_of_another_program_is_ignored(self, open_files):
        assert open_files({'a.png': PNG, 'manifest.json': b'{"name": "some web page"}'}).class_names is None
