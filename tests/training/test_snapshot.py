import errno
import json
import pickle
import zipfile
from typing import ClassVar

import msgspec
import pytest
import safetensors.torch
import torch

from dnnlib.util import UserError
from training import snapshot
from training.networks import MODEL_TYPES
from training.snapshot import (
    NetworkConfig,
    SnapshotInfo,
    list_snapshots,
    list_states,
    load_network,
    load_state,
    read_info,
    save_network,
    save_state,
    snapshot_path,
    state_path,
)

NETWORK = NetworkConfig(
    'VPPrecond',
    {'img_resolution': 8, 'img_channels': 1, 'model_type': 'SongUNet', 'model_channels': 8, 'channel_mult': [1, 1],
     'num_blocks': 1, 'attn_resolutions': [4], 'label_dim': 3},
)  # fmt: skip
INFO = SnapshotInfo(NETWORK, 1234, 'fp32', 'digits-20', 'ab' * 32, 20, {'mode': 'mode2'})


@pytest.fixture
def net():
    torch.manual_seed(0)
    return NETWORK.build().eval()


@pytest.fixture
def path(tmp_path, net):
    path = tmp_path / 'network-snapshot-000001.safetensors'
    save_network(path, net.state_dict(), INFO)
    return path


def test_a_network_is_unchanged_after_saving_and_loading(path, net):
    x, sigma, labels = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 3.0]), torch.tensor([2, 0])
    loaded = load_network(path)
    torch.testing.assert_close(loaded(x, sigma, labels), net(x, sigma, labels), rtol=1e-5, atol=1e-5)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert read_info(path) == INFO


def test_the_same_network_gives_the_same_bytes(path, net, tmp_path):
    save_network(tmp_path / 'again', net.state_dict(), INFO)
    assert (tmp_path / 'again').read_bytes() == path.read_bytes()


def test_unknown_facts_about_the_training_set_are_left_out_of_the_header(path, net):
    with safetensors.safe_open(path, 'pt') as file:
        assert json.loads(file.metadata()['snapshot']).keys().isdisjoint({'classes', 'class_sizes', 'xflip'})
    save_network(path, net.state_dict(), msgspec.structs.replace(INFO, classes=[0, 2], class_sizes=[7, 1], xflip=True))
    assert read_info(path).classes == [0, 2]
    assert read_info(path).class_sizes == [7, 1]
    assert read_info(path).xflip


def test_the_default_precision_is_that_of_training(path, net, tmp_path):
    other = tmp_path / 'bf16'
    save_network(other, net.state_dict(), msgspec.structs.replace(INFO, precision='bf16'))
    assert load_network(other).compute_dtype == torch.bfloat16
    assert load_network(other, precision='fp32').compute_dtype == torch.float32


@pytest.mark.parametrize('kept', [0, 7, 100, 5000, -1])
def test_a_truncated_snapshot_is_refused(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match='not a complete snapshot'):
        load_network(path)


def test_a_data_set_given_as_a_snapshot_is_recognized(path):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('dataset.json', '{}')
    with pytest.raises(UserError, match=r'is a ZIP archive \(such as a data set\), not a snapshot'):
        load_network(path)


class Tiny(torch.nn.Module):
    """A network with an argument that other networks do not have."""

    argument_limits: ClassVar = {'depth': 3}

    def __init__(self, img_resolution, in_channels, out_channels, label_dim, depth):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Conv2d(in_channels, out_channels, 1) for _ in range(depth))

    def forward(self, x, noise_labels, class_labels=None, augment_labels=None):
        return sum(layer(x) for layer in self.layers)


def test_a_new_network_needs_one_line_in_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(MODEL_TYPES, 'Tiny', Tiny)
    network = NetworkConfig('EDMPrecond', {'img_resolution': 8, 'img_channels': 1, 'model_type': 'Tiny', 'depth': 2})
    net, path = network.build(), tmp_path / 'tiny.safetensors'
    save_network(path, net.state_dict(), msgspec.structs.replace(INFO, network=network))
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(load_network(path)(x, 1.0), net(x, 1.0))
    rewrite(path, set_argument('depth', 10**9))
    with pytest.raises(UserError, match='depth must be at most 3'):
        load_network(path)


def rewrite(path, change):
    """Apply `change(header, weights)`, which modifies both in place, to a snapshot file."""
    weights = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, 'pt') as file:
        header = json.loads(file.metadata()['snapshot'])
    change(header, weights)
    path.write_bytes(safetensors.torch.save(weights, {'snapshot': json.dumps(header)}))


def set_argument(name, value):
    return lambda header, weights: header['network']['arguments'].__setitem__(name, value)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda header, weights: header['network'].__setitem__('class_name', 'x'), 'network: class_name must be'),
        (lambda header, weights: header.pop('network'), 'its header: the file lacks the key network'),
        (lambda header, weights: header.__setitem__('images', 'many'), "images must be a whole .*, not 'many'"),
        (lambda header, weights: header.__setitem__('images', -1), 'images must be .* of at least 0'),
        (lambda header, weights: header.__setitem__('surprise', 1), 'unknown key, surprise'),
        (lambda header, weights: header.__setitem__('format', 2), 'its format is 2'),
        (lambda header, weights: header.__setitem__('classes', [0, 3]), 'class 3 is not one of the 3 classes'),
        (lambda header, weights: header.__setitem__('classes', []), 'classes must be .* at least 1'),
        (lambda header, weights: header.__setitem__('class_sizes', [1]), 'one number for each entry of classes'),
        (lambda header, weights: header.update(classes=[0], class_sizes=[0]), 'at least 1'),
        (lambda header, weights: header.__setitem__('precision', 'int4'), "precision must be one of .*, not 'int4'"),
        (set_argument('model_channels', 16), 'do not fit the network'),
        (set_argument('num_blocks', 2), 'do not fit the network'),
        (set_argument('num_blocks', 10**9), 'num_blocks must be at most 256'),
        (set_argument('img_resolution', 2**40), 'img_resolution must be at most 8192'),
        (set_argument('channel_mult', [1] * 10**6), 'channel_mult must be at most 12 values'),
        (set_argument('surprise', 1), 'cannot be built'),
        (set_argument('model_channels', 'wide'), "model_channels must be a number of at most .*, not 'wide'"),
        (set_argument('dropout', 9), 'dropout must be a number of at most 1, not 9'),
        (set_argument('img_channels', None), 'img_channels must be a whole number of at least 1, not None'),
        (lambda header, weights: header['network']['arguments'].pop('img_channels'), 'img_channels must be a whole'),
        (lambda header, weights: header.__setitem__('images', 10**400), 'images must be'),
        (lambda header, weights: weights.pop('model.map_layer0.bias'), 'lacks model.map_layer0.bias'),
        (lambda header, weights: weights.__setitem__('x', torch.ones(1)), 'has x, which the network does not'),
        (lambda header, weights: weights['model.map_layer0.bias'].fill_(torch.nan), 'bias contains values that'),
        (lambda header, weights: weights.update({k: v.half() for k, v in weights.items()}), 'float16'),
    ],
)  # fmt: skip
def test_a_header_with_invalid_values_is_refused(path, change, message):
    rewrite(path, change)
    with pytest.raises(UserError, match=message):
        load_network(path)


def test_files_that_are_not_snapshots_are_refused(tmp_path, net):
    other = tmp_path / 'other.safetensors'
    safetensors.torch.save_file({'a': torch.ones(1)}, other)
    with pytest.raises(UserError, match='not a snapshot of this toolkit'):
        load_network(other)
    with pytest.raises(UserError, match='no such file'):
        load_network(tmp_path / 'nothing')


def test_only_snapshots_are_listed_and_the_oldest_comes_first(tmp_path):
    for name in ('network-snapshot-000010.safetensors', 'network-snapshot-000002.safetensors',
                 'network-snapshot-000003.safetensors.77.partial', 'training-state-000001.pt'):  # fmt: skip
        (tmp_path / name).touch()
    assert [kimg for kimg, _ in list_snapshots(tmp_path)] == [2, 10]


def test_snapshots_before_1000_images_have_distinct_names(net, tmp_path):
    paths = [snapshot_path(tmp_path, images) for images in (0, 7, 640, 1000, 1999, 12345)]
    assert [path.name for path in paths] == [
        f'network-snapshot-{kimg}.safetensors'
        for kimg in ('000000', '000000.007', '000000.640', '000001', '000001', '000012')
    ]
    for path in paths:
        save_network(path, net.state_dict(), msgspec.structs.replace(INFO, images=None))
    assert [kimg for kimg, _ in list_snapshots(tmp_path)] == [0, 0.007, 0.64, 1, 12]
    assert [read_info(path).images for path in paths] == [0, 7, 640, 1000, 1000, 12000]
    for images in (0, 640, 999):
        save_state(state_path(tmp_path, images), {'format': 1}, 2)
    assert [kimg for kimg, _ in list_states(tmp_path)] == [0.64, 0.999]


@pytest.mark.parametrize(('keep', 'kept'), [(1, ['12']), (2, ['05', '12']), (9, ['01', '05', '12'])])
def test_only_the_newest_training_states_are_kept(tmp_path, keep, kept):
    for kimg in (1, 5, 12):
        save_state(tmp_path / f'training-state-{kimg:06d}.pt', {'format': 1, 'images': kimg}, keep)
    names = [f'training-state-0000{number}.pt' for number in kept]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert load_state(tmp_path / 'training-state-000012.pt') == {'format': 1, 'images': 12}


class Payload:
    def __reduce__(self):
        return print, ('executed',)


def test_code_in_a_training_state_is_not_run(tmp_path, capsys):
    path = tmp_path / 'training-state-000001.pt'
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UserError, match='not a complete training state'):
        load_state(path)
    torch.save({'format': 1, 'x': Payload()}, path)
    with pytest.raises(UserError, match='not a complete training state'):
        load_state(path)
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('kept', [0, 1, 500])
def test_a_truncated_training_state_is_refused(tmp_path, kept):
    path = tmp_path / 'training-state-000001.pt'
    save_state(path, {'format': 1, 'x': torch.ones(1000)}, 2)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match='not a complete training state'):
        load_state(path)


class FullDisk:
    """A file on a disk with only 100 free bytes."""

    def __init__(self, file):
        self.file, self.left = file, 100

    def write(self, data):
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_on_a_full_disk_the_last_complete_files_remain(path, net, tmp_path, monkeypatch):
    state = tmp_path / 'training-state-000001.pt'
    save_state(state, {'format': 1, 'x': torch.zeros(1000)}, 2)
    before = path.read_bytes(), state.read_bytes()
    whole = snapshot.atomic_file

    class Limited:
        def __init__(self, target):
            self.context = whole(target)

        def __enter__(self):
            return FullDisk(self.context.__enter__())

        def __exit__(self, *error):
            return self.context.__exit__(*error)

    monkeypatch.setattr(snapshot, 'atomic_file', Limited)
    with pytest.raises(OSError, match='No space left'):
        save_network(path, net.state_dict(), INFO)
    with pytest.raises(OSError, match='No space left'):
        save_state(state, {'format': 1, 'x': torch.ones(1000)}, 2)
    assert (path.read_bytes(), state.read_bytes()) == before
    assert sorted(tmp_path.iterdir()) == [path, state]
