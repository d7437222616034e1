import math

import pytest
import torch

from tests.training.published import Case, relative_error
from training.loss import EDMLoss, VELoss, VPLoss


@pytest.mark.parametrize(('name', 'loss'), [('vp_ddpmpp_16x16', VPLoss()), ('ve_ncsnpp_16x16_skips', VELoss())])
def test_the_loss_matches_edm(name, loss):
    case = Case(name)
    torch.manual_seed(1234)
    with torch.no_grad():
        result = loss(case.net, case.tensor('in.loss_images'))
    assert relative_error(result, case.tensor('out.loss_seed1234')) < 1e-4


class Recorder:
    """A denoiser that returns zeros and records its arguments."""

    def __call__(self, x, sigma, labels=None, augment_labels=None):
        self.x, self.sigma, self.augment_labels = x, sigma, augment_labels
        return torch.zeros_like(x)


def test_edm_loss_weights_the_squared_error_by_sigma():
    torch.manual_seed(0)
    images, net = torch.randn(2000, 1, 4, 4), Recorder()
    loss = EDMLoss()(net, images)
    sigma = net.sigma.double()
    expected = (sigma**2 + 0.25) / (0.5 * sigma) ** 2 * images.double() ** 2
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    assert float(sigma.log().mean()) == pytest.approx(-1.2, abs=0.1)
    assert float(sigma.log().std()) == pytest.approx(1.2, abs=0.1)


def test_the_noise_has_the_drawn_standard_deviation():
    torch.manual_seed(0)
    net = Recorder()
    VELoss()(net, torch.zeros(500, 1, 16, 16))
    levels = net.x.flatten(1).std(dim=1) / net.sigma.flatten()
    assert float((levels - 1).abs().max()) < 0.2
    assert 0.02 <= float(net.sigma.min()) <= float(net.sigma.max()) < 100


def test_vp_loss_draws_uniform_times():
    torch.manual_seed(0)
    net = Recorder()
    VPLoss()(net, torch.zeros(4000, 1, 1, 1))
    sigma = net.sigma.double().flatten()
    times = ((0.1**2 + 2 * 19.9 * (1 + sigma**2).log()).sqrt() - 0.1) / 19.9
    histogram = torch.histc(times, 4, min=0, max=1)
    assert float((histogram - 1000).abs().max()) < 5 * math.sqrt(1000)


def test_augmented_images_and_augmentation_labels_reach_the_network():
    images, net = torch.ones(3, 1, 2, 2), Recorder()
    labels = torch.arange(27.0).reshape(3, 9)
    loss = VELoss()(net, images, augment_pipe=lambda x: (2 * x, labels))
    assert net.augment_labels is labels
    torch.testing.assert_close(loss, 4 / net.sigma.square().expand_as(loss), rtol=1e-5, atol=0)
