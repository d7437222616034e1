import pickle
import zipfile

import numpy as np
import pytest

from dataset_utils import open_source
from dataset_utils.sources.arrays import NumpySource
from dnnlib.util import UserError
from tests.dataset_utils.making import random_images

IMAGES = random_images(5, 8)


def saved(path, array, **others):
    if path.suffix == '.npy':
        np.save(path, array)
    else:
        np.savez(path, arr_0=array, **others)
    return str(path)


@pytest.mark.parametrize('name', ['images.npz', 'images.npy'])
@pytest.mark.parametrize('images', [IMAGES, IMAGES.transpose(0, 3, 1, 2)], ids=['nhwc', 'nchw'])
def test_arrays_with_channels_first_or_last_are_images(tmp_path, name, images):
    source = open_source(saved(tmp_path / name, images))
    assert (len(source), source.name, source.labels) == (5, 'images', None)
    assert np.array_equal(source.load(), IMAGES)
    assert all(np.array_equal(image, expected) for (image, _), expected in zip(source, IMAGES, strict=True))
    assert np.array_equal(pickle.loads(pickle.dumps(source)).read(3), IMAGES[3])


def test_an_npy_file_is_mapped_from_disk_and_never_written_to(tmp_path):
    path = tmp_path / 'images.npy'
    source = open_source(saved(path, IMAGES.transpose(0, 3, 1, 2)))
    before = path.read_bytes()
    base = source.load()
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    source.load()[:] = 0
    assert path.read_bytes() == before


def test_labels_in_an_npz_are_read_if_they_are_whole_numbers(tmp_path):
    assert open_source(saved(tmp_path / 'a.npz', IMAGES, arr_1=np.arange(5))).labels == [0, 1, 2, 3, 4]
    assert open_source(saved(tmp_path / 'b.npz', IMAGES, labels=np.arange(4))).labels is None
    assert open_source(saved(tmp_path / 'c.npz', IMAGES, labels=np.linspace(0, 1, 5))).labels is None


@pytest.mark.parametrize('low_high', [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)])
def test_floats_are_converted_to_pixels_within_the_given_range(tmp_path, low_high):
    low, high = low_high
    floats = (IMAGES / 255 * (high - low) + low).astype(np.float32)
    path = saved(tmp_path / 'a.npy', floats)
    assert np.array_equal(NumpySource(path, float_range=low_high).load(), IMAGES)
    with pytest.raises(UserError, match=r'float32, but must be uint8; save the images as uint8$'):
        NumpySource(path, 'data')
    with pytest.raises(UserError, match=r'float32, but must be uint8; .*`float_range`'):
        open_source(path)


@pytest.mark.parametrize('value', [1.01, np.nan, np.inf])
def test_a_float_outside_the_range_is_named_in_the_error(tmp_path, value):
    floats = (IMAGES / 127.5 - 1).astype(np.float32)
    floats[3, 2, 1, 0] = value
    with pytest.raises(UserError, match=rf'image 3 has the value {value:g}, outside `float_range`=-1,1'):
        NumpySource(saved(tmp_path / 'a.npz', floats), float_range=(-1, 1))


@pytest.mark.parametrize(
    'array',
    [IMAGES[0], IMAGES[..., :2], IMAGES[:0], IMAGES.astype(np.int64), np.zeros((2, 0, 8, 3), np.uint8), IMAGES > 3],
    ids=['one', 'two-channels', 'none', 'int64', 'no-pixels', 'bool'],
)
@pytest.mark.parametrize('name', ['a.npz', 'a.npy'])
def test_an_array_that_is_not_images_is_named_in_the_error(tmp_path, name, array):
    with pytest.raises(UserError, match=r'must be uint8 \[N, H, W, C\] or \[N, C, H, W\] with 1 or 3 channels'):
        open_source(saved(tmp_path / name, array), '--images')


class Trace:
    """An object that creates a file when it is unpickled, to show whether that happened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


@pytest.mark.parametrize('name', ['a.npz', 'a.npy'])
def test_a_pickle_in_an_array_is_refused_and_not_run(tmp_path, name):
    trace = tmp_path / 'trace'
    array = np.array([Trace(str(trace))], dtype=object)
    if name == 'a.npy':
        np.save(tmp_path / name, array, allow_pickle=True)
    else:
        np.savez(tmp_path / name, images=array)
    with pytest.raises(UserError, match=r'not a readable \.np[yz]'):
        open_source(str(tmp_path / name))
    assert not trace.exists()


@pytest.mark.parametrize('name', ['a.npz', 'a.npy'])
@pytest.mark.parametrize('size', [0, 5, 60, 500])
def test_a_truncated_array_file_is_named_in_the_error(tmp_path, name, size):
    path = tmp_path / name
    saved(path, IMAGES)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r'a\.np[yz] is not a readable \.np[yz] file \('):
        open_source(str(path))


def test_an_npz_larger_than_memory_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / 'a.npz'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive, archive.open('images.npy', 'w') as entry:
        np.save(entry, np.zeros((1000, 32, 32, 3), np.uint8))
    monkeypatch.setattr('psutil.virtual_memory', lambda: type('', (), {'available': 3_000_000}))
    monkeypatch.setattr('numpy.load', None)
    with pytest.raises(UserError, match=r'unpacks to 2 MiB, which is more than the free memory; save .* \.npy'):
        open_source(str(path))
