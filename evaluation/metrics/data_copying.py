"""The C_T test for data-copying: is the training set nearer to generated images than to test images?

Source: Meehan, Chaudhuri and Dasgupta 2020, "A non-parametric test to detect data-copying in generative models".

Images are compared by the distance to their nearest training image. The Mann-Whitney statistic U counts the pairs
(generated image, test image) in which the generated image is farther away; a tie counts as half. For m generated and n
test images, if the model does not copy,

    Z = (U - mn/2) / sqrt(mn (m + n + 1) / 12)

is approximately normal. Z far below 0 indicates copying: generated images are nearer than test images. Z far above 0
indicates underfitting. `global_z` is Z over all images. A model can copy in one region and underfit in another, so C_T
(`clustered_z`) averages Z over the cells of a partition, weighted by the share of test images in each cell.

Two variants exchange the sets (Stein et al. 2023, and their package dgm-eval). `exchanged`: generated and training
images swap roles, so training images are compared by their distance to generated images; Z far below 0 again indicates
copying. `split_test`: the first half of the test set replaces the training set, and the second half is the test set; a
model that saw neither half cannot copy, so Z far below 0 indicates that its samples are less diverse than the data.

Conventions: no continuity correction, and no variance correction for ties. K-means finds 3 cells, as in dgm-eval, in
the space in which distances are computed (dgm-eval first reduces features to 64 dimensions). It is fitted to a random
sample of the training set with at most 2^25 numbers (10,922 images for CIFAR-10). Distances are computed to all
training images (the authors' code uses only those in the same cell). Cells with fewer than 20 generated or 20 test
images are skipped, because Z is not normal for so few; if all cells are skipped, C_T is None.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.stats
import sklearn.cluster
import torch
from torch import Tensor

from evaluation.metrics.distances import Distances
from evaluation.spaces import Rows, Space

NUM_CELLS = 3
MIN_MEMBERS = 20
_SAMPLE_NUMBERS = 2**25
_ASSIGN_BLOCK = 1024


@dataclass(frozen=True)
class Copying:
    """One comparison of generated and test images.

    global_z: Z over all images. global_p: probability of a Z this low or lower if the model does not copy. clustered_z:
    C_T, or None if no cell has enough images. cell_z: Z in each cell with enough images. cell_share: the number of test
    images in each of these cells, divided by the number of test images in all of them.
    """

    global_z: float
    global_p: float
    clustered_z: float | None
    cell_z: list[float]
    cell_share: list[float]
    num_cells_left_out: int


@dataclass(frozen=True)
class CopyingTest:
    """The test, and its two variants with exchanged sets; `split_test` is None for fewer than two test images."""

    plain: Copying
    exchanged: Copying
    split_test: Copying | None


def from_distances(distances: Distances, seed: int) -> CopyingTest:
    space, generated, test = distances.space, distances.generated, distances.test
    _, nearest_two = distances.nearest_two
    cells = Cells(space, distances.training, seed=seed)
    plain = copying(nearest_two[:, 0], distances.test_to_training, cells.of(generated), cells.of(test), cells.count)
    cells = Cells(space, generated, seed=seed)
    exchanged = copying(
        distances.training_to_generated,
        distances.test_to_generated,
        cells.of(distances.training),
        cells.of(test),
        cells.count,
    )
    return CopyingTest(plain, exchanged, _split_test(space, generated, test, seed) if len(test) > 1 else None)


def _split_test(space: Space, generated: Rows, test: Rows, seed: int) -> Copying:
    half = (len(test) + 1) // 2
    first, second = test[:half], test[half:]
    cells = Cells(space, first, seed=seed)
    generated_to_first, second_to_first = (space.nearest(rows, first, 1)[1][:, 0] for rows in (generated, second))
    return copying(generated_to_first, second_to_first, cells.of(generated), cells.of(second), cells.count)


def copying(
    generated: Tensor, test: Tensor, generated_cells: np.ndarray, test_cells: np.ndarray, num_cells: int
) -> Copying:
    """Compute Z over all images and in each cell.

    generated, test: squared distances from generated and test images to their nearest training images, [m] and [n].
    generated_cells, test_cells: the cell of each image, from 0 to num_cells - 1.
    """
    kept: list[tuple[float, int]] = []
    for cell in range(num_cells):
        ours, theirs = generated[generated_cells == cell], test[test_cells == cell]
        if min(len(ours), len(theirs)) >= MIN_MEMBERS:
            kept.append((mann_whitney_z(ours, theirs), len(theirs)))
    total = sum(count for _, count in kept)
    z = mann_whitney_z(generated, test)
    return Copying(
        global_z=z,
        global_p=float(scipy.stats.norm.cdf(z)),
        clustered_z=sum(z * count for z, count in kept) / total if kept else None,
        cell_z=[z for z, _ in kept],
        cell_share=[count / total for _, count in kept],
        num_cells_left_out=num_cells - len(kept),
    )


def mann_whitney_z(generated: Tensor, test: Tensor) -> float:
    """Z of the Mann-Whitney statistic, negative if generated images have smaller distances.

    generated, test: distances [m] and [n]; m, n >= 1.
    """
    m, n = len(generated), len(test)
    ranks = scipy.stats.rankdata(torch.cat([generated, test]).numpy())  # ties share their mean rank
    u = ranks[:m].sum() - m * (m + 1) / 2
    return float((u - m * n / 2) / math.sqrt(m * n * (m + n + 1) / 12))


class Cells:
    """A partition of a space into at most `count` cells by k-means on references, deterministic for a given seed."""

    def __init__(self, space: Space, references: Rows, count: int = NUM_CELLS, seed: int = 0):
        self.space = space
        size = max(1, _SAMPLE_NUMBERS // math.prod(references.shape[1:]))
        chosen = np.random.default_rng(seed).permutation(len(references))[:size]
        sample = references[np.sort(chosen)]
        self.count = min(count, len(space.distinct(sample)))
        means = sklearn.cluster.KMeans(self.count, n_init=1, random_state=seed, copy_x=False)
        self.means = means.fit(space.vectors(sample))

    def of(self, rows: Rows) -> np.ndarray:
        """The cell of each row: integers [N]."""
        blocks = (rows[start : start + _ASSIGN_BLOCK] for start in range(0, len(rows), _ASSIGN_BLOCK))
        return np.concatenate([self.means.predict(self.space.vectors(block)) for block in blocks])
