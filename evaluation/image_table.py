"""A table with a row for each judged image: its name, its two nearest training images, and what that makes it."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dnnlib.util import atomic_file
from evaluation.given_images import ImageSet
from evaluation.memorization import Memorization, first_of_equal_rows

COLUMNS = ('set', 'image', 'd1', 'd2', 'nearest', 'second', 'memorized', 'exact', 'duplicate')


@dataclass(frozen=True)
class JudgedSet:
    """Images and what was found of them."""

    images: ImageSet
    result: Memorization


def write_image_table(path: Path, sets: Iterable[JudgedSet]) -> None:
    """Write a CSV.

    set: name of the images. image: file in them, number in an array, or seed. d1, d2: Euclidean distances to the
    nearest and second nearest distinct training images, in pixel levels. nearest, second: their places in the training
    set. memorized: copies; exact: equal to the nearest, pixel for pixel; duplicate: equal to an image of the same set
    that stands before it; 0 or 1.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(COLUMNS)
    for judged in sets:
        writer.writerows(_rows(judged))
    with atomic_file(path) as file:
        file.write(text.getvalue().encode('utf-8', 'surrogateescape'))


def _rows(judged: JudgedSet) -> Iterable[list]:
    images, result = judged.images, judged.result
    firsts = set(first_of_equal_rows(images.pixels).tolist())
    distances = result.squared_distances.double().sqrt().tolist()
    for place, (d1, d2) in enumerate(distances):
        flags = [bool(result.memorized[place]), d1 == 0, place not in firsts]
        indices = result.indices[place].tolist()
        yield [images.name, images.name_of(place), d1, d2, *indices, *map(int, flags)]
