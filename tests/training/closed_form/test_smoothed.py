"""The smoothed denoiser, compared with its definition."""

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from tests.training.closed_form import brute_force
from tests.training.closed_form.brute_force import check, mixed_images, queries, relative_error
from tests.training.closed_form.ranks import on_ranks
from training.closed_form import OptimalDenoiser, SmoothedDenoiser
from training.sampling import StackedRandomGenerator, edm_sampler


@pytest.mark.parametrize('sigma', [0.002, 0.3, 1.0, 5.0, 80.0])
@pytest.mark.parametrize(
    ('count', 'channels', 'size', 'draws'), [(50, 3, 4, 3), (9, 1, 8, 2), (1, 1, 4, 1), (2, 3, 5, 4)]
)
def test_the_smoothed_denoiser_averages_the_optimum_around_the_noisy_image(count, channels, size, draws, sigma):
    images = mixed_images(count, channels, size)
    x = queries(images, sigma)
    for precision in ('fp32', 'fp64'):
        denoiser = SmoothedDenoiser(images, draws=draws, smoothing=0.5, precision=precision)
        noise = denoiser.noise  # has standard deviation 0.5
        points = [x + sigma * one for one in noise]
        check(denoiser, x, sigma, np.mean([brute_force.optimum(images, point, sigma) for point in points], axis=0))


def test_the_draws_are_standard_normal_and_depend_on_the_seed():
    images = mixed_images(1, 3, 32)
    noise = SmoothedDenoiser(images, draws=8, smoothing=2.0).noise
    assert noise.shape == (8, 3, 32, 32)
    assert abs(float(noise.std()) - 2) < 0.05
    assert abs(float((noise[0] * noise[1]).mean())) < 0.3
    assert torch.equal(SmoothedDenoiser(images, draws=3, smoothing=2.0).noise, noise[:3])
    assert not torch.equal(SmoothedDenoiser(images, draws=8, smoothing=2.0, seed=1).noise, noise)


def test_without_smoothing_it_equals_the_optimum_and_with_smoothing_it_blends_images():
    images = mixed_images(20, 1, 6)
    latents = StackedRandomGenerator('cpu', range(6)).randn([6, 1, 6, 6])
    sample = lambda denoiser: edm_sampler(denoiser, latents, num_steps=9)  # noqa: E731
    optimum = sample(OptimalDenoiser(images))
    assert torch.allclose(sample(SmoothedDenoiser(images, smoothing=0.0)), optimum, atol=1e-5)
    distances = torch.cdist(
        sample(SmoothedDenoiser(images, smoothing=3.0)).flatten(1), images.flatten(1).double() / 127.5 - 1
    )
    assert float(distances.amin(dim=1).max()) > 0.1


def test_the_smoothed_denoiser_supports_ranks_classes_and_several_noise_levels(monkeypatch):
    images, labels = mixed_images(20, 1, 5), torch.arange(20) * 7 % 3
    x, classes, sigmas = queries(images, 0.5), torch.tensor([2, 0, 2, 1]), torch.tensor([0.1, 0.3, 2.0, 5.0])
    denoiser = SmoothedDenoiser(images, labels, precision='fp64')
    alone = torch.cat([denoiser(x[i : i + 1], sigmas[i], classes[i : i + 1]) for i in range(4)])
    assert relative_error(denoiser(x, sigmas, classes), alone.numpy()) < 1e-12
    for count in (2, 3):
        for result in on_ranks(
            count,
            images,
            labels,
            lambda rows: SmoothedDenoiser(rows, precision='fp64')(x, sigmas, classes),
            monkeypatch,
        ):
            assert relative_error(result, alone.numpy()) < 1e-12


@pytest.mark.parametrize(
    ('parameters', 'message'),
    [
        ({'draws': 0}, '`draws`=0 is too small; give at least 1'),
        ({'smoothing': -1}, '`smoothing`=-1 is negative; give at least 0'),
    ],
)
def test_wrong_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        SmoothedDenoiser(mixed_images(2, 1, 4), **parameters)
