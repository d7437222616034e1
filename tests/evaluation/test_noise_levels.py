"""Measurements by noise level, compared with their definitions in naive float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dnnlib.util import UserError
from evaluation.noise_levels import (
    Estimate,
    centred_cosine,
    denoised,
    denoising_error,
    explained_share,
    linearity,
    mean_interval,
    noise_like,
    psnr,
    ratio_interval,
    share_interval,
    squared_distance,
    to_float64,
    trajectory,
)
from tests.helpers import cifar10_pixels, needs_cifar10
from tests.training.closed_form.test_gaussian import random_images
from training.closed_form.gaussian import GaussianDenoiser
from training.optim import OptimalDenoiser
from training.sampling import edm_sampler, rho_schedule

IMAGES = random_images(40)


class Constant:
    """A denoiser that sets every pixel to the class index or, without class labels, to a given value."""

    img_channels, img_resolution, label_dim = 1, 4, 4

    def __init__(self, value: float = 0.0):
        self.value = value

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        if class_labels is None:
            return torch.full_like(x, self.value)
        return class_labels[:, None, None, None].to(x.dtype).expand_as(x)


def naive_optimum(images: Tensor, z: np.ndarray, sigma: float) -> np.ndarray:
    """Output of the optimal denoiser by its definition, [B, P]."""
    y = images.flatten(1).double().numpy() / 127.5 - 1
    logits = -np.square(z[:, None] - y).sum(axis=2) / (2 * sigma**2)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ y


def noisy(images: Tensor, sigma: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clean and noisy images as rows, float64 [N, P] each."""
    clean = to_float64(images)
    z = clean + sigma * noise_like(clean, seed, range(len(images)))
    return clean.flatten(1).numpy(), z.flatten(1).numpy()


@pytest.mark.parametrize('sigma', [0.05, 0.5, 5.0])
def test_the_error_is_the_squared_error_summed_over_pixels(sigma):
    clean, z = noisy(IMAGES[:10], sigma, seed=3)
    expected = np.square(naive_optimum(IMAGES, z, sigma) - clean).sum(axis=1)
    found = denoising_error(OptimalDenoiser(IMAGES, precision='fp64'), IMAGES[:10], sigma, seed=3)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_noise_depends_only_on_the_seed_and_the_position():
    optimum = OptimalDenoiser(IMAGES, precision='fp64')
    whole = denoising_error(optimum, IMAGES, 0.3)
    for batch_size in (1, 7, 64):
        found = squared_distance(denoised(optimum, IMAGES, 0.3, batch_size=batch_size), to_float64(IMAGES))
        np.testing.assert_allclose(found, whole, rtol=1e-9)
    assert not np.allclose(denoising_error(optimum, IMAGES, 0.3, seed=1), whole)
    clean = to_float64(IMAGES)
    assert torch.equal(noise_like(clean[5:9], 2, range(5, 9)), noise_like(clean, 2, range(40))[5:9])
    noise = noise_like(torch.zeros(100, 3, 32, 32), 0, range(100))
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    assert len(noise.flatten(1)[:, 0].unique()) == 100


def test_the_distances_of_the_optimum_to_itself_and_to_the_gaussian_are_exact():
    optimum, sigma = OptimalDenoiser(IMAGES, precision='fp64'), 0.4
    _, z = noisy(IMAGES, sigma)
    y = IMAGES.flatten(1).double().numpy() / 127.5 - 1
    gain = np.cov(y.T, bias=True) @ np.linalg.inv(np.cov(y.T, bias=True) + sigma**2 * np.eye(16))
    wiener = y.mean(axis=0) + (z - y.mean(axis=0)) @ gain.T
    expected = np.square(naive_optimum(IMAGES, z, sigma) - wiener).sum(axis=1)
    results = [denoised(denoiser, IMAGES, sigma) for denoiser in (optimum, optimum, GaussianDenoiser(IMAGES))]
    assert squared_distance(results[0], results[1]).tolist() == [0.0] * 40
    np.testing.assert_allclose(squared_distance(results[0], results[2]), expected, rtol=1e-8)


def test_class_labels_are_passed_to_the_denoiser():
    labels = torch.tensor([3, 0, 1])
    pairs = zip(IMAGES[:3], labels, strict=True)
    expected = [float((to_float64(image) - int(label)).square().sum()) for image, label in pairs]
    by_class: Any = Constant()
    np.testing.assert_allclose(denoising_error(by_class, IMAGES[:3], 1.0, labels=labels), np.array(expected))


@pytest.mark.parametrize(
    ('images', 'sigma', 'labels', 'message'),
    [
        (IMAGES / 255, 1.0, None, r'`images` must be uint8 .*, not float32 \[40, 1, 4, 4\]'),
        (IMAGES[0], 1.0, None, r'`images` must be uint8 .*, not uint8 \[1, 4, 4\]'),
        (IMAGES[:0], 1.0, None, r'`images` must be .* with N >= 1 .*, not uint8 \[0, 1, 4, 4\]'),
        (
            random_images(2, 3),
            1.0,
            None,
            '`images`: its images are 4x4 with 3 channels, but the denoiser takes 4x4 with 1',
        ),
        (random_images(2, 1, 8), 1.0, None, '8x8 with 1 channel, but the denoiser takes 4x4 with 1'),
        (IMAGES, 0.0, None, '`sigma`=0.0 must be positive'),
        (IMAGES, np.ones(2), None, r'`sigma`=\[1. 1.\] must be .* one number for all images'),
        (
            IMAGES,
            1.0,
            torch.tensor([1]),
            r'`labels` must be one integer for each of the 40 images, not int64 \[1\]',
        ),
        (IMAGES, 1.0, torch.full([40], 4), 'the label 4, but the denoiser has 4 classes'),
    ],
)
def test_arguments_that_do_not_fit_the_denoiser_are_named_in_the_error(images, sigma, labels, message):
    denoiser: Any = Constant()
    with pytest.raises(UserError, match=message):
        denoised(denoiser, images, sigma, labels=labels)


@pytest.mark.parametrize(
    'other', [IMAGES, to_float64(IMAGES[:1]), to_float64(IMAGES[0]), to_float64(IMAGES).expand(-1, 3, -1, -1)]
)
def test_distances_between_integers_or_different_shapes_are_refused(other):
    with pytest.raises(UserError, match='`a` and `b` must be floating-point arrays of the same shape'):
        squared_distance(to_float64(IMAGES), other)


def test_distances_between_numpy_arrays_are_computed():
    a, b = to_float64(IMAGES), to_float64(IMAGES.flip(0))
    assert torch.equal(squared_distance(a.numpy(), b.numpy()), squared_distance(a, b))


def test_a_linear_denoiser_has_linearity_1():
    """The Gaussian denoiser is linear for images with mean 0; the optimal denoiser of a few images is not."""
    pairs = torch.cat([IMAGES[:20], 255 - IMAGES[:20]])
    clean = to_float64(pairs)
    z = clean + 0.5 * noise_like(clean, 0, range(40))
    np.testing.assert_allclose(linearity(GaussianDenoiser(pairs), z, 0.5), np.ones(20), rtol=1e-9)

    def optimum(rows: np.ndarray) -> np.ndarray:
        return naive_optimum(pairs, rows, 0.5)

    rows = z.flatten(1).numpy()
    left = optimum((rows[0::2] + rows[1::2]) / math.sqrt(2))
    right = optimum(rows[0::2]) + optimum(rows[1::2])
    cosine = (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    found = linearity(OptimalDenoiser(pairs, precision='fp64'), z, 0.5)
    np.testing.assert_allclose(found, np.abs(cosine), rtol=1e-8)
    assert found.mean() < 0.95
    np.testing.assert_array_equal(linearity(OptimalDenoiser(pairs, precision='fp64'), z[:5], 0.5), found[:2])


def test_the_trajectory_equals_that_of_the_sampler():
    optimum, levels = GaussianDenoiser(IMAGES), rho_schedule(0.002, 80, 18, 7).tolist()
    latents = noise_like(torch.zeros(4, 1, 4, 4, dtype=torch.float64), 0, range(4))
    states = list(trajectory(optimum, latents, levels))
    assert [sigma for sigma, _ in states] == [*levels, 0.0]
    np.testing.assert_array_equal(states[0][1], latents * 80)
    np.testing.assert_allclose(states[-1][1], edm_sampler(optimum, latents), rtol=1e-12)


def test_psnr_equals_a_case_worked_by_hand():
    """For pixels in [-1, 1], a squared error of 0.04 per pixel is 20 dB. A larger error gives a smaller PSNR."""
    found = psnr(Estimate(0.04 * 12, 0.004 * 12, 0.4 * 12), 12)
    assert (found.mean, found.low, found.high) == pytest.approx((20, 10, 30))
    assert psnr(Estimate(0, 0, 0), 12).mean == math.inf


def test_a_ratio_of_means_has_the_expected_value_and_interval():
    a, b = np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0])
    assert ratio_interval(a, b) == Estimate(2, 2, 2)
    assert math.isnan(ratio_interval(a, 0 * b).mean)


@pytest.mark.parametrize('count', [50, 300])
def test_intervals_contain_the_truth_at_their_nominal_rate(count):
    """90 to 99 % of 200 intervals contain the truth for skewed squared errors (chi-square distributed)."""
    random = np.random.default_rng(0)
    samples = random.chisquare(4, [200, count]) / 4
    paired = samples * random.uniform(0.5, 1.5, [200, count])  # also has mean 1, and is correlated with `samples`
    pairs = list(zip(samples, paired, strict=True))
    means = [(mean_interval(x), 1) for x in samples]
    differences = [(mean_interval(x - y), 0) for x, y in pairs]
    ratios = [(ratio_interval(x, y), 1) for x, y in pairs]
    for found in (means, differences, ratios):
        assert 180 <= sum(estimate.low <= truth <= estimate.high for estimate, truth in found) <= 198
    assert mean_interval(np.array([1.0, 3.0])).high == pytest.approx(
        2 + 12.7062047
    )  # Student's t, one degree of freedom


@pytest.mark.slow
@needs_cifar10
def test_held_out_errors_on_cifar10_match_the_published_errors():
    """Errors of the first 1,000 test images are within 2 % of the errors published for the same training set.

    The training set is the first 10,000 training images. The published values are for pixels in [0, 1], so their sigma
    is half as large and their squared error a quarter as large.
    """
    training, held_out = (torch.from_numpy(cifar10_pixels(name)) for name in ('data_batch_1', 'test_batch'))
    published = {GaussianDenoiser: (2.61, 47.50, 162.19), OptimalDenoiser: (99.8, 100.0, 161.9)}
    for closed_form, errors in published.items():
        denoiser = closed_form(training)
        found = [float(denoising_error(denoiser, held_out[:1000], 2 * sigma).mean()) / 4 for sigma in (0.05, 0.853, 10)]
        np.testing.assert_allclose(found, errors, rtol=0.02)


def test_arrays_and_tensors_give_the_same_results():
    values, other = (torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    for function in (centred_cosine, explained_share, squared_distance):
        assert torch.equal(function(values.numpy(), other.numpy()), function(values, other))
    flags = torch.tensor([True, False, True])
    assert share_interval(flags) == share_interval(flags.numpy())


def test_a_path_in_place_of_a_denoiser_is_refused():
    path: Any = 'network-snapshot-000001.safetensors'
    with pytest.raises(UserError, match='`denoiser` must be a denoiser, not str; read a snapshot'):
        denoised(path, IMAGES, 1.0)
