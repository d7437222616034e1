"""The two nearest distinct training images of each generated image."""

from torch import Tensor

from evaluation.memorization import Memorization
from evaluation.one_pass import Consumer, Context
from training.sampling import GeneratedBatch


class NearestTwo(Consumer):
    """Compares each image with the training set on the rank that sampled it."""

    context: Context

    def take(self, batch: GeneratedBatch) -> dict[str, Tensor]:
        indices, squared_distances = self.context.training_set.nearest_two(batch.images)
        return {'indices': indices, 'squared_distances': squared_distances}

    def result(self) -> Memorization:
        return self.context.training_set.summarize(self.rows('indices'), self.rows('squared_distances'))
