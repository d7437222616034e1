"""Training-set geometry, compared with its definitions in naive float64 and with formulas for Gaussian data."""

import math

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from evaluation import geometry as module
from evaluation.geometry import (
    crossing_level,
    gaussian_collapse_level,
    gaussian_information,
    geometry,
    information,
    uncovered_levels,
)
from evaluation.noise_levels import noise_like, to_float64
from tests.helpers import cifar10_pixels, needs_cifar10
from tests.training.closed_form.test_gaussian import random_images
from training.sampling import rho_schedule

TRAINING, HELD_OUT = random_images(50, size=6), random_images(57, size=6)[50:]
LEVELS = [0.05, 0.5, 2.0, 20.0]


def naive_distances(images, positions, sigma):
    """||x + sigma e - x_i||², float64 [N, M], for pixels in [-1, 1]."""
    clean = to_float64(images)
    z = (clean + sigma * noise_like(clean, 4, positions)).flatten(1).numpy()
    return np.square(z[:, None] - to_float64(TRAINING).flatten(1).numpy()).sum(axis=2)


@pytest.mark.parametrize('block', [7, 2048])
def test_all_quantities_equal_their_definitions(monkeypatch, block):
    monkeypatch.setattr(module, 'BLOCK', block)
    positions = range(10, 17)
    found = geometry(TRAINING, TRAINING[10:17], LEVELS, 4, positions)
    y = to_float64(TRAINING).flatten(1).numpy()
    for level, sigma in enumerate(LEVELS):
        squared = naive_distances(TRAINING[10:17], positions, sigma)
        weights = np.exp(-(squared - squared.min(axis=1, keepdims=True)) / (2 * sigma**2))
        weights /= weights.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found.posterior_weight[level], weights.max(axis=1), rtol=1e-9)
        np.testing.assert_allclose(found.effective_number[level], 1 / np.square(weights).sum(axis=1), rtol=1e-9)
        kernel = np.exp(-np.longdouble(squared) / (2 * sigma**2))
        np.testing.assert_allclose(found.log_density[level], np.log(kernel.mean(axis=1)).astype(float), rtol=1e-9)
        between = np.square(y[10:17, None] - y).sum(axis=2)
        between[np.arange(7), np.arange(10, 17)] = np.inf
        coverage = np.exp(-np.longdouble(between) / (2 * sigma**2)).sum(axis=1)
        np.testing.assert_allclose(found.log_coverage[level], np.log(coverage).astype(float), rtol=1e-9)


def test_shell_coverage_equals_its_definition():
    found = geometry(TRAINING, HELD_OUT, LEVELS, 4, held_out=True)
    d, c = 36, 5
    for level, sigma in enumerate(LEVELS):
        radii = np.sqrt(naive_distances(HELD_OUT, range(7), sigma))
        inside = (radii >= sigma * np.sqrt(d - 2 * np.sqrt(c * d))) & (
            radii <= sigma * np.sqrt(d + 2 * np.sqrt(c * d) + 2 * c)
        )
        assert found.in_shell[level].tolist() == inside.any(axis=1).tolist()
    assert 0 < found.in_shell.float().mean() < 1


def test_exact_copies_of_an_image_count_as_covered():
    twice = torch.cat([TRAINING[:5], TRAINING[:1]])
    found = geometry(twice, twice, [0.01])
    np.testing.assert_allclose(found.log_coverage[0, [0, 5]], [0, 0], atol=1e-12)
    assert found.posterior_weight[0].tolist() == pytest.approx([0.5, 1, 1, 1, 1, 0.5])


def test_a_subset_of_the_images_gives_the_same_results_as_the_whole_set():
    whole = geometry(TRAINING, TRAINING, LEVELS)
    part = geometry(TRAINING, TRAINING[20:23], LEVELS, positions=[20, 21, 22])
    np.testing.assert_allclose(part.log_density, whole.log_density[:, 20:23], rtol=1e-12)
    np.testing.assert_allclose(part.log_coverage, whole.log_coverage[:, 20:23], rtol=1e-12)


def test_information_is_0_at_high_noise_and_identifies_the_image_at_low_noise():
    means = information(geometry(TRAINING, TRAINING, [0.001, 1000.0])).mean(dim=1)
    np.testing.assert_allclose(means, [math.log(50), 0], atol=1e-3)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'training': TRAINING / 255}, '`training` must be uint8 .*, not float32'),
        ({'images': TRAINING.numpy() / 255}, '`images` must be uint8 .*, not float64'),
        ({'images': TRAINING.expand(-1, 3, -1, -1)}, '`images`: its images are 6x6 with 3 channels, but `training`'),
        ({'images': TRAINING[..., :4]}, '`images`: its images are 4x6 with 1 channel, but `training`'),
        ({'levels': [0.5, 0]}, r'`levels`=\[0.5, 0\] must be a list of at least one positive, finite noise level'),
        ({'levels': [-1]}, r'`levels`=\[-1\] must be'),
        ({'levels': [math.nan]}, r'`levels`=\[nan\] must be'),
        ({'levels': []}, r'`levels`=\[\] must be'),
        ({'levels': 0.5}, '`levels`=0.5 must be a list'),
        ({'positions': [0, 1]}, r'`positions` has shape \[2\]; give one position for each of the 50 images'),
        ({'positions': range(1, 51)}, '`images` are not the training images at their `positions`'),
        ({'images': HELD_OUT}, '`images` are not the training images at their `positions`; .* held_out=True'),
    ],
)
def test_invalid_arguments_are_named_in_the_error(arguments, message):
    with pytest.raises(UserError, match=message):
        geometry(**{'training': TRAINING, 'images': TRAINING, 'levels': LEVELS, **arguments})


def test_isotropic_gaussian_data_collapses_at_the_analytic_noise_level():
    """Biroli et al.: collapse at time t_C = ln(1 + s² / (n^(2/d) - 1)) / 2, where sigma = sqrt(exp(2 t_C) - 1)."""
    d, n, s = 20, 1000, 0.3
    t = 0.5 * math.log(1 + s**2 / (n ** (2 / d) - 1))
    assert gaussian_collapse_level(np.full(d, s**2), n) == pytest.approx(math.sqrt(math.exp(2 * t) - 1), rel=1e-9)
    np.testing.assert_allclose(gaussian_information(np.full(d, s**2), [s]), [d / 2 * math.log(2)])


def test_training_and_held_out_entropies_meet_near_the_collapse_of_gaussian_data():
    random = np.random.default_rng(0)
    rows = random.normal(127.5, 0.25 * 127.5, [3000, 1, 4, 4]).round().clip(0, 255).astype(np.uint8)
    levels = np.geomspace(0.05, 2, 30).tolist()
    collapse = gaussian_collapse_level(np.full(16, 0.25**2), 2000)
    held_out = information(geometry(rows[:2000], rows[2000:], levels, held_out=True)).mean(dim=1)
    found = crossing_level(levels, held_out.tolist(), math.log(2000))
    assert found == pytest.approx(collapse, rel=0.25)
    expected = gaussian_information(np.full(16, 0.25**2), levels)
    np.testing.assert_allclose(held_out[-8:], expected[-8:], atol=0.05)


def test_a_crossing_is_interpolated_in_the_logarithm_of_the_noise_level():
    assert crossing_level([1, 10, 100], [5, 2, 1], 1.5) == pytest.approx(10**1.5)
    assert crossing_level([100, 10, 1], [1, 2, 5], 2) == pytest.approx(10)
    assert crossing_level([1, 10], [2, 1], 3) is None
    assert crossing_level([1, 10], [2, 1], 1) == 10


def test_isolated_images_lose_their_coverage_at_a_higher_noise_level():
    crowd = torch.full([6, 1, 2, 2], 100, dtype=torch.uint8)
    crowd[:5, 0, 0, 0] += torch.arange(5, dtype=torch.uint8)
    crowd[5] = 200
    levels = np.geomspace(0.001, 10, 40).tolist()
    found = uncovered_levels(levels, geometry(crowd, crowd, levels).log_coverage)
    assert found.argmax() == 5
    # The middle image has two neighbours at distance 1 and two at distance 2. Its local coverage is therefore
    # 2 u + 2 u⁴ with u = exp(-1 / (2 s²)), which is 1 at the level sought.
    u = next(root.real for root in np.roots([2, 0, 0, 2, -1]) if root.imag == 0 and root.real > 0)
    assert found[2] == pytest.approx(1 / math.sqrt(-2 * math.log(u)) / 127.5, rel=0.02)


@pytest.mark.slow
@needs_cifar10
def test_weight_and_coverage_of_1000_cifar10_images_are_both_high_at_two_noise_levels():
    """Of EDM's 18 noise levels, only 3.26 and 1.92 have a mean weight and a shell coverage of at least 0.8.

    Source: Dodson 2026.
    """
    levels = rho_schedule(0.002, 80, 18, 7).tolist()
    training, held_out = (cifar10_pixels(name)[:1000] for name in ('data_batch_1', 'test_batch'))
    weight = geometry(training, training, levels).posterior_weight.mean(dim=1)
    coverage = geometry(training, held_out, levels, held_out=True).in_shell.double().mean(dim=1)
    decided = [f'{sigma:.2f}' for sigma, w, c in zip(levels, weight, coverage, strict=True) if min(w, c) >= 0.8]
    assert decided == ['3.26', '1.92']
