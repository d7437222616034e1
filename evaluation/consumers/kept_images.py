"""Keeps generated images in memory."""

import torch
from torch import Tensor

from evaluation.one_pass import Consumer, Context
from training.sampling import GeneratedBatch


class KeptImages(Consumer):
    """Keeps a generator's images and their classes; ten thousand 32x32 images take 30 MB."""

    @classmethod
    def wanted(cls, context: Context) -> bool:
        return context.keep_images

    def take(self, batch: GeneratedBatch) -> dict[str, Tensor]:
        labels = torch.full([len(batch.seeds)], -1) if batch.class_labels is None else batch.class_labels
        return {'pixels': batch.images.cpu(), 'classes': labels.cpu()}
