"""Tests of the feature cache and of `python -m evaluation.features extract`."""

from functools import partial

import numpy as np
import pytest
import torch

from evaluation.features import __main__ as features
from evaluation.features.extractors import TorchScript
from tests.helpers import failure_of, invoke, run_script
from training.dataset import load_dataset

pytestmark = pytest.mark.filterwarnings('ignore:`torch.jit.trace')
run = partial(invoke, features.main, 'extract')
failure = partial(failure_of, features.main, 'extract')


class Projection(torch.nn.Module):
    """A random projection of 8x8 RGB images to 5 features, set by a seed."""

    def __init__(self, seed):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.randn([192, 5], generator=torch.Generator().manual_seed(seed)))

    def forward(self, images):
        return images.flatten(1) @ self.weights


@pytest.fixture
def network(tmp_path):
    def save(seed=0):
        path = tmp_path / f'{seed}.pt'
        if not path.exists():  # saving again would change the hash
            torch.jit.trace(Projection(seed), torch.ones(2, 3, 8, 8)).save(path)
        return f'--extractor=torchscript:{path}'

    return save


@pytest.fixture
def extracted(monkeypatch):
    """A list that collects the batch size of every extraction."""
    counts = []
    extract = TorchScript.run

    def counting(self, images):
        counts.append(len(images))
        return extract(self, images)

    monkeypatch.setattr(TorchScript, 'run', counting)
    return counts


def test_features_are_extracted_once_and_then_read_from_the_cache(network, extracted, tmp_path):
    common = '--source=digits', '--preprocess=mean=0.5/0.5/0.5', f'--cache-dir={tmp_path}/cache'
    for number, batch in enumerate((64, 100)):
        result = run(*common, network(), f'--dest={tmp_path}/{number}.npy', f'--batch={batch}')
        assert result.exit_code == 0, result.output
        assert '5 features for each of 1797 images' in result.stdout
    assert sum(extracted) == 1797
    images = load_dataset('digits').images.double() / 255 - 0.5
    expected = Projection(0)(images.float().expand(-1, 3, -1, -1)).detach()
    for number in (0, 1):
        rows = np.load(tmp_path / f'{number}.npy')
        assert rows.dtype == np.float32
        torch.testing.assert_close(torch.from_numpy(rows), expected)


def test_other_images_networks_and_preprocessing_are_extracted_separately(network, extracted, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / 'a.npy', pixels)
    np.save(tmp_path / 'b.npy', pixels[::-1])
    (tmp_path / 'sub').mkdir()
    np.save(tmp_path / 'sub' / 'same.npy', pixels)
    common = f'--dest={tmp_path}/out.npy', f'--cache-dir={tmp_path}/cache'
    found = []
    for source, seed, mean in (('a', 0, 0), ('b', 0, 0), ('a', 1, 0), ('a', 0, 0.5), ('sub/same', 0, 0)):
        options = f'--source={tmp_path}/{source}.npy', f'--preprocess=mean={mean}/0/0', network(seed)
        assert run(*options, *common).exit_code == 0
        found.append(np.load(tmp_path / 'out.npy'))
    assert len(extracted) == 4  # the last features come from the cache
    np.testing.assert_array_equal(found[0], found[4])
    assert all(not np.array_equal(found[0], other) for other in found[1:4])


def flipped(place):
    return lambda data: data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    'damage', [lambda data: data[:-40], lambda data: b'', lambda data: b'x' * len(data), flipped(20_000), flipped(-40)]
)
def test_features_of_a_damaged_cache_file_are_extracted_again_with_a_note(network, tmp_path, damage):
    common = '--source=digits', '--preprocess=mean=0/0/0', f'--cache-dir={tmp_path}/cache', network()
    assert run(*common, f'--dest={tmp_path}/a.npy').exit_code == 0
    (file,) = (tmp_path / 'cache' / 'features').glob('*.npy')
    written = file.read_bytes()
    file.write_bytes(damage(written))
    result = run(*common, f'--dest={tmp_path}/b.npy')
    assert result.exit_code == 0
    assert f'Note: {file} has no valid checksum; its features are extracted again.' in result.stdout
    assert (tmp_path / 'a.npy').read_bytes() == (tmp_path / 'b.npy').read_bytes()
    assert file.read_bytes() == written


def test_an_unwritable_destination_is_refused_before_features_are_extracted(tmp_path):
    assert 'name a file ending in .npy in a folder that exists' in failure(
        '--source=digits', f'--dest={tmp_path}/no/a.npy'
    )
    assert 'name a file ending in .npy' in failure('--source=digits', f'--dest={tmp_path}/a.npz')
    source = tmp_path / 'a.npy'
    np.save(source, np.zeros((3, 8, 8, 1), np.uint8))
    (tmp_path / 'link').symlink_to(tmp_path)
    message = f'--dest would replace {tmp_path}/link/a.npy, which is an input (--source); give another name'
    assert message in failure(f'--source={source}', f'--dest={tmp_path}/link/a.npy')
    assert np.load(source).shape == (3, 8, 8, 1)


@pytest.mark.slow
def test_features_are_equal_on_any_number_of_ranks(network, tmp_path):
    for ranks in (1, 2, 3):
        options = '--source=digits', '--preprocess=mean=0/0/0', network(), f'--cache-dir={tmp_path}/{ranks}'
        run_script('-m', 'evaluation.features', 'extract', *options, f'--dest={tmp_path}/{ranks}.npy', ranks=ranks)
    first, *others = (np.load(tmp_path / f'{ranks}.npy') for ranks in (1, 2, 3))
    for other in others:
        np.testing.assert_array_equal(first, other)
