"""The Gaussian (Wiener) denoiser: the optimum for a Gaussian with the mean and covariance of a training set.

D(x; sigma) = mu + U diag(l / (l + sigma²)) Uᵀ (x - mu), where U and l are the eigenvectors and eigenvalues of the
covariance. It has no information about single images, so it cannot memorize: a baseline for models that generalize.
Source: Wang and Vastola 2024; Li, Dai and Qu 2024.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import UserError
from training.closed_form.closed_form import ClosedForm
from training.closed_form.rows import READ_ROWS, Images, taken

# Eigenvalues below this share of the largest are rounding errors, and count as 0.
NEGLIGIBLE = 1e-13


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian in pixel units. mean: float64 [P]. directions: float64 [P, r], orthonormal. variances: float64 [r]."""

    mean: Tensor
    directions: Tensor
    variances: Tensor

    def denoise(self, z: Tensor, variance: Tensor) -> Tensor:
        """The posterior mean of noisy rows z float64 [B, P], given the variance of their noise, float64 [B]."""
        shrinkage = self.variances / (self.variances + variance[:, None])  # [B, r]
        return self.mean + (((z - self.mean) @ self.directions) * shrinkage) @ self.directions.t()


class GaussianDenoiser(ClosedForm):
    """D(x; sigma) of the Gaussian with the mean and the covariance (divided by N) of a training set, in float64.

    images: uint8 [N, C, R, R]. labels: int64 [N] or None. With labels, class_labels choose the Gaussian of a class.
    device: where to compute. rank: how many of the largest eigenvalues are kept, the others count as 0; None keeps all.
    A Gaussian is fitted when it is first needed: through the Gram matrix if there are fewer images than pixels.
    Raises UserError as `ClosedForm`, and for a rank below 1.
    """

    def __init__(
        self,
        images: Images,
        labels: Tensor | np.ndarray | None = None,
        device: torch.device | str = 'cpu',
        rank: int | None = None,
    ):
        super().__init__(images, labels, device)
        if rank is not None and rank < 1:
            raise UserError(f'`rank`={rank}: a Gaussian denoiser needs at least one direction')
        self.images, self.rank = images, rank
        self._fitted: dict[int, Gaussian] = {}

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """The denoised images, of x's shape: float64 if x is, else float32.

        x: float [B, C, R, R]; sigma: > 0, a scalar or [B]; class_labels: one-hot [B, label_dim], int64 [B] or None for
        the Gaussian of all classes. Raises UserError for values that are not finite, sigma <= 0, and an empty class.
        """
        z, variance = self._in_pixels(x, sigma)
        classes = self._classes(class_labels, len(x))
        if classes is None:
            return self._as_images(self.gaussian(-1).denoise(z, variance), x)
        for label in classes.unique().tolist():
            rows = classes == label
            z[rows] = self.gaussian(label).denoise(z[rows], variance[rows])
        return self._as_images(z, x)

    def gaussian(self, label: int = -1) -> Gaussian:
        """The Gaussian of a class, or of the whole training set (-1)."""
        if label not in self._fitted:
            self._fitted[label] = self._fit(label)
        return self._fitted[label]

    def _fit(self, label: int) -> Gaussian:
        index = torch.arange(self.num_images)
        if label >= 0:
            assert self.labels is not None
            index = (self.labels.cpu() == label).nonzero()[:, 0]
        num_pixels = self.img_channels * self.img_resolution**2
        total = torch.zeros([num_pixels], dtype=torch.float64, device=self.device)
        for rows in self._blocks(index):
            total += rows.sum(dim=0)  # sums of integers are exact
        mean = total / len(index)
        if len(index) < num_pixels:
            centered = torch.cat(list(self._blocks(index))) - mean  # [N, P]
            variances, vectors = self._largest(centered @ centered.t() / len(index))
            return Gaussian(mean, centered.t() @ vectors / (len(index) * variances).sqrt(), variances)
        products = torch.zeros([num_pixels, num_pixels], dtype=torch.float64, device=self.device)
        for rows in self._blocks(index):
            products.addmm_(rows.t(), rows)
        variances, directions = self._largest(products / len(index) - torch.outer(mean, mean))
        return Gaussian(mean, directions, variances)

    def _blocks(self, index: Tensor) -> Iterator[Tensor]:
        """Images at positions int64 [N] as float64 rows [b, P] of pixels minus 128."""
        for start in range(0, len(index), READ_ROWS):
            block = taken(self.images, index[start : start + READ_ROWS])
            yield block.to(self.device).flatten(1).to(torch.float64) - 128

    def _largest(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """The eigenvalues that count, float64 [r], and their eigenvectors [:, r], of a covariance or Gram matrix."""
        values, vectors = torch.linalg.eigh(matrix)  # ascending
        kept = (values > NEGLIGIBLE * values[-1]).nonzero()[:, 0]
        kept = kept if self.rank is None else kept[-self.rank :]
        return values[kept], vectors[:, kept]
