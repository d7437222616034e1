import functools
import itertools
import json
import re
import zipfile

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from tests.dataset_utils.making import image_bytes, random_images, write_files
from tests.helpers import DATA
from training import dataset
from training.dataset import ImageOrder, load_dataset, stream_dataset, to_float


def test_the_order_of_images_matches_edm():
    cases = json.loads((DATA / 'sampler_order.json').read_text())
    for name, expected in cases.items():
        size, seed, window, rank, ranks = re.match(r'n(\d+)_seed(\d+)_window(.*)_rank(\d)of(\d)', name).groups()
        order = ImageOrder(int(size), int(seed), float(window))
        assert order.take(len(expected) * int(ranks))[int(rank) :: int(ranks)].tolist() == expected


@pytest.mark.parametrize('window', [0, 0.5, 1])
def test_the_order_of_images_can_be_resumed_at_any_position(window):
    whole = ImageOrder(10, 3, window).take(1000)
    joined = ImageOrder(10, 3, window)
    joined.skip(313)
    assert joined.take(687).tolist() == whole[313:].tolist()


def test_with_a_fixed_order_every_epoch_shows_each_image_once():
    epochs = ImageOrder(10, 1024, 0).take(30).reshape(3, 10)
    assert sorted(epochs[0].tolist()) == list(range(10))
    assert (epochs == epochs[0]).all()


def test_a_streamed_data_set_gives_the_same_batches_as_one_in_memory(digits_20):
    whole, streamed = load_dataset(str(digits_20)), stream_dataset(str(digits_20), workers=2)
    indices = [np.array([3, 25, 19]), np.array([0, 39, 1]), np.array([7, 7, 7])]
    from_memory = whole.batches(iter(indices), torch.device('cpu'), xflip=True)
    from_files = itertools.chain(streamed.batches(iter([*indices, indices[0]]), torch.device('cpu'), xflip=True))
    for (images, labels), (same_images, same_labels) in zip(from_memory, from_files, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


def test_the_hash_of_a_training_set_does_not_depend_on_how_it_is_read(digits_20, tmp_path):
    with zipfile.ZipFile(digits_20) as archive:
        archive.extractall(tmp_path / 'folder')
    paths = [str(digits_20), str(tmp_path / 'folder')]
    hashes = {load_dataset(path).sha256 for path in paths} | {stream_dataset(path, workers=1).sha256 for path in paths}
    assert len(hashes) == 1


def test_a_data_set_too_large_for_memory_stays_on_disk(digits_20, tmp_path, monkeypatch):
    expected = {channels: load_dataset(str(digits_20), channels=channels) for channels in (None, 3)}
    monkeypatch.setattr('training.dataset.free_bytes', lambda _: 3 * 20 * 8 * 8 - 1)
    for channels, loaded in expected.items():
        found = load_dataset(str(digits_20), channels=channels)
        assert (found.on_disk, loaded.on_disk) == (True, False)
        assert found.sha256 == loaded.sha256
        assert torch.equal(found.images, loaded.images)
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'absent'))
    with pytest.raises(UserError, match=r'need 1,280 bytes in .*absent \(No such file .* TMPDIR'):
        load_dataset(str(digits_20))


@pytest.mark.parametrize('order', ['ab', 'ba'])
def test_streaming_converts_grey_images_among_colour_images_as_loading_does(tmp_path, order):
    colour, grey = order
    write_files(tmp_path, {f'{colour}.png': image_bytes(random_images(1)[0]),
                           f'{grey}.png': image_bytes(random_images(1, channels=1)[0])})  # fmt: skip
    streamed = stream_dataset(str(tmp_path), workers=2)
    indices = iter([np.array([0, 1]), np.array([0, 1])])
    images, _ = next(streamed.batches(indices, torch.device('cpu'), xflip=False))
    assert torch.equal(images, load_dataset(str(tmp_path)).images)
    assert streamed.sha256 == load_dataset(str(tmp_path)).sha256


@pytest.mark.parametrize('read', [load_dataset, functools.partial(stream_dataset, workers=2)])
def test_an_image_of_another_size_is_named_before_training_starts(tmp_path, read):
    write_files(tmp_path, {f'{n}.png': image_bytes(random_images(1, 8 + n // 5)[0]) for n in range(6)})
    with pytest.raises(UserError, match=r'5\.png is 9x9 RGB, but 0\.png is 8x8 RGB; bring all images to one'):
        read(str(tmp_path))


def test_mirrored_images_have_the_indices_after_the_originals(digits_20):
    dataset = load_dataset(str(digits_20))
    ((images, labels),) = dataset.batches(iter([np.array([4, 24])]), torch.device('cpu'), xflip=True)
    assert torch.equal(images[0], dataset.images[4])
    assert torch.equal(images[1], dataset.images[4].flip(2))
    assert labels.tolist() == [int(dataset.labels[4])] * 2


def test_a_missing_training_set_is_named_in_the_error():
    with pytest.raises(UserError, match=r'`data`=nowhere\.zip'):
        load_dataset('nowhere.zip')


def test_pixels_become_numbers_between_minus_one_and_one():
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]


def test_a_data_set_too_large_for_the_gpu_stays_in_host_memory(monkeypatch):
    """The training set has 4 images of 64 bytes each."""
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    for free, expected in ((10**9, True), (1000, True), (600, False)):
        monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device, free=free: (free, 10**10))
        assert dataset.fits(images, torch.device('cuda')) is expected
    assert dataset.fits(images, torch.device('cpu'))


@pytest.mark.parametrize('fits', [True, False])
@pytest.mark.parametrize('xflip', [False, True])
def test_batches_are_the_same_from_the_device_and_from_host_memory(monkeypatch, fits, xflip):
    """The 'meta' device, whose tensors have no values, stands in for a GPU."""
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    moved: list[torch.Tensor] = []

    def on_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
        moved.append(values)
        return values.to(device)

    monkeypatch.setattr(dataset, 'fits', lambda images, device: fits)
    monkeypatch.setattr(dataset, 'on_device', on_device)
    found = dataset.Dataset('x', images, torch.tensor([3, 1, 2, 0]), 'x')
    places = np.array([1, 7, 2]) if xflip else np.array([1, 3, 2])
    ((batch, labels),) = found.batches(iter([places]), torch.device('meta'), xflip)
    assert batch.device.type == labels.device.type == 'meta'
    assert batch.shape == (3, 1, 8, 8)
    if not fits:
        expected = torch.stack([images[1], images[3].flip(2) if xflip else images[3], images[2]])
        assert torch.equal(moved[-2], expected)
        assert moved[-1].tolist() == [1, 0, 2]
