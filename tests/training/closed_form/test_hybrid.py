"""Hybrids of denoisers, and the names by which users choose closed forms."""

import pytest
import torch

from dnnlib.util import UserError
from tests.training.closed_form.brute_force import mixed_images, queries
from training.closed_form import (
    GaussianDenoiser,
    HybridDenoiser,
    LocalScoreDenoiser,
    OptimalDenoiser,
    SmoothedDenoiser,
    files_of,
    make_denoiser,
    read_name,
)
from training.denoiser import as_denoiser
from training.sampling import StackedRandomGenerator, edm_sampler

IMAGES = mixed_images(20, 1, 4)
LABELS = torch.arange(20) % 3


def constant(value: float, label_dim: int = 0, size: int = 4):
    return as_denoiser(lambda x, sigma, *_: torch.full_like(x, value), 1, size, label_dim=label_dim)


def test_each_part_of_a_hybrid_is_used_in_its_range_of_noise_levels():
    denoiser = HybridDenoiser(IMAGES, parts=[constant(3), constant(2), constant(1)], levels=[4.0, 0.5])
    x = torch.zeros(6, 1, 4, 4)
    sigmas = [80.0, 4.1, 4.0, 0.51, 0.5, 0.002]
    expected = torch.tensor([3.0, 3.0, 2.0, 2.0, 1.0, 1.0])
    assert torch.equal(denoiser(x, torch.tensor(sigmas))[:, 0, 0, 0], expected)
    assert [float(denoiser(x, sigma)[0, 0, 0, 0]) for sigma in sigmas] == expected.tolist()


def test_a_hybrid_may_use_the_optimum_within_an_interval_of_noise_levels():
    named = make_denoiser('hybrid:gaussian>4>optimal:precision=fp64>0.5>gaussian', IMAGES, LABELS)
    assert isinstance(named, HybridDenoiser)
    gaussian, optimum = GaussianDenoiser(IMAGES, LABELS), OptimalDenoiser(IMAGES, LABELS, precision='fp64')
    labels = torch.tensor([2, 0, 1, 1])
    for sigma, part in [(10.0, gaussian), (1.0, optimum), (0.1, gaussian)]:
        x = queries(IMAGES, sigma)
        assert torch.equal(named(x, sigma, labels), part(x, sigma, labels))
    assert named.label_dim == 3
    assert named.parts[0] is named.parts[2]


def test_sampling_a_hybrid_equals_sampling_the_part_in_use():
    latents = StackedRandomGenerator('cpu', range(4)).randn([4, 1, 4, 4])
    hybrid = HybridDenoiser(IMAGES, parts=['optimal', 'gaussian'], levels=[1e-9])
    assert torch.allclose(edm_sampler(hybrid, latents), edm_sampler(OptimalDenoiser(IMAGES), latents), atol=1e-6)


def test_a_hybrid_has_the_range_and_rounding_of_its_parts():
    network = constant(0)
    network.round_sigma = lambda sigma: torch.as_tensor(sigma).round()
    hybrid = HybridDenoiser(IMAGES, parts=['optimal', network], levels=[4.0])
    assert (hybrid.sigma_min, hybrid.sigma_max) == (0.002, float('inf'))
    assert hybrid.round_sigma(torch.tensor([5.3, 2.2])).tolist() == pytest.approx([5.3, 2.0])
    assert float(hybrid.round_sigma(2.2)) == 2.0


@pytest.mark.parametrize(
    ('parts', 'levels', 'message'),
    [
        (
            ['optimal', 'gaussian', 'optimal'],
            [1.0, 4.0],
            'the noise levels of a hybrid must be positive and in descending order, not 1, 4',
        ),
        (['optimal', 'gaussian'], [0.0], 'must be positive and in descending order, not 0'),
        (['optimal', 'gaussian'], [], 'the hybrid has 2 parts and 0 noise levels; give at least two parts'),
        (['optimal'], [], 'the hybrid has 1 part and 0 noise levels'),
        (
            ['optimal', constant(0, size=8)],
            [1.0],
            'match, but optimal has 4×4×1 and 3 classes, and _Func.* has 8×8×1 and 0 classes',
        ),
        (['optimal', constant(0, label_dim=5)], [1.0], 'and 3 classes, and .* and 5 classes'),
    ],
)
def test_parts_and_levels_that_do_not_match_are_refused(parts, levels, message):
    with pytest.raises(UserError, match=message):
        HybridDenoiser(IMAGES, LABELS, parts=parts, levels=levels)


def test_parameters_in_names_are_converted_to_their_types(tmp_path):
    assert read_name('local:window=5,precision=fp64') == ('local', {'window': 5, 'precision': 'fp64'})
    assert read_name('patch:mirror=0,window=3') == ('patch', {'mirror': False, 'window': 3})
    assert read_name('pca-locality:tau=0.1') == ('pca-locality', {'tau': 0.1})
    assert read_name('local:window=table.json') == ('local', {'window': 'table.json'})
    assert read_name('optimal') == ('optimal', {})
    network = tmp_path / 'network.safetensors'
    network.touch()
    text = f'hybrid:local:window=5>4>{network}>0.5>patch:window=table.json'
    assert read_name(text)[1] == {
        'parts': ['local:window=5', str(network), 'patch:window=table.json'],
        'levels': [4.0, 0.5],
    }
    assert [path.name for path in files_of(text)] == ['network.safetensors', 'table.json']
    smoothed = make_denoiser('smoothed:draws=3,smoothing=0.5', IMAGES)
    assert isinstance(smoothed, SmoothedDenoiser)
    assert len(smoothed.noise) == 3
    assert isinstance(make_denoiser('local:window=1', IMAGES), LocalScoreDenoiser)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('grey', '`denoiser`=grey: no such closed form; choose one of optimal, gaussian, smoothed'),
        ('local:tau=1', '`tau`: the local denoiser does not have this parameter'),
        ('local:images=1', '`images`: the local denoiser does not have this parameter'),
        ('gaussian:rank=half', '`rank`=half is not a valid number for this parameter of the gaussian'),
        ('gaussian:rank=2.5', '`rank`=2.5 is not a valid number for this parameter'),
        ('patch:mirror=yes', '`mirror`=yes'),
        ('hybrid:optimal>gaussian>4', r'parts must be separated by noise levels, as in optimal>4>FILE'),
        ('hybrid:optimal>1>gaussian>4>optimal', 'in descending order'),
        ('hybrid:optimal>nan>gaussian', 'in descending order'),
        ('hybrid:optimal>4>none.pkl', 'none.pkl is neither a closed form nor a network file'),
        ('hybrid:optimal', 'the hybrid has 1 part'),
    ],
)
def test_wrong_names_give_a_one_sentence_error(text, message):
    with pytest.raises(UserError, match=message):
        make_denoiser(text, IMAGES)


def test_a_rank_above_the_number_of_images_or_pixel_values_is_refused():
    with pytest.raises(
        UserError, match='the covariance of 20 images with 16 values each has rank at most 16; give 1 to 16'
    ):
        make_denoiser('gaussian:rank=17', IMAGES)
    with pytest.raises(UserError, match='rank at most 9'):
        GaussianDenoiser(IMAGES[:9], rank=10)
