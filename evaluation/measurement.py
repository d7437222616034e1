"""What is computed for an evaluated set in addition to its ratio: metrics, and copies by other rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from evaluation.copy_rules import copies_record, find_copies
from evaluation.evaluation_options import CopyRule
from evaluation.features.extractors import Extractor
from evaluation.metrics import compute_metrics
from evaluation.spaces import FeatureSpace, Rows, Space


@dataclass(frozen=True)
class Compared:
    """A space, and the training set and held-out set (or None) as rows in this space."""

    space: Space
    training: Rows
    test: Rows | None

    @property
    def name(self) -> str:
        return 'features' if isinstance(self.space, FeatureSpace) else 'pixels'


@dataclass(frozen=True)
class Measurement:
    """What to measure. On ranks other than the main rank, sets of extracted features are missing.

    extractor: extracts the features of generated images; None if they are not needed. metrics: names of metrics to
    compute against `metric_sets`. rule: a copy rule to apply against `rule_sets`, or None. settings: everything that
    determines the results except the generated images, as values that JSON can store.
    """

    extractor: Extractor | None = None
    metrics: Sequence[str] = ()
    metric_sets: Compared | None = None
    rule: CopyRule | None = None
    rule_sets: Compared | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def record(self, pixels: Rows, features: Rows | None, nearest_two: tuple[Tensor, Tensor]) -> dict[str, Any]:
        """The record's entries for generated images.

        pixels: the images, uint8 [N, C, H, W]. features: the images' features, float [N, d], or None. nearest_two: the
        images' nearest training images in pixel space; see `evaluation.metrics.distances.Distances`.
        """
        record: dict[str, Any] = {}
        if self.metric_sets is not None:
            sets = self.metric_sets
            rows, known = (pixels, nearest_two) if sets.name == 'pixels' else (features, None)
            assert rows is not None
            metrics = compute_metrics(self.metrics, sets.space, rows, sets.training, sets.test, nearest_two=known)
            record |= {'metrics_space': sets.name, 'metrics': metrics}
        if self.rule_sets is not None:
            assert self.rule is not None
            copies, _ = self.copies(pixels, features)
            record['copies'] = copies_record(self.rule, self.rule_sets.name, copies, self._background)
        return {**(self.extractor.settings if self.extractor else {}), **record}

    def copies(self, pixels: Rows, features: Rows | None) -> tuple[Tensor, Tensor]:
        """Which generated images are copies under the rule, and their nearest training images; see `find_copies`."""
        assert self.rule is not None
        assert self.rule_sets is not None
        rows = pixels if self.rule_sets.name == 'pixels' else features
        assert rows is not None
        return find_copies(self.rule, self.rule_sets.space, rows, self.rule_sets.training)

    @cached_property
    def _background(self) -> Tensor | None:
        """Which held-out images are copies under the rule."""
        test = None if self.rule_sets is None else self.rule_sets.test
        return None if test is None else self.copies(test, test)[0]
