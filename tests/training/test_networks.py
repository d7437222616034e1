import math
from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from tests.training.published import NETWORKS, Case, edm_order, relative_error
from training.denoiser import as_denoiser, replayed
from training.networks.unet import DhariwalUNet, SongUNet
from training.preconditioning import EDMPrecond


@pytest.fixture(params=NETWORKS)
def case(request):
    return Case(request.param)


def test_names_shapes_and_parameter_count_match_edm(case):
    shapes = {name: list(tensor.shape) for name, tensor in case.net.state_dict().items()}
    assert shapes == {**case.facts['parameters'], **case.facts['buffers']}
    assert sum(p.numel() for p in case.net.parameters()) == case.facts['num_params']


def test_initial_weights_match_edm(case):
    weights = torch.stack([parameter.flatten()[-1] for _, parameter in edm_order(case.net)])
    torch.testing.assert_close(weights, case.tensor('out.last_weights'), rtol=1e-6, atol=1e-6)


def test_buffers_match_edm(case):
    for name, buffer in case.net.named_buffers():
        torch.testing.assert_close(buffer, case.tensor(f'state.{name}'), rtol=2e-5, atol=0)


def test_denoised_images_match_edm(case):
    assert relative_error(case.denoise(), case.tensor('out.denoised')) < 1e-5


def test_denoised_images_without_labels_match_edm(case):
    if 'out.denoised_no_labels' in case.data:
        assert relative_error(case.denoise(labels=None), case.tensor('out.denoised_no_labels')) < 1e-5


def test_class_indices_give_the_same_images_as_one_hot_labels(case):
    labels = case.tensor('in.class_labels')
    if labels is not None:
        torch.testing.assert_close(case.denoise(labels.argmax(dim=1)), case.denoise(labels), rtol=0, atol=0)


def test_channels_last_gives_the_same_images(case):
    case.net.to(memory_format=torch.channels_last)
    assert relative_error(case.denoise(), case.tensor('out.denoised')) < 1e-5


def test_bfloat16_gives_similar_images_in_float32(case):
    case.net.set_precision('bf16')
    denoised = case.denoise()
    assert denoised.dtype == torch.float32
    assert 0 < relative_error(denoised, case.tensor('out.denoised')) < 0.02


def test_on_a_cpu_float16_networks_compute_in_float32(case):
    expected = case.denoise()
    case.net.set_precision('fp16')
    torch.testing.assert_close(case.denoise(), expected, rtol=0, atol=0)


def test_the_range_of_sigma_matches_edm(case):
    expected = [float(case.facts['sigma_min']), float(case.facts['sigma_max'])]
    assert [case.net.sigma_min, case.net.sigma_max] == pytest.approx(expected, rel=1e-6)


def test_rounded_sigma_matches_edm(case):
    rounded = case.net.round_sigma(case.tensor('in.sigma_to_round'))
    torch.testing.assert_close(rounded, case.tensor('out.sigma_rounded'), rtol=2e-5, atol=0)


def test_sigma_may_be_a_scalar(case):
    x = case.tensor('in.x')
    with torch.no_grad():
        expected = case.net(x, torch.full([len(x)], 0.7))
        torch.testing.assert_close(case.net(x, 0.7), expected, rtol=1e-6, atol=1e-6)


def test_a_zero_in_the_skip_mask_changes_the_image():
    case = Case('vp_ddpmpp_16x16')
    expected = case.denoise()
    model: Any = case.net.model
    model.skip_mask = (True,) * 8 + (False,)
    assert relative_error(case.denoise(), expected) > 1e-3


def test_a_disabled_skip_connection_carries_zeros():
    torch.manual_seed(0)
    net = SongUNet(8, 1, 1, model_channels=8, channel_mult=[1, 1], num_blocks=1, skip_connections=[1, 0, 1, 1])
    skips = [torch.ones(1, 8, 8, 8), torch.ones(1, 8, 8, 8), torch.ones(1, 8, 4, 4), torch.ones(1, 8, 4, 4)]
    assert [float(x.sum()) > 0 for x in net.masked(skips)] == [True, False, True, True]


@pytest.mark.parametrize('encoder', ['standard', 'skip', 'residual'])
@pytest.mark.parametrize('decoder', ['standard', 'skip'])
def test_every_encoder_and_decoder_gives_finite_images_and_gradients(encoder, decoder):
    torch.manual_seed(0)
    net = SongUNet(
        16, 3, 3, model_channels=8, channel_mult=[1, 2, 2], num_blocks=1, encoder_type=encoder, decoder_type=decoder
    )
    out = net(torch.randn(2, 3, 16, 16), torch.tensor([0.5, 2.0]))
    out.square().sum().backward()
    assert out.shape == (2, 3, 16, 16)
    gradients = [p.grad for p in net.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)


def test_label_dropout_replaces_some_labels_by_zeros():
    torch.manual_seed(0)
    net = SongUNet(8, 1, 1, label_dim=3, model_channels=8, channel_mult=[1], num_blocks=1, label_dropout=0.5).train()
    labels = torch.zeros(64, dtype=torch.int64)
    emb = net.embed(torch.ones(64), labels, None)
    net.eval()
    with_label, without = net.embed(torch.ones(1), labels[:1], None), net.embed(torch.ones(1), None, None)
    kept = [torch.allclose(row, with_label[0], atol=1e-6) for row in emb]
    dropped = [torch.allclose(row, without[0], atol=1e-6) for row in emb]
    assert 15 < sum(kept) < 49
    assert sum(kept) + sum(dropped) == 64


def test_initial_values_of_song_unet_match_the_published_ones():
    torch.manual_seed(0)
    net: Any = SongUNet(16, 3, 3, model_channels=64, channel_mult=[2], num_blocks=1, attn_resolutions=[16])
    block = net.enc['16x16_block0']
    bound = math.sqrt(6 / ((64 + 128) * 9))
    assert float(block.conv0.weight.detach().abs().max()) == pytest.approx(bound, rel=1e-3)
    assert float(block.conv0.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert float(block.conv1.weight.detach().abs().max()) < 1e-5 * bound
    assert float(block.qkv.weight.detach().abs().max()) == pytest.approx(math.sqrt(0.2 * 6 / (128 + 3 * 128)), rel=1e-3)
    assert float(net.dec['16x16_aux_conv'].weight.detach().abs().max()) < 1e-5
    assert not block.conv0.bias.any()


def test_initial_values_of_dhariwal_unet_match_the_published_ones():
    torch.manual_seed(0)
    net: Any = DhariwalUNet(
        16, 3, 3, label_dim=10, augment_dim=9, model_channels=64, channel_mult=[1], num_blocks=1, attn_resolutions=[16]
    )
    block = net.enc['16x16_block0']
    bound = 1 / math.sqrt(64 * 9)
    assert float(block.conv0.weight.detach().abs().max()) == pytest.approx(bound, rel=1e-3)
    assert 0 < float(block.conv0.bias.detach().abs().max()) <= bound
    for zero in (block.conv1.weight, block.proj.weight, net.out_conv.weight, net.map_augment.weight):
        assert not zero.any()
    assert float(net.map_label.weight.detach().std()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'skip_connections': [1, 1]}, 'has 2 values, but this network has 4'),
        ({'skip_connections': [1, 2, 1, 1]}, 'only 0 and 1, not 2'),
        ({'img_resolution': 9}, 'cannot be halved'),
        ({'encoder_type': 'odd'}, 'encoder_type must be one of'),
    ],
)
def test_network_arguments_that_do_not_match_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SongUNet(
            **{'img_resolution': 8, 'in_channels': 1, 'out_channels': 1, 'num_blocks': 1, 'model_channels': 8,
               'channel_mult': [1, 1], **arguments}
        )  # fmt: skip


@pytest.mark.parametrize('mask', [None, [1, 0, 1, 1], [0, 0, 0, 0]])
def test_a_skip_mask_needs_no_synchronization_with_the_device(mask):
    """Reading a value of a tensor on the 'meta' device raises an error."""
    with torch.device('meta'):
        net = SongUNet(8, 1, 1, model_channels=8, channel_mult=[1, 1], num_blocks=1, skip_connections=mask)
        out = net(torch.ones(2, 1, 8, 8), torch.ones(2))
    assert (out.device.type, out.shape) == ('meta', (2, 1, 8, 8))


def test_the_published_cifar10_network_has_55_7_million_parameters():
    with torch.device('meta'):
        net = SongUNet(32, 3, 3, channel_mult=[2, 2, 2], num_blocks=4, augment_dim=9)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == 55.7


def test_only_networks_on_a_gpu_are_replayed():
    net = Case(NETWORKS[0]).net
    other = as_denoiser(lambda x, sigma: x, net.img_channels, net.img_resolution)
    assert replayed(net, 'cpu') is net
    assert replayed(other, 'cuda') is other
    fast = replayed(net, 'cuda')
    assert fast is not net
    for name in ('img_channels', 'img_resolution', 'label_dim', 'sigma_min', 'sigma_max'):
        assert getattr(fast, name) == getattr(net, name)
    assert float(fast.round_sigma(2.0)) == float(net.round_sigma(2.0))
    x = torch.zeros([2, net.img_channels, net.img_resolution, net.img_resolution])
    for sigma in (2.0, torch.tensor([1.0, 2.0])):  # outside inference mode, nothing is replayed
        assert torch.equal(fast(x, sigma), net(x, sigma))


@pytest.mark.parametrize(
    ('x', 'found'),
    [
        (torch.zeros(2, 1, 8, 8), r'\[2, 1, 8, 8\]'),
        (torch.zeros(2, 8, 8, 3), r'\[2, 8, 8, 3\]'),
        (torch.zeros(3, 8, 8), r'\[3, 8, 8\]'),
        (np.zeros([2, 3, 8, 8], np.float32), 'ndarray'),
    ],
)
def test_noisy_images_of_another_type_or_shape_are_refused(x, found):
    net = EDMPrecond(8, 3, model_type='DhariwalUNet', model_channels=32, channel_mult=[1], num_blocks=1)
    for denoiser in (net, as_denoiser(lambda x, sigma: x, 3, 8)):
        with pytest.raises(UserError, match=rf'^x must be a tensor \[B, 3, 8, 8\], not {found}$'):
            denoiser(x, 1.0)
        with pytest.raises(UserError, match=r'^sigma has 3 values for 2 images; give one value, or one per image$'):
            denoiser(torch.zeros(2, 3, 8, 8), torch.ones(3))
