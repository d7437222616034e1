"""The held-out loss by noise level, compared with its definition in naive float64."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.closed_form.test_gaussian import random_images
from training.closed_form import GaussianDenoiser
from training.dataset import Dataset
from training.held_out_loss import BINS, HeldOutLoss


class Recorder:
    """A denoiser that returns zeros and records its arguments."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, sigma, class_labels=None):
        self.calls.append((x.clone(), sigma.clone(), class_labels))
        return torch.zeros_like(x)


def evaluator_of(training: Dataset, held_out: Dataset) -> HeldOutLoss:
    return HeldOutLoss(training, held_out, torch.device('cpu'))


def sets(count=100, labels=None):
    images = random_images(2 * count)
    return Dataset('train', images[:count], labels, ''), Dataset('test', images[count:], labels, '')


def test_the_loss_of_each_bin_is_its_weighted_squared_error():
    training, held_out = sets()
    net: Any = Recorder()
    found = evaluator_of(training, held_out).evaluate(net)
    for name, images, calls in (('train', training, net.calls[:8]), ('test', held_out, net.calls[8:])):
        clean = images.images.flatten(1).double().numpy() / 127.5 - 1
        error = np.square(clean).mean(axis=1)  # because the denoised image is 0
        means = []
        for k, (low, high) in enumerate(itertools.pairwise(BINS)):
            sigma = torch.cat([calls[k][1], calls[k + 4][1]]).double().numpy()
            assert ((sigma >= low) & (sigma < high)).all()
            means.append(((sigma**2 + 0.25) / (0.5 * sigma) ** 2 * error).mean())
            noisy = torch.cat([calls[k][0], calls[k + 4][0]]).flatten(1).double().numpy()
            noise = (noisy - clean) / sigma[:, None]
            assert abs(noise.std() - 1) < 0.05
            assert found[f'Loss/{name}_{low:g}_to_{high:g}'] == pytest.approx(means[-1], rel=1e-5)
        assert found[f'Loss/{name}'] == pytest.approx(np.mean(means), rel=1e-5)


def test_each_evaluation_has_the_same_noise_and_does_not_use_the_global_generator():
    evaluator = evaluator_of(*sets())
    torch.manual_seed(5)
    first = evaluator.evaluate(GaussianDenoiser(random_images(30)))
    drawn = torch.rand(3)
    torch.manual_seed(6)
    assert evaluator.evaluate(GaussianDenoiser(random_images(30))) == first
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)


def test_each_image_is_evaluated_with_its_own_class():
    labels = torch.arange(100) % 10
    net: Any = Recorder()
    evaluator_of(*sets(labels=labels)).evaluate(net)
    assert torch.equal(torch.cat([net.calls[0][2], net.calls[4][2]]), labels)


def test_the_gaussian_denoiser_has_a_lower_loss_on_its_training_images():
    training, held_out = sets(12)
    found = evaluator_of(training, held_out).evaluate(GaussianDenoiser(training.images))
    assert found['Loss/train'] < found['Loss/test']
