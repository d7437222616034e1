"""The inputs of metrics: distances and features, each computed once, when a metric first needs it."""

from functools import cached_property

import numpy as np
from torch import Tensor

from dnnlib.util import UserError
from evaluation.features.saved import Features
from evaluation.spaces import FeatureSpace, Rows, Space

# k in Naeem et al. 2020: an image's ball reaches to its k-th nearest neighbour.
NEAREST_K = 5
# How messages name the sets.
SET_NAMES = ('generated images', 'training images', 'held-out images')


class Inputs:
    """The sets that metrics compare; see `evaluation.metrics.compute_metrics` for the arguments."""

    def __init__(
        self,
        space: Space,
        generated: Rows,
        training: Rows,
        test: Rows | None,
        k: int | None = None,
        nearest_two: tuple[Tensor, Tensor] | None = None,
    ):
        if k is not None and k < 1:
            raise UserError(f'`k`={k} must be at least 1')
        self.space = space
        first, second, third = SET_NAMES
        held_out = None if test is None else _usable(test, third)
        self.sets = (_usable(generated, first), _usable(training, second), held_out)
        self.k, self.nearest_two = k or NEAREST_K, nearest_two

    @cached_property
    def distances(self) -> 'Distances':
        return Distances(self.space, *self.sets, self.k, self.nearest_two)

    @cached_property
    def features(self) -> Features:
        """The features of all sets. Raises UserError in pixel space, and for rows that are not finite features."""
        if not isinstance(self.space, FeatureSpace):
            raise UserError('`metrics`: a metric on features cannot be computed from pixels; give `features`')
        for rows, name in zip(self.sets, SET_NAMES, strict=True):
            if rows is not None:
                self.space.validate(rows, name)
        return Features(*(None if rows is None else np.asarray(rows) for rows in self.sets))  # type: ignore[arg-type]


def _usable(rows: Rows, name: str) -> Rows:
    """Rows that torch accepts: a copy of an array that is a reversed view. Raises UserError for other types."""
    if not isinstance(rows, Tensor | np.ndarray):
        raise UserError(f'{name} must be an array or a tensor, not {type(rows).__name__}')
    is_reversed = isinstance(rows, np.ndarray) and min(rows.strides, default=0) < 0
    return np.ascontiguousarray(rows) if is_reversed else rows


class Distances:
    """Squared distances between generated, training and test images in a space: int64 for pixels, float64 for features.

    generated [N, …], training [M, …], test [T, …]: rows of the space with the same shape; N, M, T >= 1. k: the ball of
    an image reaches to its k-th nearest neighbour in the same set. nearest_two: the output of
    `evaluation.memorization.TrainingImages.nearest_two` for the generated images, if already known.
    Raises UserError if rows do not match the space or each other, or if fewer than two training images are distinct.
    """

    def __init__(
        self,
        space: Space,
        generated: Rows,
        training: Rows,
        test: Rows | None = None,
        k: int = NEAREST_K,
        nearest_two: tuple[Tensor, Tensor] | None = None,
    ):
        self.space, self.k = space, k
        self.generated, self.training = generated, training
        self._test = test
        for rows, name in zip((generated, training, test), SET_NAMES, strict=True):
            if rows is None:
                continue
            space.validate(rows, name)
            if rows.shape[1:] != training.shape[1:]:
                raise UserError(
                    f'{name} have shape {list(rows.shape[1:])}, but training images have shape '
                    f'{list(training.shape[1:])}; both must be the same'
                )
        if nearest_two is not None:
            self.nearest_two = nearest_two

    @property
    def test(self) -> Rows:
        if self._test is None:
            raise UserError('no held-out images were given')
        return self._test

    @cached_property
    def distinct_training(self) -> Tensor:
        """Positions of the distinct training images, int64, ascending."""
        positions = self.space.distinct(self.training)
        if len(positions) < 2:
            raise UserError('there is only one distinct training image, but the second-nearest distance requires two')
        return positions

    @cached_property
    def _training_once(self) -> Rows:
        """Each distinct training image once; the training set itself if no image occurs twice."""
        if len(self.distinct_training) == len(self.training):
            return self.training
        return self.training[self.distinct_training.numpy()]

    @cached_property
    def nearest_two(self) -> tuple[Tensor, Tensor]:
        """The two nearest distinct training images of each generated image.

        The first tensor contains their positions, and the second tensor contains their distances, [N, 2] each.
        """
        index, squared = self.space.nearest(self.generated, self._training_once, 2)
        return self.distinct_training[index], squared

    @cached_property
    def to_test(self) -> Tensor:
        """Distances from generated images to their nearest test images, [N]."""
        return self._nearest(self.generated, self.test)

    @cached_property
    def test_to_training(self) -> Tensor:
        """Distances from test images to their nearest training images, [T]."""
        return self._nearest(self.test, self._training_once)

    @cached_property
    def training_to_generated(self) -> Tensor:
        """Distances from training images to their nearest generated images, [M]."""
        return self._nearest(self.training, self.generated)

    @cached_property
    def test_to_generated(self) -> Tensor:
        """Distances from test images to their nearest generated images, [T]."""
        return self._nearest(self.test, self.generated)

    @cached_property
    def within_training(self) -> Tensor:
        """Distances from training images to their k nearest other training images, ascending: [M, min(k, M - 1)]."""
        return self._nearest_others(self.training, self.k)

    @cached_property
    def within_distinct_training(self) -> Tensor:
        """Distance from each image in `distinct_training` to the nearest other image in `distinct_training`."""
        if len(self.distinct_training) == len(self.training):
            return self.within_training[:, 0]
        return self._nearest_others(self._training_once, 1)[:, 0]

    @cached_property
    def within_generated(self) -> Tensor:
        """Distances from generated images to their k nearest other generated images, ascending: [N, min(k, N - 1)]."""
        return self._nearest_others(self.generated, self.k)

    @cached_property
    def in_training_balls(self) -> tuple[Tensor, Tensor]:
        """For each generated image, how many open and closed balls of training images contain it, int64 [N] each."""
        return self.space.count_within(self.generated, self.training, self.within_training[:, -1])

    @cached_property
    def in_generated_balls(self) -> tuple[Tensor, Tensor]:
        """For each training image, how many open and closed balls of generated images contain it, int64 [M] each."""
        return self.space.count_within(self.training, self.generated, self.within_generated[:, -1])

    def _nearest(self, queries: Rows, references: Rows) -> Tensor:
        return self.space.nearest(queries, references, 1)[1][:, 0]

    def _nearest_others(self, rows: Rows, k: int) -> Tensor:
        # The first neighbour, at distance 0, is the row itself or a duplicate; the other distances are the same in both
        # cases.
        _, squared = self.space.nearest(rows, rows, min(k + 1, len(rows)))
        return squared[:, 1:]
