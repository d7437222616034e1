"""The Gaussian (Wiener) denoiser: optimal for a Gaussian with the training set's mean and covariance.

D(x; sigma) = mu + U diag(l / (l + sigma²)) Uᵀ (x - mu), where U and l are the eigenvectors and eigenvalues of the
covariance. Only the mean and the covariance of the training set enter this formula, so the denoiser cannot memorize
individual images; it serves as a baseline for models that generalize.
Source: Wang and Vastola 2024; Li, Dai and Qu 2024.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dnnlib.util import UserError
from torch_utils.distributed import all_reduce_sum
from torch_utils.misc import require_memory
from training.closed_form.rows import READ_ROWS
from training.closed_form.streamed import Group, Streamed

# Eigenvalues below this fraction of the largest one are rounding errors and are treated as 0.
NEGLIGIBLE = 1e-13


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian in pixel units, in float64.

    mean: [P]. directions: orthonormal principal directions, [P, r]. variances: variances along them, [r].
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor

    def denoise(self, z: Tensor, variance: Tensor) -> Tensor:
        """The posterior mean given noisy rows z and their noise variance (float64 [B, P] and [B])."""
        shrinkage = self.variances / (self.variances + variance[:, None])  # [B, r]
        return self.mean + (((z - self.mean) @ self.directions) * shrinkage) @ self.directions.t()


@dataclass(eq=False, repr=False, kw_only=True)
class GaussianDenoiser(Streamed):
    """The Gaussian denoiser D(x; sigma) with the training set's mean and covariance (normalized by N), in float64.

    rank: number of largest eigenvalues to keep; the rest are set to 0. None keeps all.
    Other arguments: see `Streamed`. With labels, class_labels select the class whose Gaussian is used.
    Each Gaussian is fitted when it is first used. The Gram matrix is used if there are fewer images than pixel values,
    unless the images are sharded.
    Raises UserError for a rank below 1 or above min(N, P), and if the matrices do not fit in memory.
    """

    rank: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        highest = min(self.num_images, self.rows.num_pixels)
        if self.rank is not None and not 1 <= self.rank <= highest:
            raise UserError(
                f'`rank`={self.rank} is out of range: the covariance of {self.num_images} images with '
                f'{self.rows.num_pixels} values each has rank at most {highest}; give 1 to {highest}'
            )
        self._fitted: dict[int, Gaussian] = {}

    def _denoise(self, z: Tensor, variance: Tensor, group: Group) -> Tensor:
        return self.gaussian(group.label).denoise(z, variance)

    def gaussian(self, label: int = -1) -> Gaussian:
        """The Gaussian fitted to a class, or to the complete training set (-1)."""
        if label not in self._fitted:
            self._fitted[label] = self._fit(self._group(label))
        return self._fitted[label]

    def _fit(self, group: Group) -> Gaussian:
        num_pixels = self.rows.num_pixels
        by_gram = group.size < num_pixels and not self.rows.sharded
        side = group.size if by_gram else num_pixels
        needed = 8 * side * (3 * side + 2 * num_pixels * by_gram)
        require_memory(needed, self.rows.device, 'the covariance matrix and its eigenvectors')
        total = torch.zeros([num_pixels], dtype=torch.float64, device=self.rows.device)
        for rows in self._blocks(group, READ_ROWS):
            total += rows.sum(dim=0)  # sums of integers are exact
        mean = (all_reduce_sum(total) if self.rows.sharded else total) / group.size
        if by_gram:
            centered = torch.cat(list(self._blocks(group, READ_ROWS))) - mean  # [N, P]
            variances, vectors = self._largest(centered @ centered.t() / group.size)
            return Gaussian(mean, centered.t() @ vectors / (group.size * variances).sqrt(), variances)
        products = torch.zeros([num_pixels, num_pixels], dtype=torch.float64, device=self.rows.device)
        for rows in self._blocks(group, READ_ROWS):
            products.addmm_(rows.t(), rows)
        products = all_reduce_sum(products) if self.rows.sharded else products
        variances, directions = self._largest(products / group.size - torch.outer(mean, mean))
        return Gaussian(mean, directions, variances)

    def _largest(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest eigenvalues of a matrix and their eigenvectors, float64 [r] and [side, r].

        matrix: a covariance or Gram matrix, [side, side]. Negligible eigenvalues and those beyond `rank` are left out.
        """
        values, vectors = torch.linalg.eigh(matrix)  # ascending
        kept = (values > NEGLIGIBLE * values[-1]).nonzero()[:, 0]
        kept = kept if self.rank is None else kept[-self.rank :]
        return values[kept], vectors[:, kept]
