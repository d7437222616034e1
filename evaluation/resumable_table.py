"""The table of nearest training images in a folder of generated images; it is filled while images are generated.

Each rank appends to its own file, so the rows of a killed run are kept; an incomplete last line is dropped.
"""

import contextlib
import csv
import functools
from pathlib import Path

from dnnlib.text_tables import csv_lines, write_text
from evaluation.generators import ClosedFormGenerator
from evaluation.image_table import COLUMNS, TABLE_NAME, ImageRow
from evaluation.memorization import TrainingImages, memorized
from torch_utils import distributed
from training.sampling import GeneratedBatch


class ResumableTable:
    """The rows of `nearest.csv`, by seed, in a folder of images from a closed form."""

    def __init__(self, folder: Path, generator: ClosedFormGenerator):
        self.folder, self.generator = folder, generator
        self.part = folder / f'nearest.rank{distributed.rank()}.csv'

    @functools.cached_property
    def training_images(self) -> TrainingImages:
        """The training images to compare with. Raises UserError if they do not fit in memory."""
        return TrainingImages(self.generator.rows, where=self.generator.source.where, fewest=1)

    def take(self, batch: GeneratedBatch, write: bool) -> None:
        """Compare a batch with the training images. write: whether to append its rows to this rank's file."""
        indices, squared = self.training_images.nearest_two(batch.images)
        if not write:
            return
        classes = [None] * len(batch.seeds) if batch.class_labels is None else batch.class_labels.tolist()
        copies = memorized(squared[:, 0], squared[:, 1]).tolist()
        columns = zip(batch.seeds, classes, indices.tolist(), squared.tolist(), copies, strict=True)
        rows, names = [], self.generator.source.original_names
        for seed, label, (nearest, second), (first, other), copy in columns:
            known = (second, other) if second >= 0 else (None, None)
            file = None if names is None else names[nearest]
            places, distances = (nearest, known[0]), (first, known[1])
            row = ImageRow(self.generator.name, str(seed), label, *places, *distances, copy, first == 0, None, file)
            rows.append(row)
        with open(self.part, 'a', encoding='utf-8', newline='') as file:
            file.write(csv_lines(row.cells for row in rows))

    def read(self) -> dict[int, dict[str, str]]:
        """Move the rows from all ranks' files into the table; return all rows of the table by seed, in seed order."""
        parts, found = sorted(self.folder.glob('nearest.rank*.csv')), {}
        for path in filter(Path.exists, [self.folder / TABLE_NAME, *parts]):
            lines = path.read_text(encoding='utf-8', errors='replace').rpartition('\n')[0].splitlines()
            for line in lines:
                with contextlib.suppress(csv.Error, ValueError):  # skips corrupt and incomplete lines
                    row = dict(zip(COLUMNS, next(csv.reader([line]), []), strict=True))
                    found[int(row['image'])] = row  # raises ValueError for the header
        found = dict(sorted(found.items()))
        if parts:
            write_text(self.folder / TABLE_NAME, csv_lines([COLUMNS, *(row.values() for row in found.values())]))
        for part in parts:
            part.unlink()
        return found
