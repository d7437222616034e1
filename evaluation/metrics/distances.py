"""What metrics are computed from: distances or features, each made once, when a metric first needs it."""

from functools import cached_property

import numpy as np
from torch import Tensor

from dnnlib.util import UserError
from evaluation.features.saved import Features
from evaluation.spaces import FeatureSpace, Rows, Space

# Neighbours that the balls of precision and recall reach to, as in Naeem et al. 2020.
NEAREST_K = 5


class Inputs:
    """The sets that metrics compare; arguments as for `evaluation.metrics.compute_metrics`."""

    def __init__(
        self,
        space: Space,
        generated: Rows,
        training: Rows,
        test: Rows | None,
        k: int | None = None,
        nearest_two: tuple[Tensor, Tensor] | None = None,
    ):
        self.space, self.sets = space, (generated, training, test)
        self.k, self.nearest_two = k or NEAREST_K, nearest_two

    @cached_property
    def distances(self) -> 'Distances':
        return Distances(self.space, *self.sets, self.k, self.nearest_two)

    @cached_property
    def features(self) -> Features:
        """Raises UserError in pixel space."""
        if not isinstance(self.space, FeatureSpace):
            raise UserError('`metrics`: a metric of features needs `features`, not pixels')
        return Features(*(None if rows is None else np.asarray(rows) for rows in self.sets))  # type: ignore[arg-type]


class Distances:
    """Squared distances between generated, training and test images of a space; int64 in pixels, float64 in features.

    generated [N, …], training [M, …], test [T, …]: rows of the space, N, M, T >= 1, of one shape. k: how many
    neighbours balls reach to. nearest_two: what `evaluation.memorization.TrainingImages.nearest_two` returned for the
    generated images, if already known.
    Raises UserError if rows do not fit the space or one another, or fewer than two training images are distinct.
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
        tests = [] if test is None else [(test, 'test images')]
        for rows, name in [(training, 'training images'), (generated, 'generated images'), *tests]:
            space.validate(rows, name)
            if rows.shape[1:] != training.shape[1:]:
                raise UserError(
                    f'{name}: each is {list(rows.shape[1:])}, and a training one {list(training.shape[1:])}; '
                    f'both must be the same'
                )
        if nearest_two is not None:
            self.nearest_two = nearest_two

    @property
    def test(self) -> Rows:
        if self._test is None:
            raise UserError('no test images were given')
        return self._test

    @cached_property
    def distinct_training(self) -> Tensor:
        """Positions of the distinct training images, int64, ascending."""
        positions = self.space.distinct(self.training)
        if len(positions) < 2:
            raise UserError('training images: only one is distinct; distances to the second nearest need at least two')
        return positions

    @cached_property
    def _training_once(self) -> Rows:
        """Each distinct training image once; the training set itself if no image occurs twice."""
        if len(self.distinct_training) == len(self.training):
            return self.training
        return self.training[self.distinct_training.numpy()]

    @cached_property
    def nearest_two(self) -> tuple[Tensor, Tensor]:
        """For each generated image, the positions of its two nearest distinct training images [N, 2], and distances."""
        index, squared = self.space.nearest(self.generated, self._training_once, 2)
        return self.distinct_training[index], squared

    @cached_property
    def to_test(self) -> Tensor:
        """Distances of generated images to the nearest test image, [N]."""
        return self._nearest(self.generated, self.test)

    @cached_property
    def test_to_training(self) -> Tensor:
        """Distances of test images to the nearest training image, [T]."""
        return self._nearest(self.test, self._training_once)

    @cached_property
    def training_to_generated(self) -> Tensor:
        """Distances of training images to the nearest generated image, [M]."""
        return self._nearest(self.training, self.generated)

    @cached_property
    def test_to_generated(self) -> Tensor:
        """Distances of test images to the nearest generated image, [T]."""
        return self._nearest(self.test, self.generated)

    @cached_property
    def within_training(self) -> Tensor:
        """Distances of training images to the k nearest others, including copies: [M, min(k, M - 1)], ascending."""
        return self._nearest_others(self.training, self.k)

    @cached_property
    def within_distinct_training(self) -> Tensor:
        """Distances of `distinct_training` to the nearest other distinct training image, in their order."""
        if len(self.distinct_training) == len(self.training):
            return self.within_training[:, 0]
        return self._nearest_others(self._training_once, 1)[:, 0]

    @cached_property
    def within_generated(self) -> Tensor:
        """Distances of generated images to the k nearest others: [N, min(k, N - 1)], ascending."""
        return self._nearest_others(self.generated, self.k)

    @cached_property
    def in_training_balls(self) -> tuple[Tensor, Tensor]:
        """In how many open and closed balls of training images each generated image lies, int64 [N] each."""
        return self.space.count_within(self.generated, self.training, self.within_training[:, -1])

    @cached_property
    def in_generated_balls(self) -> tuple[Tensor, Tensor]:
        """In how many open and closed balls of generated images each training image lies, int64 [M] each."""
        return self.space.count_within(self.training, self.generated, self.within_generated[:, -1])

    def _nearest(self, queries: Rows, references: Rows) -> Tensor:
        return self.space.nearest(queries, references, 1)[1][:, 0]

    def _nearest_others(self, rows: Rows, k: int) -> Tensor:
        # Each row finds itself, or a copy, at distance 0 first: whichever it is, the other distances are the same.
        _, squared = self.space.nearest(rows, rows, min(k + 1, len(rows)))
        return squared[:, 1:]
