"""Behaviour common to all sources, and the IDX format of MNIST."""

import gzip
import hashlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dataset_utils import content_sha256, open_source
from dnnlib.util import UserError
from tests.dataset_utils.making import (
    CIFAR_CLASSES,
    cifar_labels,
    image_bytes,
    labelled_files,
    random_images,
    write_cifar,
    write_files,
    write_idx,
    write_zip,
)


@pytest.fixture(params=['digits', 'cifar', 'idx', 'folder', 'archive'])
def expected(request, tmp_path):
    """Expected values for each kind of source: path, images [N, H, W, C], labels and name."""
    if request.param == 'digits':
        digits = load_digits()
        images = np.array([[[round(value * 255 / 16)] for value in row] for row in digits.data])
        return 'digits', images.reshape(-1, 8, 8, 1), digits.target.tolist(), 'digits'
    if request.param == 'cifar':
        images = write_cifar(tmp_path / 'cifar-10-python.tar.gz')
        return tmp_path / 'cifar-10-python.tar.gz', images, cifar_labels(40), 'cifar-10-python'
    if request.param == 'idx':
        path, images, labels = write_idx(tmp_path)
        return path, images[..., None], labels, 'train-images-idx3-ubyte'
    images, labels = random_images(6), [3, 0, 0, 1, 3, 2]
    if request.param == 'folder':
        return write_files(tmp_path / 'pets', labelled_files(images, labels)), images, labels, 'pets'
    return write_zip(tmp_path / 'pets-8x8.zip', labelled_files(images, labels)), images, labels, 'pets-8x8'


def test_every_source_has_the_expected_images_labels_and_name(expected):
    path, images, labels, name = expected
    source = open_source(path)
    assert len(source) == len(images)
    assert source.labels == labels
    assert source.name == name
    loaded = source.load()
    assert loaded.dtype == np.uint8
    assert np.array_equal(loaded, images)
    pairs = list(source)
    assert np.array_equal([image for image, _ in pairs], images)
    assert [label for _, label in pairs] == labels


def test_single_images_can_be_read_by_index(expected):
    path, images, labels, _ = expected
    source = open_source(path)
    assert np.array_equal(source.read(3), images[3])
    image, label = source[-1]
    assert np.array_equal(image, images[-1])
    assert label == labels[-1]
    with pytest.raises(IndexError):
        source[len(images)]


def test_changing_an_image_that_was_read_does_not_change_the_source(expected):
    source = open_source(expected[0])
    source.read(0)[:] = 7
    source.load()[:] = 7
    assert np.array_equal(source.read(0), expected[1][0])


def test_a_source_can_be_sent_to_another_process(expected):
    path, images, labels, _ = expected
    copy = pickle.loads(pickle.dumps(open_source(path, 'data')))
    assert np.array_equal(copy.load(), images)
    assert copy.labels == labels
    assert copy.where == f'`data`={path}'


def test_the_hash_is_reproducible_and_differs_between_sources(expected, tmp_path):
    other = write_zip(tmp_path / 'other.zip', labelled_files(random_images(3, seed=9), None))
    assert open_source(expected[0]).sha256() == open_source(expected[0]).sha256() != open_source(other).sha256()


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path, cifar):
    archive = write_zip(tmp_path / 'a.zip', labelled_files(random_images(3), None))
    for path in (cifar, archive):
        assert open_source(path).sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_hash_of_a_folder_depends_on_bytes_names_and_labels(tmp_path):
    files = labelled_files(random_images(3), [0, 1, 2])
    first, second = '00000/img00000000.png', '00000/img00000001.png'
    changes = [
        files,
        files | {first: image_bytes(random_images(1, seed=5)[0])},
        files | labelled_files(random_images(3), [0, 1, 1]),
        files | {first: files[second], second: files[first]},
    ]
    hashes = [open_source(write_files(tmp_path / str(n), change)).sha256() for n, change in enumerate(changes)]
    assert len(set(hashes)) == len(changes)


def test_the_content_hash_is_the_same_for_folder_and_archive(tmp_path):
    files = labelled_files(random_images(5), [0, 1, 2, 3, 4])
    paths = [write_files(tmp_path / 'a', files), write_zip(tmp_path / 'b.zip', files)]
    sources = [open_source(path) for path in paths]
    assert len({content_sha256(source.load(), source.labels) for source in sources}) == 1


def test_the_content_hash_depends_on_shape_pixels_order_and_labels():
    images = random_images(4)
    changed = images.copy()
    changed[3, 7, 7, 2] ^= 1
    variants = [
        (images, None),
        (images, [0, 0, 0, 0]),
        (images, [0, 0, 0, 1]),
        (changed, None),
        (images[::-1], None),
        (images.reshape(2, 16, 8, 3), None),
    ]
    assert len({content_sha256(*variant) for variant in variants}) == len(variants)


def test_the_content_hash_never_changes():
    # Saved records identify training sets by this hash, so it must never change. It is the SHA-256 of the array's shape
    # (four int64) and pixels and, if there are labels, the word 'labels' and the labels as int64.
    images = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    data = b''.join(number.to_bytes(8, 'little') for number in (1, 2, 2, 3)) + bytes(range(12))
    assert content_sha256(images, None) == hashlib.sha256(data).hexdigest()
    data += b'labels' + (5).to_bytes(8, 'little')
    assert content_sha256(images, [5]) == hashlib.sha256(data).hexdigest()


def test_every_source_has_its_class_names(cifar):
    assert open_source(cifar).class_names == CIFAR_CLASSES
    assert open_source('digits').class_names == list('0123456789')


def test_a_named_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / 'a.zip')
    with pytest.raises(UserError, match=r'^`data`=.*a\.zip is a pipe or device, which cannot be read twice'):
        open_source(tmp_path / 'a.zip', 'data')


def test_a_missing_source_is_named_with_the_option():
    with pytest.raises(UserError, match=r'^`data`=nowhere.zip: no such file or folder'):
        open_source('nowhere.zip', 'data')


def test_an_unknown_kind_of_file_is_refused_with_a_list_of_known_kinds(tmp_path):
    (tmp_path / 'x.rar').write_bytes(b'Rar!')
    with pytest.raises(UserError, match=r'x\.rar is not a known kind of source; give a folder or a \.zip'):
        open_source(tmp_path / 'x.rar')


@pytest.mark.parametrize('is_terminal', [True, False])
def test_progress_is_printed_on_stderr_if_it_is_a_terminal(tmp_path, capsys, monkeypatch, is_terminal):
    source = open_source(write_zip(tmp_path / 'a.zip', labelled_files(random_images(3), None)))
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: is_terminal, raising=False)
    source.load()
    assert capsys.readouterr() == ('', '')
    source.load(progress=True)
    out, err = capsys.readouterr()
    assert out == ''
    assert ('Reading a.zip' in err) == is_terminal


def test_more_images_than_fit_in_memory_give_a_one_sentence_error(tmp_path, monkeypatch):
    source = open_source(write_zip(tmp_path / 'a.zip', labelled_files(random_images(3), None)))

    def no_memory(*arguments):
        raise MemoryError

    monkeypatch.setattr(np, 'empty', no_memory)
    with pytest.raises(UserError, match=r'3 images of 8x8 RGB do not fit in memory'):
        source.load()


def test_the_package_does_not_import_torch():
    code = 'import sys, dataset_utils.command_line; sys.exit("torch" in sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True)


class TestIdx:
    @pytest.mark.parametrize('compress', [True, False])
    def test_idx_files_are_read_with_and_without_gzip(self, tmp_path, compress):
        path, images, labels = write_idx(tmp_path, compress=compress)
        source = open_source(path)
        assert np.array_equal(source.load()[..., 0], images)
        assert source.labels == labels

    def test_a_missing_label_file_is_named_in_the_error(self, tmp_path):
        path, _, _ = write_idx(tmp_path)
        (tmp_path / 'train-labels-idx1-ubyte.gz').unlink()
        with pytest.raises(UserError, match=r'put train-labels-idx1-ubyte.gz next to it'):
            open_source(path)

    def test_truncated_images_are_refused(self, tmp_path):
        path, _, _ = write_idx(tmp_path, compress=False)
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(UserError, match=r'train-images-idx3-ubyte is not a readable IDX file \(it has fewer bytes'):
            open_source(path)

    def test_truncated_gzip_data_are_refused(self, tmp_path):
        path, _, _ = write_idx(tmp_path)
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.raises(UserError, match=r'is not a readable IDX file'):
            open_source(path)

    def test_a_file_that_is_not_gzip_is_refused(self, tmp_path):
        path, _, _ = write_idx(tmp_path)
        path.write_bytes(b'<html>Not found</html>')
        with pytest.raises(UserError, match=r'is not a readable IDX file'):
            open_source(path)

    def test_extra_bytes_are_refused(self, tmp_path):
        path, _, _ = write_idx(tmp_path, compress=False)
        path.write_bytes(path.read_bytes() + b'\0')
        with pytest.raises(UserError, match=r'more bytes of data than the 9408'):
            open_source(path)

    def test_a_header_of_another_kind_is_refused(self, tmp_path):
        path, _, _ = write_idx(tmp_path, compress=False)
        path.write_bytes(b'\0\0\x0d\x03' + path.read_bytes()[4:])
        with pytest.raises(UserError, match=r'header'):
            open_source(path)

    def test_an_absurd_size_in_a_header_is_refused_before_reading(self, tmp_path):
        path, _, _ = write_idx(tmp_path, compress=False)
        path.write_bytes(bytes([0, 0, 8, 3]) + b'\xff' * 12)
        with pytest.raises(UserError, match=r'its header says that it has'):
            open_source(path)

    def test_different_numbers_of_images_and_labels_are_refused(self, tmp_path):
        path, _, _ = write_idx(tmp_path)
        labels = tmp_path / 'train-labels-idx1-ubyte.gz'
        labels.write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3])))
        with pytest.raises(UserError, match=r'has 12 images, but .* has 3 labels'):
            open_source(path)

    def test_a_file_without_images_is_refused(self, tmp_path):
        path, _, _ = write_idx(tmp_path, count=0)
        with pytest.raises(UserError, match=r'contains no images'):
            open_source(path)
