"""What metrics are computed from: distances or features, each made once, when it is needed."""

from functools import cached_property

import numpy as np
from torch import Tensor

from dnnlib.util import UserError
from evaluation.features.saved import Features
from evaluation.metrics.distances import NEAREST_K, Distances
from evaluation.spaces import FeatureSpace, Rows, Space


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
