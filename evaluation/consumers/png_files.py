"""One PNG per image, and a table of their nearest training images."""

from typing import Any

from torch import Tensor

from evaluation.given_images import ImageSet
from evaluation.image_table import TABLE_NAME, rows_of, write_image_table
from evaluation.memorization import Memorization
from evaluation.one_pass import Consumer, Context
from evaluation.pictures import save_images
from training.sampling import GeneratedBatch


class PngFiles(Consumer):
    """Writes the images on the rank that sampled them."""

    @classmethod
    def wanted(cls, context: Context) -> bool:
        return context.image_dir is not None

    def take(self, batch: GeneratedBatch) -> dict[str, Tensor]:
        assert self.context.image_dir is not None
        save_images(batch.images, batch.seeds, self.context.image_dir, self.context.subdirs)
        return {}

    def finish(self, images: ImageSet, result: Memorization) -> dict[str, Any]:
        assert self.context.image_dir is not None
        write_image_table(self.context.image_dir / TABLE_NAME, rows_of(images, result))
        return {}
