"""The PCA-locality denoiser, compared with its definition."""

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from tests.training.closed_form import brute_force
from tests.training.closed_form.brute_force import check, mixed_images, queries, relative_error
from tests.training.closed_form.ranks import on_ranks
from training.closed_form import PCALocalityDenoiser, pca_locality


@pytest.mark.parametrize('tau', [None, 0.3])
@pytest.mark.parametrize('sigma', [0.002, 0.01, 0.05, 0.3, 1.0, 5.0, 80.0])
@pytest.mark.parametrize(('count', 'channels', 'size'), [(50, 3, 4), (50, 1, 6), (30, 1, 4), (9, 1, 8), (2, 3, 4)])
def test_each_pixel_is_its_posterior_mean_given_the_correlated_pixels(count, channels, size, sigma, tau):
    images = mixed_images(count, channels, size)
    x = queries(images, sigma)
    expected = brute_force.pca_locality(images, x, sigma, 0.05 if tau is None else tau)
    for precision in ('fp32', 'fp64'):
        check(PCALocalityDenoiser(images, tau=tau, precision=precision), x, sigma, expected)


def test_a_training_set_of_one_image_is_denoised_to_that_image():
    images = mixed_images(1, 3, 4)
    found = PCALocalityDenoiser(images)(queries(images, 1.0), 1.0)
    assert relative_error(found, brute_force.data(images).repeat(4, axis=0)) < 1e-12


@pytest.mark.parametrize('count', [11, 50])
def test_the_result_does_not_depend_on_block_size_batch_or_ranks(count, monkeypatch):
    images, sigma = mixed_images(count, 1, 4), 0.4
    x = queries(images, sigma)

    def denoised(rows):
        return PCALocalityDenoiser(rows, precision='fp64')(x, sigma)

    whole = denoised(images).numpy()
    denoiser = PCALocalityDenoiser(images, precision='fp64')
    assert relative_error(torch.cat([denoiser(one[None], sigma) for one in x]), whole) < 1e-12
    for ranks in (1, 2, 3):
        results = on_ranks(ranks, images, None, denoised, monkeypatch)
        assert all(torch.equal(results[0], result) for result in results)
        assert relative_error(results[0], whole) < 1e-10
    monkeypatch.setattr(pca_locality, 'BLOCK_IMAGES', 3)
    monkeypatch.setattr(pca_locality, 'MASK_ENTRIES', 0)
    assert relative_error(denoised(images), whole) < 1e-12


def test_each_class_uses_its_own_covariance_and_images(monkeypatch):
    images, labels = mixed_images(40, 1, 4), torch.arange(40) * 7 % 3
    x, sigma, classes = queries(images, 0.5), 0.5, torch.tensor([2, 0, 2, 1])
    expected = np.concatenate(
        [brute_force.pca_locality(images[labels == c], x[i : i + 1], sigma, 0.05) for i, c in enumerate(classes)]
    )
    assert relative_error(PCALocalityDenoiser(images, labels)(x, sigma, classes), expected) < 1e-6
    for result in on_ranks(2, images, labels, lambda rows: PCALocalityDenoiser(rows)(x, sigma, classes), monkeypatch):
        assert relative_error(result, expected) < 1e-6


def test_the_default_threshold_is_the_published_one_for_the_resolution():
    assert PCALocalityDenoiser(mixed_images(1, 3, 32)).tau == 0.05
    assert PCALocalityDenoiser(mixed_images(1, 1, 64)).tau == 0.02
    with pytest.raises(UserError, match='`tau`=2 is out of range; give a number from 0 to 1'):
        PCALocalityDenoiser(mixed_images(2, 1, 4), tau=2)


def test_the_error_for_too_little_memory_gives_the_bytes_of_the_covariance(monkeypatch):
    denoiser = PCALocalityDenoiser(mixed_images(20, 1, 4))
    monkeypatch.setattr('torch_utils.misc.free_bytes', lambda _: 1000)
    with pytest.raises(
        UserError, match='the covariance matrix and its eigenvectors need 6,144 bytes on cpu, but only 1,000 are free'
    ):
        denoiser(torch.zeros(1, 1, 4, 4), 1.0)
