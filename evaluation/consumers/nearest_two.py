"""Finds the two nearest distinct training images of each generated image."""

from torch import Tensor

from evaluation.memorization import Memorization, TrainingImages
from evaluation.one_pass import Consumer, Context, Pass
from training.sampling import GeneratedBatch


class NearestTwo(Consumer):
    """Compares each image with the training images, on the rank that sampled it.

    training_images: the training images to compare with; if None, those of the context.
    """

    def __init__(self, context: Pass, training_images: TrainingImages | None = None):
        super().__init__(context)
        if training_images is None:
            assert isinstance(context, Context)
            training_images = context.training_set
        self.training_images = training_images

    def take(self, batch: GeneratedBatch) -> dict[str, Tensor]:
        indices, squared_distances = self.training_images.nearest_two(batch.images)
        return {'indices': indices, 'squared_distances': squared_distances}

    def result(self) -> Memorization:
        return self.training_images.summarize(self.rows('indices'), self.rows('squared_distances'))
