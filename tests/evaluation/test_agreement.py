"""Agreement between generators, compared with its definitions in naive float64 and with cases worked by hand."""

import numpy as np
import pytest
import torch

from evaluation import agreement
from evaluation.agreement import cosines, nearest_cosines, rms_distances, unrelated
from evaluation.diagnosis.agreement_table import distribution
from evaluation.intervals import wilson_interval
from evaluation.noise_levels import mean_interval
from tests.training.closed_form.test_gaussian import random_images

A, B = random_images(30, channels=3), random_images(50, channels=3)[20:]


def naive_cosine(a: np.ndarray, b: np.ndarray) -> float:
    x, y = (image.astype(np.float64).ravel() for image in (a, b))
    x, y = x - x.mean(), y - y.mean()
    return x @ y / np.sqrt((x @ x) * (y @ y))


def test_the_cosine_of_pixels_is_computed_after_subtracting_each_image_mean():
    expected = [naive_cosine(a, b) for a, b in zip(A.numpy(), B.numpy(), strict=True)]
    np.testing.assert_allclose(cosines(A, B), expected, rtol=1e-12)
    np.testing.assert_allclose(cosines(A, 255 - A), np.full(30, -1), rtol=1e-12)
    np.testing.assert_allclose(cosines(A, A // 2 + 100), np.ones(30), atol=1e-3)
    assert cosines(torch.full_like(A, 7), A).tolist() == [0] * 30


def test_the_cosine_of_features_does_not_subtract_the_mean():
    a, b = np.array([[1.0, 1.0], [3.0, 4.0]]), np.array([[1.0, 0.0], [6.0, 8.0]])
    np.testing.assert_allclose(cosines(a, b), [0.5**0.5, 1])


def test_distances_are_root_mean_squares_on_the_scale_of_0_to_255():
    a, b = np.zeros([2, 1, 2, 2], np.uint8), np.array([[[[3, 3], [3, 3]]], [[[255, 0], [0, 0]]]], np.uint8)
    assert rms_distances(a, b).tolist() == [3, 127.5]


@pytest.mark.parametrize('block', [4, 4096])
def test_the_nearest_image_is_the_one_with_the_largest_cosine(monkeypatch, block):
    monkeypatch.setattr(agreement, 'BLOCK', block)
    table = np.array([[naive_cosine(a, b) for b in B.numpy()] for a in A.numpy()])
    index, cosine = nearest_cosines(A, B)
    assert index.tolist() == table.argmax(axis=1).tolist()
    np.testing.assert_allclose(cosine, table.max(axis=1), rtol=1e-12)
    assert nearest_cosines(A, torch.cat([A, A]))[0].tolist() == list(range(30))


def test_known_similarities_have_the_expected_mean_and_quantiles():
    values = torch.linspace(0, 1, 101, dtype=torch.float64)
    found = distribution(values, threshold=0.9)
    for percentage in (0, 5, 25, 50, 75, 95, 100):
        assert found[f'quantile_{percentage}'] == pytest.approx(percentage / 100)
    assert found['share'] == 10 / 101
    assert (found['share_low'], found['share_high']) == wilson_interval(10, 101)
    mean = mean_interval(values)
    assert (found['mean'], found['mean_low'], found['mean_high']) == (mean.mean, mean.low, mean.high)


def test_unrelated_pairs_have_different_seeds():
    a, b = unrelated(np.arange(3)[:, None], np.arange(3)[:, None])
    assert a.ravel().tolist() == [0, 1, 2]
    assert b.ravel().tolist() == [1, 2, 0]
