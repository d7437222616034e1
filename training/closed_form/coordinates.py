"""The optimal denoiser in reduced coordinates, for training sets that have fewer images than pixels.

Without churn, every noisy image is a linear combination of the latents z and of earlier denoised images, and each
denoised image is a weighted mean of the training images y_i. Therefore x = a z + sum_i b_i y_i, and the denoiser needs
only the inner products x·y_i. Each sampler step forms linear combinations of noisy and denoised images, and
the numbers a, b_i and x·y_i are combined in the same way. A sampler can therefore update these 2 N + 1 numbers (for N
training images) instead of pixels. Denoising one image then takes N² multiplications, instead of 2 N P for images with
P pixel values. This makes float64 affordable.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torch_utils.misc import widest_float
from training.closed_form.rows import ImageRows
from training.closed_form.streamed import Group
from training.closed_form.sums import SETTLED


class Coordinates:
    """The optimal denoiser for noisy images that are given as coordinates [B, 2 N + 1].

    The coordinates of an image are a, then all b_i, then all x·y_i.
    images: the N training images, not sharded. groups: `Streamed._groups`, which groups noisy images by class.
    """

    sigma_min, sigma_max = 0.0, math.inf

    def __init__(self, images: ImageRows, groups: Callable[[Tensor | None, int], list[Group]]):
        self.num_images, self.keys, self.groups = len(images), images.keys, groups
        self.rows = images.block(0, len(images)).to(torch.float64).mul_(2).add_(1)  # 255 y: odd integers
        self.gram = (self.rows @ self.rows.t()).div_(255**2)  # exact before the division
        self.half_norms = self.gram.diagonal() / 2
        self.rows.div_(255)

    def of(self, latents: Tensor) -> Tensor:
        """Convert latents [B, C, R, R] to coordinates, float64 [B, 2 N + 1]."""
        products = latents.flatten(1).to(self.rows) @ self.rows.t()
        return torch.cat([torch.ones_like(products[:, :1]), torch.zeros_like(products), products], dim=1)

    def images(self, x: Tensor, latents: Tensor) -> Tensor:
        """Convert coordinates back to images [B, C, R, R], in float64 (float32 on a device without float64).

        latents: the latents from which sampling started.
        """
        noise, weights, _ = self._split(x)
        rows = (weights @ self.rows).addcmul_(noise, latents.flatten(1).to(x))
        return rows.reshape(latents.shape).to(widest_float(latents.device)).to(latents.device)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return sigma

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The coordinates of the denoised images; see `OptimalDenoiser.__call__`."""
        return self._denoised(x, sigma, class_labels)[1]

    def settled(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Like `OptimalDenoiser.settled`, but noisy and denoised images are given as coordinates."""
        logits, denoised = self._denoised(x, sigma, class_labels)
        same = self.keys == self.keys[logits.argmax(dim=1, keepdim=True)]
        return self._split(denoised)[1].masked_fill(same, 0).sum(dim=1) < SETTLED, denoised

    def _denoised(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The logits of the training images, float64 [B, N], and the coordinates of the denoised images."""
        logits = (self._split(x)[2] - self.half_norms).div_(sigma.square())
        for group in self.groups(class_labels, len(x)):
            start, stop = group.chosen
            logits[group.rows, :start] = logits[group.rows, stop:] = -math.inf
        denoised = torch.zeros_like(x)
        _, weights, products = self._split(denoised)
        torch.softmax(logits, dim=1, out=weights)
        torch.mm(weights, self.gram, out=products)
        return logits, denoised

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split([1, self.num_images, self.num_images], dim=1)
