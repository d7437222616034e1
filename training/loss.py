"""The weighted denoising losses for VP, VE and EDM training.

Each is called as `loss(net, images, labels=None, augment_pipe=None)`, where images y are float [B, C, H, W] in [-1, 1].
It returns weight(sigma) · (D(y + sigma n; sigma) - y)² for each pixel, [B, C, H, W]. Random numbers come from the
global generator of the images' device: first one number per image for sigma, then the augmentation, then the noise n.
Source: Karras et al. 2022, table 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from training.preconditioning import vp_sigma

AugmentPipe = Callable[[Tensor], tuple[Tensor, Tensor]]


class DenoisingLoss:
    """Base class of the three losses, which differ in `draw_sigma` and `weight`."""

    def __call__(
        self, net: Callable, images: Tensor, labels: Tensor | None = None, augment_pipe: AugmentPipe | None = None
    ) -> Tensor:
        sigma = self.draw_sigma(images)
        clean, augment_labels = (images, None) if augment_pipe is None else augment_pipe(images)
        noise = torch.randn_like(clean) * sigma
        denoised = net(clean + noise, sigma, labels, augment_labels=augment_labels)
        return self.weight(sigma) * (denoised - clean) ** 2

    def draw_sigma(self, images: Tensor) -> Tensor:
        """A noise level for each image, [B, 1, 1, 1]."""
        raise NotImplementedError

    def weight(self, sigma: Tensor) -> Tensor:
        return 1 / sigma**2


def _per_image(images: Tensor) -> list[int]:
    return [len(images), 1, 1, 1]


class VPLoss(DenoisingLoss):
    """Draws sigma(t) for a time t that is uniform in (epsilon_t, 1]."""

    def __init__(self, beta_d: float = 19.9, beta_min: float = 0.1, epsilon_t: float = 1e-5):
        self.beta_d, self.beta_min, self.epsilon_t = beta_d, beta_min, epsilon_t

    def draw_sigma(self, images: Tensor) -> Tensor:
        uniform = torch.rand(_per_image(images), device=images.device)
        return vp_sigma(1 + uniform * (self.epsilon_t - 1), self.beta_d, self.beta_min)


class VELoss(DenoisingLoss):
    """Draws sigma log-uniformly from [sigma_min, sigma_max)."""

    def __init__(self, sigma_min: float = 0.02, sigma_max: float = 100):
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def draw_sigma(self, images: Tensor) -> Tensor:
        uniform = torch.rand(_per_image(images), device=images.device)
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** uniform


class EDMLoss(DenoisingLoss):
    """Draws ln sigma from a normal distribution with mean P_mean and standard deviation P_std."""

    def __init__(self, P_mean: float = -1.2, P_std: float = 1.2, sigma_data: float = 0.5):
        self.P_mean, self.P_std, self.sigma_data = P_mean, P_std, sigma_data

    def draw_sigma(self, images: Tensor) -> Tensor:
        normal = torch.randn(_per_image(images), device=images.device)
        return (normal * self.P_std + self.P_mean).exp()

    def weight(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
