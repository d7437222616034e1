"""The patch posterior denoiser, compared with its definition."""

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from tests.training.closed_form import brute_force
from tests.training.closed_form.brute_force import check, mixed_images, queries, relative_error
from tests.training.closed_form.ranks import on_ranks
from training.closed_form import PatchDenoiser, streamed


@pytest.mark.parametrize('sigma', [0.002, 0.05, 0.3, 1.0, 5.0, 80.0])
@pytest.mark.parametrize(
    ('count', 'channels', 'size', 'window'),
    [(50, 3, 4, 3), *((12, 1, 8, window) for window in range(1, 9)), (9, 3, 7, 2), (1, 3, 4, 3), (2, 1, 5, 5)],
)
def test_each_pixel_averages_the_posterior_means_of_all_patches_containing_it(count, channels, size, window, sigma):
    images = mixed_images(count, channels, size)
    x = queries(images, sigma)
    for mirror in (True, False):
        expected = brute_force.patches(images, x, sigma, window, mirror)
        for precision in ('fp32', 'fp64'):
            check(PatchDenoiser(images, window=window, mirror=mirror, precision=precision), x, sigma, expected)


@pytest.mark.parametrize('window', [3, 5])
def test_the_result_does_not_depend_on_block_size_batch_or_ranks(window, monkeypatch):
    images, sigma = mixed_images(23, 3, 5), 0.4
    x = queries(images, sigma)

    def denoised(rows):
        return PatchDenoiser(rows, window=window, precision='fp64')(x, sigma)

    whole = denoised(images).numpy()
    for numbers in (1, 60, 1 << 30):
        monkeypatch.setitem(streamed.BLOCK_NUMBERS, 'cpu', numbers)
        assert relative_error(denoised(images), whole) < 1e-12
    denoiser = PatchDenoiser(images, window=window, precision='fp64')
    assert relative_error(torch.cat([denoiser(one[None], sigma) for one in x]), whole) < 1e-12
    for ranks in (1, 2, 3):
        results = on_ranks(ranks, images, None, denoised, monkeypatch)
        assert all(torch.equal(results[0], result) for result in results)
        assert relative_error(results[0], whole) < 1e-12


def test_class_labels_select_the_training_images_of_a_class(monkeypatch):
    images, labels = mixed_images(20, 1, 5), torch.arange(20) * 7 % 3
    x, sigma, classes = queries(images, 0.5), 0.5, torch.tensor([2, 0, 2, 1])
    expected = np.concatenate(
        [brute_force.patches(images[labels == c], x[i : i + 1], sigma, 3, True) for i, c in enumerate(classes)]
    )

    def denoised(rows):
        return PatchDenoiser(rows, labels, window=3, precision='fp64')(x, sigma, classes)

    assert relative_error(denoised(images), expected) < 1e-10
    for result in on_ranks(3, images[labels.argsort()], labels.sort().values, denoised, monkeypatch):
        assert relative_error(result, expected) < 1e-10  # each rank has one class


def test_patches_by_noise_level_are_scaled_to_the_resolution():
    at = lambda size, sigma: PatchDenoiser(mixed_images(1, 1, size)).windows.at(sigma)  # noqa: E731
    assert [at(32, sigma) for sigma in (80, 8.4, 5.3, 3.3, 1.9, 1.1, 0.6, 0.3, 0.002)] == [
        32,
        32,
        23,
        15,
        11,
        7,
        5,
        3,
        3,
    ]
    assert [at(64, sigma) for sigma in (80, 5.3, 0.002)] == [64, 46, 6]
    assert [at(8, sigma) for sigma in (80, 5.3, 3.3, 0.002)] == [8, 6, 4, 3]


def test_a_patch_larger_than_the_image_is_refused():
    with pytest.raises(UserError, match='`window`=9 does not fit in the 8×8 images; give 1 to 8'):
        PatchDenoiser(mixed_images(2, 1, 8), window=9)
