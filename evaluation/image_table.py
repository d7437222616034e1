"""The table of nearest training images: one row per generated image, with the same columns in every file."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnlib.text_tables import csv_lines, write_text
from evaluation.given_images import ImageSet
from evaluation.memorization import Memorization, first_of_equal_rows

TABLE_NAME = 'nearest.csv'


@dataclass(frozen=True)
class ImageRow:
    """One row of the table; unknown values are None and become empty fields.

    set: name of the generated set. image: the image's seed, file, or position. class_index: the class for which the
    image was generated. nearest, second: positions of the two nearest distinct training images. squared_distance,
    second_squared_distance: the distances to these two images, in squared pixel levels. memorized: whether the image is
    a copy. exact: whether the image equals its nearest training image, or its mirror image if mirrored images count.
    duplicate: whether the image equals an earlier image of its set. nearest_file: name of the file from which the
    nearest training image was originally read.
    """

    set: str
    image: str
    class_index: int | None
    nearest: int
    second: int | None
    squared_distance: int
    second_squared_distance: int | None
    memorized: bool
    exact: bool
    duplicate: bool | None = None
    nearest_file: str | None = None

    @property
    def cells(self) -> list[Any]:
        """The row's values as written to the table; flags are 0 or 1."""
        return [int(value) if isinstance(value, bool) else value for value in dataclasses.astuple(self)]


COLUMNS = tuple(field.name.removesuffix('_index') for field in dataclasses.fields(ImageRow))


def rows_of(images: ImageSet, result: Memorization, original_names: Sequence[str] | None) -> Iterator[ImageRow]:
    """The rows of a set, in the order of its images. original_names: training images' file names, or None."""
    firsts = set(first_of_equal_rows(images.pixels).tolist())
    classes = [-1] * len(images) if images.classes is None else images.classes.tolist()
    columns = zip(
        classes, result.indices.tolist(), result.squared_distances.tolist(), result.memorized.tolist(), strict=True
    )
    for place, (label, (nearest, second), (first, other), copy) in enumerate(columns):
        name, known_label = images.name_of(place), label if label >= 0 else None
        flags = copy, first == 0, place not in firsts
        file = None if original_names is None else original_names[nearest]
        yield ImageRow(images.name, name, known_label, nearest, second, first, other, *flags, file)


def write_image_table(path: Path, rows: Iterable[ImageRow]) -> None:
    """Write a CSV file with a header; the file is written completely or not at all."""
    write_text(path, csv_lines([COLUMNS, *(row.cells for row in rows)]))
