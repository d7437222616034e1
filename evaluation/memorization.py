"""The memorization ratio: which generated images are copies of training images, and a confidence interval."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from dataset_utils.sources.base import copies_of
from dnnlib.util import UserError, counted
from evaluation.intervals import wilson_interval
from evaluation.neighbors import Images, NeighborIndex
from evaluation.records import FAR
from training.closed_form.rows import ImageRows
from training.dataset import Dataset, pixels_of, require_shape

# An image is a copy if its nearest training image is closer than this fraction of the distance to the second nearest.
THRESHOLD = 1 / 3
# Stands for the squared distance to an image that does not exist.
INFINITE = torch.iinfo(torch.int64).max
REFERENCE_IMAGES = 1000
# Largest number of a training image's near-copies that are recognized.
MOST_NEAR_COPIES = 9


@dataclass(frozen=True, repr=False)
class Memorization:
    """The result of `memorization_ratio` for N images.

    ratio: share of copies. interval: the ratio's 95 % Wilson interval. memorized: which images are copies, bool [N].
    indices: positions of the nearest and second-nearest distinct training images in the original training set, int64
        [N, 2]. For an image that occurs several times, the lowest position is given.
    squared_distances: exact squared distances to these two images, int64 [N, 2], in squared pixel levels.
    num_duplicates: number of training images that equal an earlier one (or its mirror image if mirrored images count).
    mean_distance: mean over images of the distance to the nearest training image (root mean square per pixel), in pixel
        levels.
    """

    ratio: float
    interval: tuple[float, float]
    memorized: Tensor
    indices: Tensor
    squared_distances: Tensor
    num_duplicates: int
    mean_distance: float

    @property
    def num_memorized(self) -> int:
        return int(self.memorized.sum())

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f'Memorization(ratio={self.ratio:.4f}, interval=({low:.4f}, {high:.4f}), '
            f'{self.num_memorized} of {len(self.memorized)} images, mean_distance={self.mean_distance:.2f})'
        )


def memorization_ratio(
    images: Images, references: Images, threshold: float = THRESHOLD, mirrored: bool = False
) -> Memorization:
    """Compute the share of copies among generated images.

    images: generated images, uint8 [N, C, H, W] with N >= 1 and C = 1 or 3. references: training images of the same
    shape, uint8 [M, C, H, W]. threshold: ratio of distances below which an image counts as a copy, in (0, 1]. mirrored:
    whether the model was also trained on mirrored images; the distance to a training image is then the smaller of the
    distances to the image and to its mirror image.
    Raises UserError for arrays of another type or shape, for a threshold out of range, and if fewer than two training
    images are distinct.
    Source: Gu et al. 2023, section 2; the criterion is Yoon et al.'s.
    """
    images, references = pixels_of(images, 'images'), pixels_of(references, 'references')
    require_shape(images.shape[1:], references.shape[1:], '`images`', '`references` are')
    if not 0 < threshold <= 1:
        raise UserError(f'`threshold`={threshold} is out of range; give a ratio above 0 and at most 1')
    training_images = TrainingImages(references, mirrored=mirrored)
    return training_images.summarize(*training_images.nearest_two(images), threshold)


class TrainingImages:
    """Training images prepared for comparison with many batches of images; equal training images count once.

    references: uint8 [M, …], or `ImageRows`. device, mirrored: see `NeighborIndex`. where: the argument and path that
    gave the images, for messages. fewest: the required number of distinct images. Raises UserError if there are fewer.
    """

    def __init__(
        self,
        references: Images | ImageRows,
        device: torch.device | str | None = None,
        where: str = 'the training set',
        mirrored: bool = False,
        fewest: int = 2,
    ):
        self.where, self.mirrored = where, mirrored
        self.index = NeighborIndex(references, device, distinct=True, mirrored=mirrored)
        self.num_pixels, self.num_duplicates = self.index.num_pixels, self.index.num_references - len(self.index)
        if len(self.index) < fewest:
            raise UserError(
                f'{where} has {counted(len(self.index), "distinct image")}; '
                f'the ratio needs at least two, because it compares the distances to the two nearest'
            )

    def nearest_two(self, images: Images) -> tuple[Tensor, Tensor]:
        """Indices and squared distances of the two nearest distinct training images, int64 [N, 2] each, on the CPU.

        If there is only one distinct training image, the second one has index -1 and the largest possible distance.
        """
        index, squared_distance = self.index.query(images, k=min(2, len(self.index)))
        if len(self.index) == 1:
            index, squared_distance = with_column(index, -1), with_column(squared_distance, INFINITE)
        return index.cpu(), squared_distance.cpu()

    def summarize(self, indices: Tensor, squared_distances: Tensor, threshold: float = THRESHOLD) -> Memorization:
        """The ratio and its interval, computed from the output of `nearest_two`."""
        flags = memorized(squared_distances[:, 0], squared_distances[:, 1], threshold)
        per_pixel = (squared_distances[:, 0].double() / self.num_pixels).sqrt()
        return Memorization(
            ratio=int(flags.sum()) / len(flags),
            interval=wilson_interval(int(flags.sum()), len(flags)),
            memorized=flags,
            indices=indices,
            squared_distances=squared_distances,
            num_duplicates=self.num_duplicates,
            mean_distance=float(per_pixel.mean()),
        )


class TrainingSet(TrainingImages):
    """A training set in memory, prepared for an evaluation.

    name, sha256: name and content hash in records. images: uint8 [M, C, R, R]. labels: int64 [M], or None. class_sizes:
    number of images per label, or None. original_names: the files from which images were originally read, or None.
    """

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device | str | None = None,
        where: str = 'the training set',
        mirrored: bool = False,
    ):
        references: Images | ImageRows = dataset.images
        if dataset.on_disk and not mirrored:
            references = ImageRows(dataset.images, None, torch.device(device or 'cpu'), on_disk=True)
        super().__init__(references, device, where, mirrored)
        self.name, self.sha256, self.images = dataset.name, dataset.sha256, dataset.images
        self.labels, self.class_sizes = dataset.labels, dataset.class_sizes
        self.original_names = dataset.original_names

    @property
    def reference_distance(self) -> float:
        """The average distance from a training image to its nearest distinct neighbour (root mean square per pixel).

        At most REFERENCE_IMAGES training images, spread evenly over the set, are compared. Near-copies do not count as
        neighbours. New images of the same kind are at about this distance from the training set.
        """
        return self._spacing[0]

    @property
    def near_share(self) -> float:
        """The share of training images that have near-copies in the set; the ratio can miss copies of these images.

        Near-copies are at most MOST_NEAR_COPIES neighbours closer than THRESHOLD times the next nearest neighbour.
        """
        return self._spacing[1]

    @functools.cached_property
    def _spacing(self) -> tuple[float, float]:
        rows = spread_places(len(self.images), REFERENCE_IMAGES)
        count = min(MOST_NEAR_COPIES + 2, len(self.index))
        parts = (self.images[part] for part in rows.split(self.index.query_size))
        squared = torch.cat([self.index.query(part, count)[1][:, 1:].cpu() for part in parts])  # [:, 0] is itself
        follows_copies = torch.nn.functional.pad(memorized(squared[:, :-1], squared[:, 1:]), (1, 0))
        nearest = squared.gather(1, follows_copies.int().argmax(dim=1, keepdim=True))[:, 0]
        reference_distance = float((nearest.double() / self.num_pixels).sqrt().mean())
        return reference_distance, float(follows_copies.any(dim=1).double().mean())

    def num_far(self, nearest: Tensor) -> int:
        """The number of generated images that are far from any data, like noise.

        Far means that the distance to the nearest training image exceeds FAR = √2 times the reference distance. New
        images from the data distribution are at about the reference distance. An independent error whose root mean
        square equals the reference distance increases their distance by a factor of about √2.
        nearest: squared distances to the nearest training images, int64 [N].
        """
        return int((nearest.double() > (FAR * self.reference_distance) ** 2 * self.num_pixels).sum())


def memorized(nearest: Tensor, second: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Whether generated images are copies: nearest < threshold · second.

    nearest, second: squared pixel distances to the two nearest distinct training images, int64 [N].
    threshold: ratio of distances (not squared), in (0, 1]. If it is at least 0.001, it is converted to the nearest
        fraction with a denominator of at most three digits, so that the comparison uses integers.
    Returns bool [N]. An image at distance 0 is memorized whatever the second distance is.
    """
    if threshold < 0.001:
        return nearest.double().sqrt() < threshold * second.double().sqrt()
    fraction = Fraction(threshold).limit_denominator(999)
    return nearest * fraction.denominator**2 < second * fraction.numerator**2


def spread_places(total: int, count: int) -> Tensor:
    """At most `count` positions, spread evenly from 0 to total - 1, int64."""
    return torch.linspace(0, total - 1, min(count, total), dtype=torch.float64).round().long()


def closest_places(squared_distances: Tensor, count: int) -> Tensor:
    """The positions of at most `count` images, int64, in order of their `closeness` to the copy threshold."""
    return closeness(squared_distances).argsort(stable=True)[:count]


def closeness(squared_distances: Tensor) -> Tensor:
    """Each image's distance from the copy threshold: |log(d1 / d2 / threshold)|, infinite for an exact copy.

    squared_distances: int64 [N, 2]. Returns float64 [N].
    """
    nearest, second = squared_distances.double().unbind(1)
    return (0.5 * (nearest / second).log() - np.log(THRESHOLD)).abs()


def with_column(values: Tensor, value: int) -> Tensor:
    """Append a constant second column to values [N, 1]."""
    return torch.cat([values, torch.full_like(values, value)], dim=1)


def first_of_equal_rows(rows: Iterable[np.ndarray]) -> Tensor:
    """The positions of all rows that do not equal an earlier row, in ascending order, int64."""
    return torch.tensor(copies_of(rows), dtype=torch.int64).unique()
