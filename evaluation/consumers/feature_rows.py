"""The features of each generated image."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from evaluation.features.extractors import Extractor
from evaluation.one_pass import Consumer, Generate, PartialResults, Pass, one_pass, progress_bar
from torch_utils import distributed
from training.sampling import GeneratedBatch


class FeatureRows(Consumer):
    """Extracts features on the rank that has the images; the images are not kept."""

    def __init__(self, context: Pass, extractor: Extractor):
        super().__init__(context)
        self.extractor = extractor

    def take(self, batch: GeneratedBatch) -> dict[str, Tensor]:
        return {'features': self.extractor(batch.images)}


def extract(extractor: Extractor, generate: Generate, seeds: Sequence[int], batch_size: int) -> list[np.ndarray]:
    """Features float32 [N, d] of the images of seeds, in their order, in a list on the main rank; [] on the others."""
    context = Pass(seeds, batch_size)
    rows = FeatureRows(context, extractor)
    with progress_bar(len(seeds)) as bar:
        one_pass(generate, context, {'features': rows}, PartialResults(None, {}), bar)
    return distributed.kept_on_main(lambda: rows.rows('features').numpy())
