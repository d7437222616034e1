"""Writes one PNG per generated image, and a table of the nearest training images."""

from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from dnnlib.typed import read_json
from dnnlib.util import counted, write_json
from evaluation.folder_settings import require_settings, write_settings
from evaluation.given_images import ImageSet
from evaluation.image_table import TABLE_NAME, rows_of, write_image_table
from evaluation.memorization import Memorization
from evaluation.one_pass import Consumer, Context
from evaluation.pictures import image_path, save_images
from evaluation.records import format_seeds
from training.sampling import GeneratedBatch

# The settings of the table, in the folder of the images.
TABLE_SETTINGS = 'nearest.json'


class PngFiles(Consumer):
    """Writes images on the rank that sampled them, in a folder named after the snapshot's kimg."""

    context: Context

    @classmethod
    def wanted(cls, context: Context) -> bool:
        return context.image_root is not None

    @property
    def folder(self) -> Path:
        assert self.context.image_root is not None
        return self.context.image_root / f'images-{Path(self.context.name).stem.split("-")[-1]}'

    def is_finished(self) -> bool:
        """Whether the folder has all images and their table.

        Raises UserError if its images have other settings or another layout.
        """
        settings, remedy = self.context.image_settings, 'move or delete this folder'
        require_settings(self.folder, settings, self.context.subdirs, where=str(self.folder), remedy=remedy)
        paths = [image_path(self.folder, seed, self.context.subdirs) for seed in self.context.seeds]
        known = read_json(self.folder / TABLE_SETTINGS, dict[str, Any])
        return known == self.table_settings and all(path.exists() for path in (*paths, self.folder / TABLE_NAME))

    @property
    def table_settings(self) -> dict[str, Any]:
        """Everything that determines the table, in addition to the settings of the images."""
        assert self.context.training_set is not None
        compared = {'dataset_sha256': self.context.training_set.sha256, 'xflip': self.context.training_set.mirrored}
        return {'seeds': format_seeds(self.context.seeds), **compared}

    def take(self, batch: GeneratedBatch) -> dict[str, Tensor]:
        write_settings(self.folder, self.context.image_settings)
        save_images(batch.images, batch.seeds, self.folder, self.context.subdirs)
        return {}

    def finish(self, images: ImageSet, result: Memorization) -> dict[str, Any]:
        assert self.context.training_set is not None
        names = self.context.training_set.original_names
        (self.folder / TABLE_SETTINGS).unlink(missing_ok=True)  # while the table is replaced
        write_image_table(self.folder / TABLE_NAME, rows_of(images, result, names))
        write_json(self.folder / TABLE_SETTINGS, self.table_settings)
        others = sum(1 for _ in self.folder.glob('**/[0-9]*.png')) - len(images)
        if others:
            tqdm.write(
                f'Note: {self.folder} also contains {counted(others, "image")} of other seeds, which {TABLE_NAME} does '
                f'not list.'
            )
        return {}
