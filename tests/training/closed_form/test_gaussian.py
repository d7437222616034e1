"""The Gaussian denoiser, compared with its formula in naive float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dnnlib.util import UserError
from training.closed_form import GaussianDenoiser
from training.closed_form.closed_form import ClosedForm
from training.closed_form.rows import ImageRows


def random_images(count: int, channels: int = 1, size: int = 4, seed: int = 0) -> Tensor:
    """Correlated images, uint8 [count, channels, size, size]."""
    random = np.random.default_rng(seed)
    num_pixels = channels * size**2
    mixing = random.normal(size=[num_pixels, num_pixels]) * 12
    rows = random.normal(size=[count, num_pixels]) @ mixing + random.uniform(60, 190, num_pixels)
    return torch.from_numpy(rows.clip(0, 255).astype(np.uint8).reshape(count, channels, size, size))


def wiener(images: Tensor, x: Tensor, sigma: float) -> np.ndarray:
    """The Wiener filter mu + C (C + sigma² I)⁻¹ (x - mu), float64 [B, P]."""
    y = images.flatten(1).numpy().astype(np.float64) / 127.5 - 1
    mean = y.mean(axis=0)
    covariance = (y - mean).T @ (y - mean) / len(y)
    gain = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(y.shape[1]))
    return mean + (x.flatten(1).double().numpy() - mean) @ gain.T


def noisy(shape: list[int], seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize('count', [5, 15, 16, 17, 1000])
@pytest.mark.parametrize('sigma', [0.01, 0.3, 5.0])
def test_the_gaussian_denoiser_is_the_wiener_filter_for_few_and_many_images(count, sigma):
    images, x = random_images(count), noisy([7, 1, 4, 4])
    found = GaussianDenoiser(images)(x, sigma)
    np.testing.assert_allclose(found.flatten(1).numpy(), wiener(images, x, sigma), rtol=0, atol=1e-9)


def test_the_gaussian_denoiser_is_the_posterior_mean_for_gaussian_data():
    """If all pixels are drawn independently from N(m, s²), the posterior mean is m + s² / (s² + sigma²) (x - m)."""
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.normal(120, 25, [100_000, 1, 2, 2]).round().clip(0, 255).astype(np.uint8))
    x, sigma = noisy([5, 1, 2, 2]), 0.2
    mean, variance = 120 / 127.5 - 1, (25 / 127.5) ** 2
    expected = mean + variance / (variance + sigma**2) * (x - mean)
    np.testing.assert_allclose(GaussianDenoiser(images)(x, sigma), expected, atol=0.01)


def test_each_image_may_have_its_own_noise_level():
    images, x = random_images(50), noisy([3, 1, 4, 4])
    sigmas = [0.1, 1.0, 10.0]
    found = GaussianDenoiser(images)(x, torch.tensor(sigmas)).flatten(1).numpy()
    expected = np.concatenate([wiener(images, x[i : i + 1], sigma) for i, sigma in enumerate(sigmas)])
    np.testing.assert_allclose(found, expected, atol=1e-7)  # the noise levels are float32


def test_each_class_uses_the_gaussian_of_its_own_images():
    images, x = random_images(60), noisy([3, 1, 4, 4])
    labels = torch.arange(60) % 3
    denoiser = GaussianDenoiser(images, labels)
    assert denoiser.label_dim == 3
    expected = np.concatenate([wiener(images[labels == c], x[i : i + 1], 0.5) for i, c in enumerate([2, 0, 2])])
    indices = torch.tensor([2, 0, 2])
    one_hot = torch.nn.functional.one_hot(indices, 3).float()
    np.testing.assert_allclose(denoiser(x, 0.5, indices).flatten(1), expected, atol=1e-9)
    np.testing.assert_allclose(denoiser(x, 0.5, one_hot).flatten(1), expected, atol=1e-9)
    np.testing.assert_allclose(denoiser(x, 0.5).flatten(1), wiener(images, x, 0.5), atol=1e-9)
    zeros = torch.zeros(3, 3)
    np.testing.assert_allclose(denoiser(x, 0.5, zeros).flatten(1), wiener(images, x, 0.5), atol=1e-9)


def test_a_limited_rank_keeps_the_largest_eigenvalues():
    images, x, sigma = random_images(200), noisy([4, 1, 4, 4]), 0.4
    y = images.flatten(1).double().numpy() / 127.5 - 1
    values, vectors = np.linalg.eigh(np.cov(y.T, bias=True))
    values[:-3] = 0
    gain = vectors @ np.diag(values / (values + sigma**2)) @ vectors.T
    expected = y.mean(axis=0) + (x.flatten(1).numpy() - y.mean(axis=0)) @ gain
    np.testing.assert_allclose(GaussianDenoiser(images, rank=3)(x, sigma).flatten(1), expected, atol=1e-9)


def test_a_training_set_of_one_image_is_denoised_to_that_image():
    images = random_images(1)
    found = GaussianDenoiser(images)(noisy([2, 1, 4, 4]), 1.0)
    np.testing.assert_allclose(found, (images.double() / 127.5 - 1).expand(2, -1, -1, -1), atol=1e-12)


def test_the_result_has_the_dtype_of_x():
    denoiser = GaussianDenoiser(random_images(10))
    assert denoiser(noisy([1, 1, 4, 4]), 1.0).dtype == torch.float64
    assert denoiser(noisy([1, 1, 4, 4]).float(), 1.0).dtype == torch.float32


def test_wrong_arguments_are_named_in_the_error():
    denoiser = GaussianDenoiser(random_images(10))
    with pytest.raises(UserError, match='sigma must be positive'):
        denoiser(noisy([1, 1, 4, 4]), 0.0)
    with pytest.raises(UserError, match='no labels'):
        denoiser(noisy([1, 1, 4, 4]), 1.0, torch.tensor([0]))
    with pytest.raises(UserError, match='`rank`=0'):
        GaussianDenoiser(random_images(10), rank=0)


def test_a_denoiser_made_from_existing_rows_gives_the_same_result():
    images, labels = random_images(60), torch.arange(60) * 7 % 3
    x, classes = noisy([3, 1, 4, 4]), torch.tensor([2, 0, 2])
    rows = ImageRows(images, labels, torch.device('cpu'))
    assert torch.equal(GaussianDenoiser(rows)(x, 0.5, classes), GaussianDenoiser(images, labels)(x, 0.5, classes))


@pytest.mark.parametrize(
    'given',
    [
        lambda images: images,
        lambda images: images.flip(0).numpy()[::-1],
        lambda images: ImageRows(images, torch.tensor([1, 0, 1, 0, 1]), torch.device('cpu')),
    ],
)
def test_a_new_closed_form_gets_its_images_as_a_tensor(given):
    images = random_images(5)
    found = ClosedForm(given(images)).images
    assert isinstance(found, Tensor)
    assert torch.equal(found, images)
