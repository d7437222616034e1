import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from evaluation.metrics.frechet import Moments, frechet_distance, moments
from evaluation.metrics.kernel_distance import kernel_distance
from evaluation.spaces import FeatureSpace
from tests.evaluation.naive import metric, random_sets


def features(count, dimension=12, seed=0):
    """Correlated features whose mean is not 0."""
    random = np.random.default_rng(seed)
    return random.normal(size=(count, dimension)) @ random.normal(size=(dimension, dimension)) + random.normal() + 3


def plainly(a, b):
    """Fréchet distance from the eigenvalues of the product of both covariances, as torch-fidelity computes it."""
    A, B = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(A @ B).astype(complex)).real.sum()
    return np.square(a.mean(axis=0) - b.mean(axis=0)).sum() + np.trace(A + B) - 2 * roots


@pytest.mark.parametrize(('count', 'other'), [(60, 45), (7, 45), (45, 7), (7, 9), (2, 2)])
def test_the_distance_is_exact_for_few_and_for_many_images(count, other):
    a, b = features(count), features(other, seed=1)
    # In `plainly`, the square root of an eigenvalue near 0 has half as many correct digits as the eigenvalue.
    assert frechet_distance(a, b) == pytest.approx(plainly(a, b), rel=1e-9 if min(count, other) > 12 else 1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(moments(a), moments(b)), rel=1e-9)


@pytest.mark.parametrize('count', [5, 12, 13, 60])
def test_a_set_has_distance_0_to_itself_in_any_order(count):
    a = features(count)
    scale = np.trace(np.atleast_2d(np.cov(a, rowvar=False)))
    assert frechet_distance(a, a) <= 1e-12 * scale
    assert frechet_distance(a, a[::-1]) <= 1e-12 * scale
    assert frechet_distance(moments(a), a) <= 1e-12 * scale


@pytest.mark.parametrize('dimension', [3, 400])
def test_the_distance_of_two_gaussians_equals_the_analytic_distance(dimension):
    """The last check compares sets of four images, chosen such that their covariances are diagonal."""
    variances, others = np.linspace(1, 4, dimension), np.linspace(3, 0, dimension)
    mean = np.arange(dimension) / dimension
    expected = np.square(mean).sum() + np.square(np.sqrt(variances) - np.sqrt(others)).sum()
    a, b = Moments(None, mean, np.diag(variances)), Moments(None, np.zeros(dimension), np.diag(others))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt(3 / 4)  # unit variance in two directions
    low = np.zeros([2, 4, dimension])
    low[0, :, :2], low[1, :, :2] = signs * [2, 5], signs * [4, 1]
    low[1] += 1
    assert frechet_distance(*low) == pytest.approx(dimension + 4 + 16, rel=1e-12)


def test_moments_do_not_depend_on_the_block_size(monkeypatch):
    a = features(50).astype(np.float32)
    monkeypatch.setattr('evaluation.metrics.frechet._BLOCK', 7)
    found = moments(a)
    np.testing.assert_allclose(found.mean, a.astype(np.float64).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(a.astype(np.float64), rowvar=False), rtol=1e-12)


def test_fewer_than_two_images_and_unequal_numbers_of_features_are_refused():
    with pytest.raises(UserError, match='1 image: a covariance needs at least two'):
        frechet_distance(features(1), features(5))
    with pytest.raises(UserError, match='12 and 3 features per image; compare images of the same size'):
        frechet_distance(features(5), features(5, 3))


@pytest.mark.parametrize('distance', [frechet_distance, kernel_distance])
@pytest.mark.parametrize('count', [9, 30])
def test_tensors_are_accepted_and_other_values_refused(distance, count):
    a, b = features(count), features(count, seed=1)
    assert distance(torch.from_numpy(a), torch.from_numpy(b)) == distance(a, b)
    for wrong in (np.where(a == a[2], np.nan, a), np.where(a == a[2], np.inf, a), a[0], a[..., None]):
        with pytest.raises(UserError, match=r'features must be finite numbers \[N, d\], not float64 \['):
            distance(a, wrong)


def test_the_difference_compares_sets_of_equal_size():
    generated, training, test = random_sets(256, 60, 50, 20)
    found = metric('frechet', FeatureSpace(), generated, training, test)
    assert (found['num_generated'], found['num_training'], found['num_test']) == (60, 50, 20)
    a, b, c = (images.reshape(len(images), -1).astype(np.float64) for images in (generated, training, test))
    assert found['to_training'] == pytest.approx(plainly(a, b))
    assert found['to_test'] == pytest.approx(plainly(a, c))
    assert (found['num_equal'], found['equal_to_test']) == (20, found['to_test'])
    same = metric('frechet', FeatureSpace(), generated, test[::-1], test)
    assert same['difference'] == pytest.approx(0, abs=1e-6)
    chosen = np.random.default_rng(0).choice(50, 20, replace=False)
    assert found['difference'] == pytest.approx(plainly(a, c) - plainly(a, b[chosen]))
    assert metric('frechet', FeatureSpace(), generated, training)['to_test'] is None
    assert found['equal_to_training'] == pytest.approx(plainly(a, b[chosen]))
    large = metric('frechet', FeatureSpace(), generated, test, training)
    chosen = np.random.default_rng(0).choice(50, 20, replace=False)
    assert (large['num_test'], large['num_equal']) == (50, 20)
    assert large['to_test'] == pytest.approx(plainly(a, b))
    assert large['difference'] == pytest.approx(plainly(a, b[chosen]) - plainly(a, c))
