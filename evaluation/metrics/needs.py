"""What metrics are computed from: distances, features, or moments of features, each made once, when it is needed."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from dnnlib.util import UserError
from evaluation.features.saved import Features
from evaluation.metrics.distances import NEAREST_K, Distances
from evaluation.spaces import FeatureSpace, Rows, Space


@dataclass(frozen=True)
class Moments:
    """Mean [d] and unbiased covariance [d, d] of `count` features, float64."""

    count: int
    mean: np.ndarray
    covariance: np.ndarray


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
    def distances(self) -> Distances:
        return Distances(self.space, *self.sets, self.k, self.nearest_two)

    @cached_property
    def features(self) -> Features:
        """Raises UserError in pixel space."""
        if not isinstance(self.space, FeatureSpace):
            raise UserError('`metrics`: a metric of features needs `features`, not pixels')
        return Features(*(None if rows is None else np.asarray(rows) for rows in self.sets))  # type: ignore[arg-type]

    @cached_property
    def moments(self) -> tuple[Moments, Moments]:
        """Of generated and training images. Raises UserError in pixel space."""
        return moments(self.features.generated), moments(self.features.training)


def moments(features: np.ndarray) -> Moments:
    """Moments of features [N, d], N >= 2, in float64."""
    rows = features.astype(np.float64)
    return Moments(len(rows), rows.mean(axis=0), np.atleast_2d(np.cov(rows, rowvar=False)))
