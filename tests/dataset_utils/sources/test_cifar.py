import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest

import dataset_tool
from dataset_utils import Reading, content_sha256, open_source
from dataset_utils.command_line import main as dataset_utils_main
from dataset_utils.sources import cifar
from dnnlib.util import UserError
from tests.dataset_utils.making import pickled_batch, random_images, read_zip, write_cifar, write_files, write_tar
from tests.helpers import invoke, needs_cifar10


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'cifar-10-python.tar.gz'


def test_the_test_split_and_the_unpacked_folder_are_read(path, tmp_path):
    training = write_cifar(path, members={'test_batch': pickled_batch(random_images(3, 32, seed=7), labels=[4, 5, 6])})
    test = Reading(split='test')
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path, filter='data')
    for place in (path, tmp_path / 'cifar-10-batches-py'):
        assert np.array_equal(open_source(place).load(), training)
        source = open_source(place, '', test)
        assert np.array_equal(source.load(), random_images(3, 32, seed=7))
        assert source.labels == [4, 5, 6]
        assert source.class_names == open_source(path).class_names
    result = invoke(dataset_tool.main, f'--source={path}', f'--dest={tmp_path / "t.zip"}', '--split=test')
    assert result.exit_code == 0, result.output
    images, labels, manifest = read_zip(tmp_path / 't.zip')
    assert np.array_equal(images, random_images(3, 32, seed=7))
    assert labels == [4, 5, 6]
    assert manifest['arguments']['split'] == 'test'
    assert 'Verified' in invoke(dataset_utils_main, 'info', tmp_path / 't.zip', f'--verify={path}').stdout


def test_cifar100_is_read_with_its_fine_labels(tmp_path):
    names = [f'class {number}' for number in range(100)]
    files = {
        'meta': pickle.dumps({b'fine_label_names': names, b'coarse_label_names': names[:20]}, 2),
        'train': pickled_batch(random_images(4, 32), fine_labels=[99, 0, 5, 6], coarse_labels=[1, 2, 3, 4]),
        'test': pickled_batch(random_images(2, 32, seed=3), fine_labels=[7, 8], coarse_labels=[1, 2]),
    }
    write_tar(tmp_path / 'cifar-100-python.tar.gz', files)
    for place in (tmp_path / 'cifar-100-python.tar.gz', write_files(tmp_path / 'cifar-100-python', files)):
        source = open_source(place)
        assert source.labels == [99, 0, 5, 6]
        assert source.class_names == names
        assert np.array_equal(source.load(), random_images(4, 32))
        assert open_source(place, '', Reading(split='test')).labels == [7, 8]


def test_other_sources_have_no_split(tmp_path):
    with pytest.raises(UserError, match=r'digits is not divided into training and test images; remove `split`'):
        open_source('digits', '', Reading(split='test'))


class _Payload:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.system, (f'touch {self.victim}',)


@pytest.mark.parametrize('protocol', [2, 5])
def test_images_are_read_with_any_pickle_protocol(path, protocol):
    images = write_cifar(path, protocol=protocol)
    assert np.array_equal(open_source(path).load(), images)


@pytest.mark.parametrize('member', ['batches.meta', 'data_batch_3'])
def test_a_malicious_pickle_is_refused_and_not_run(path, tmp_path, member):
    victim = tmp_path / 'victim'
    write_cifar(path, members={member: pickle.dumps(_Payload(victim), 2)})
    with pytest.raises(
        UserError, match=rf"cifar-10-python.tar.gz: {member} cannot be read safely \(it asks for '\w+\.system'"
    ):
        open_source(path)
    assert not victim.exists()


def test_missing_batches_are_named_in_the_error(path):
    write_cifar(path, members={'data_batch_2': b'', 'data_batch_5': b''})
    with pytest.raises(UserError, match=r'has no data_batch_2, data_batch_5'):
        open_source(path)


@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.95])
def test_a_truncated_archive_gives_a_one_sentence_error(path, share):
    write_cifar(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r'cifar-10-python.tar.gz (is not a readable .tar.gz|has no)'):
        open_source(path)


def test_an_archive_of_something_else_gives_a_one_sentence_error(path):
    path.write_bytes(gzip.compress(b'hello'))
    with pytest.raises(UserError, match=r'is not a readable .tar.gz'):
        open_source(path)


SOUND = {'data': np.zeros((40, 3072), np.uint8), 'labels': [0] * 40}


@pytest.mark.parametrize(
    'batch',
    [
        [],
        {},
        {'data': SOUND['data']},
        SOUND | {'labels': [0] * 39},
        SOUND | {'labels': [10] * 40},
        SOUND | {'labels': [-1] * 40},
        SOUND | {'labels': [0.0] * 40},
        SOUND | {'labels': [True] * 40},
        SOUND | {'data': np.zeros((40, 3071), np.uint8)},
        SOUND | {'data': np.zeros(3072, np.uint8)},
        SOUND | {'data': [1, 2]},
    ],
)
def test_batches_of_another_shape_are_refused(path, batch):
    write_cifar(path, members={'data_batch_4': pickle.dumps(batch, 2)})
    with pytest.raises(UserError, match=r'data_batch_4 is not a valid CIFAR file'):
        open_source(path)


@pytest.mark.parametrize('meta', [{}, {'label_names': []}, {'label_names': 'abc'}, {'label_names': [1, 2]}])
def test_class_names_of_another_shape_are_refused(path, meta):
    write_cifar(path, members={'batches.meta': pickle.dumps(meta, 2)})
    with pytest.raises(UserError, match=r'batches.meta is not a valid CIFAR file'):
        open_source(path)


def test_a_compression_bomb_is_refused_before_it_fills_memory(path, monkeypatch):
    monkeypatch.setattr(cifar, 'MAX_TAR_BYTES', 1 << 20)
    path.write_bytes(gzip.compress(bytes(2 << 20)))
    with pytest.raises(UserError, match=r'more than 1048576 bytes'):
        open_source(path)


def test_links_in_the_archive_are_not_followed(path):
    with tarfile.open(path, 'w:gz') as tar:
        for name in (cifar.CIFAR10.meta, *cifar.CIFAR10.batches['train']):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
            tar.addfile(link, io.BytesIO())
    with pytest.raises(UserError, match=r'has no batches.meta'):
        open_source(path)


@pytest.mark.slow
@needs_cifar10
def test_the_real_cifar10_has_the_known_labels_and_means():
    source = open_source(os.environ['CIFAR10_ARCHIVE'])
    assert len(source) == 50_000
    assert source.labels is not None
    assert source.labels[:5] == [6, 9, 9, 4, 1]  # frog, truck, truck, deer, automobile
    assert [source.labels.count(label) for label in range(10)] == [5_000] * 10
    images = source.load()
    means = images.mean(axis=(0, 1, 2)) / 255
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)  # the means commonly used for normalization
    assert len(content_sha256(images, source.labels)) == 64
