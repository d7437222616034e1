"""Computes metrics, and counts copies under a second rule, in the pass that generates the images."""

from typing import Any

from torch import Tensor

from evaluation.given_images import ImageSet
from evaluation.measurement import Measurement
from evaluation.memorization import Memorization
from evaluation.one_pass import Consumer, Context
from training.sampling import GeneratedBatch


class Measured(Consumer):
    """Extracts features on the rank that sampled a batch, and computes the measurement on the main rank at the end."""

    context: Context

    @classmethod
    def wanted(cls, context: Context) -> bool:
        return context.measurement is not None

    def take(self, batch: GeneratedBatch) -> dict[str, Tensor]:
        extractor = self._measurement.extractor
        return {} if extractor is None else {'features': extractor(batch.images)}

    def finish(self, images: ImageSet, result: Memorization) -> dict[str, Any]:
        features = None if self._measurement.extractor is None else self.rows('features').numpy()
        return self._measurement.record(images.pixels, features, (result.indices, result.squared_distances))

    @property
    def _measurement(self) -> Measurement:
        assert self.context.measurement is not None
        return self.context.measurement
