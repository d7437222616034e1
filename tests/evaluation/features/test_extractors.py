"""Tests of feature extractors, on tiny networks."""

import sys
import types

import numpy as np
import PIL.Image
import pytest
import torch

from dnnlib.util import UserError, file_sha256
from evaluation.features.extractors import make_extractor
from evaluation.features.preprocessing import Preprocessing, read_preprocessing

pytestmark = pytest.mark.filterwarnings('ignore:`torch.jit.trace')


class Saved(torch.nn.Module):
    """Wraps a function of images so that it can be saved as TorchScript."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


@pytest.fixture
def save(tmp_path):
    def make(function, shape=(2, 3, 8, 8), dtype=torch.float32):
        path = tmp_path / 'network.pt'
        torch.jit.trace(Saved(function), torch.ones(shape, dtype=dtype), check_trace=False).save(path)
        return path

    return make


def images(count=5, channels=3, size=8):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, channels, size, size), dtype=np.uint8))


def test_the_features_of_the_pixels_extractor_are_the_pixel_values():
    extractor = make_extractor('pixels', None, 'cpu')
    assert torch.equal(extractor(images()), images().reshape(5, -1).float())
    assert extractor.settings == {'extractor': 'pixels'}


def test_torchscript_networks_get_preprocessed_images_in_any_batch_size(save):
    weights = torch.randn([3 * 64, 7], generator=torch.Generator().manual_seed(0))
    path = save(lambda x: x.flatten(1) @ weights)
    extractor = make_extractor(f'torchscript:{path}', 'mean=0.5/0.4/0.3,deviation=1/2/4', 'cpu')
    pixels = images().double() / 255
    pixels = (pixels - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([1, 2, 4])[:, None, None]
    torch.testing.assert_close(extractor(images()), (pixels.flatten(1) @ weights.double()).float())
    torch.testing.assert_close(extractor(images())[2:3], extractor(images()[2:3]))
    assert extractor.settings == {
        'extractor': f'torchscript:{path}',
        'preprocess': 'mean=0.5/0.4/0.3,deviation=1/2/4',
        'weights_sha256': file_sha256(path),
    }


def test_without_preprocessing_the_network_gets_bytes_with_grey_repeated_as_rgb(save, capsys):
    path = save(lambda x: x.sum(dim=(2, 3)).float(), dtype=torch.uint8)
    extractor = make_extractor(f'torchscript:{path}', 'none', 'cpu')
    grey = images(channels=1)
    for _ in range(2):
        assert torch.equal(extractor(grey), grey.sum(dim=(2, 3)).expand(-1, 3).float())
    assert capsys.readouterr().out.count('grey images are repeated') == 1


@pytest.mark.parametrize(
    ('function', 'message'),
    [
        (lambda x: x, r'returned shape \[5, 3, 8, 8\] instead of'),
        (lambda x: x.flatten(1)[:1], 'returned 1 rows for 5 images'),
        (lambda x: x.flatten(1) / 0, 'not finite; check `preprocess`'),
        (lambda x: (x.flatten(1), x), 'returned a tuple instead of a tensor'),
        (lambda x: x.reshape(2, -1) @ torch.ones(192, 1), 'failed on images'),
    ],
)
def test_networks_with_unsuitable_outputs_are_refused(save, function, message):
    extractor = make_extractor(f'torchscript:{save(function)}', 'mean=0/0/0', 'cpu')
    with pytest.raises(UserError, match=message):
        extractor(images())


def test_invalid_extractor_names_are_refused(save, tmp_path, monkeypatch):
    (tmp_path / 'text.pt').write_text('no network')
    torch.save({'a': torch.ones(1)}, tmp_path / 'tensors.pt')
    cases = {
        'inception': 'give one of pixels, torchscript:FILE.pt, torch-fidelity:NAME',
        'inception-2015-12-05.pkl': 'a pickle, which is refused; .* use torch-fidelity:inception-v3-compat',
        f'torchscript:{tmp_path}/text.pt': 'is not a TorchScript file',
        f'torchscript:{tmp_path}/tensors.pt': 'is not a TorchScript file',
        'torch-fidelity:resnet': "unknown extractor 'resnet'; choose one of inception-v3-compat",
        f'torch-fidelity:vgg16:{tmp_path}/text.pt': 'is not a state dict of tensors',
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            make_extractor(name, None if name.startswith('torch-') else 'none', 'cpu')
    with pytest.raises(UserError, match=r'requires `preprocess`: inception\|imagenet'):
        make_extractor(f'torchscript:{save(lambda x: x)}', None, 'cpu')
    with pytest.raises(UserError, match='has no settings'):
        make_extractor('pixels', 'none', 'cpu')
    monkeypatch.setitem(sys.modules, 'torch_fidelity', None)
    with pytest.raises(UserError, match=r'pip install torch-fidelity==0\.4\.0'):
        make_extractor('torch-fidelity:vgg16', None, 'cpu')


def test_torch_fidelity_is_given_the_weights_file_and_images_as_bytes(tmp_path, monkeypatch):
    torch.save({'scale': torch.tensor(2.0)}, tmp_path / 'weights.pth')

    def create(name, layers, cuda, feature_extractor_weights_path, verbose):
        assert (name, layers, cuda) == ('inception-v3-compat', ['2048'], False)
        if feature_extractor_weights_path is None:
            raise OSError('no network')
        scale = torch.load(feature_extractor_weights_path)['scale']
        return Saved(lambda x: (x.flatten(1) * scale,))

    module = types.ModuleType('torch_fidelity.utils')
    monkeypatch.setattr(module, 'create_feature_extractor', create, raising=False)
    monkeypatch.setitem(sys.modules, 'torch_fidelity', types.ModuleType('torch_fidelity'))
    monkeypatch.setitem(sys.modules, 'torch_fidelity.utils', module)
    extractor = make_extractor(f'torch-fidelity:inception-v3-compat:{tmp_path}/weights.pth', None, 'cpu')
    assert torch.equal(extractor(images()), images().flatten(1) * 2.0)
    assert extractor.settings['weights_sha256'] == file_sha256(tmp_path / 'weights.pth')
    with pytest.raises(UserError, match=r'cannot be downloaded .*give torch-fidelity:inception-v3-compat:FILE'):
        make_extractor('torch-fidelity:inception-v3-compat', None, 'cpu')


@pytest.mark.parametrize(('filter', 'resampling'), [('bilinear', 'BILINEAR'), ('bicubic', 'BICUBIC')])
def test_images_are_resized_by_pillow_and_cropped_at_the_centre(filter, resampling):
    smooth = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8) * 2
    pixels = torch.from_numpy(np.repeat(smooth[None, None], 3, axis=1))
    found = Preprocessing(24, filter, crop=20)(pixels) * 255
    expected = np.asarray(PIL.Image.fromarray(smooth).resize((32, 24), PIL.Image.Resampling[resampling]))
    assert np.abs(found[0, 0].numpy() - expected[2:22, 6:26]).max() <= 1


def test_preprocessing_options_are_parsed():
    assert read_preprocessing('size=299,antialias=no,mean=0.5/0.5/0.5,deviation=0.5/0.5/0.5') == read_preprocessing(
        'inception'
    )
    for text in ('imagnet', 'size=0', 'filter=box', 'mean=1/2', 'deviation=0/1/1', 'mean=nan/0/0', ''):
        with pytest.raises(UserError, match='`preprocess`='):
            read_preprocessing(text)
    with pytest.raises(UserError, match='cannot crop 9x9 pixels from images of 8x8; set size to at least 9'):
        Preprocessing(crop=9)(images())
