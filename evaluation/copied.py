"""Which training images are copied, how often, and by which generated images."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from dnnlib.text_tables import csv_lines, write_text
from dnnlib.util import counted
from evaluation.given_images import ImageSet
from evaluation.pictures import GALLERY_ROWS, IMAGES_PER_ROW, GalleryEntry, draw_entries, is_mirrored

# training_file: the name of the file from which the training image was originally read.
COLUMNS = 'set', 'training_image', 'training_file', 'class', 'copies', 'images'
# How many classes a summary lists.
MOST_CLASSES = 5


@dataclass(frozen=True)
class CopiedImage:
    """A copied training image: its position, its label (or None), and the positions of its copies.

    places: positions in the generated set.
    """

    position: int
    label: int | None
    places: list[int]


@dataclass(frozen=True)
class CopiedClass:
    """A class: its label, and how many training images, copied training images, and copies it has."""

    label: int
    size: int
    num_copied: int
    copies: int


def copied_images(copies: Tensor, nearest: Tensor, labels: Tensor | None) -> list[CopiedImage]:
    """The copied training images, those with the most copies first.

    copies: whether each generated image is a copy, bool [N]. nearest: the position of each generated image's nearest
    training image, int64 [N]. labels: the training images' labels, int64 [M].
    """
    places: dict[int, list[int]] = {}
    for place in copies.nonzero()[:, 0].tolist():
        places.setdefault(int(nearest[place]), []).append(place)
    ordered = sorted(places.items(), key=lambda item: (-len(item[1]), item[0]))
    return [CopiedImage(image, None if labels is None else int(labels[image]), found) for image, found in ordered]


def copied_classes(copied: Iterable[CopiedImage], labels: Tensor | None) -> list[CopiedClass]:
    """All classes in the training set, those with the most copies first; empty without labels."""
    if labels is None:
        return []
    counts: dict[int, list[int]] = {}
    for image in copied:
        assert image.label is not None
        counts.setdefault(image.label, []).append(len(image.places))
    known = zip(*(values.tolist() for values in labels.unique(return_counts=True)), strict=True)
    classes = [CopiedClass(label, size, len(own := counts.get(label, [])), sum(own)) for label, size in known]
    return sorted(classes, key=lambda entry: (-entry.copies, entry.label))


def copied_record(copied: list[CopiedImage], num_distinct: int, labels: Tensor | None) -> dict[str, Any]:
    """A record's entry on copied training images: their number, their share, and the most copied classes.

    num_distinct: the number of distinct training images; only the first of several equal images counts as copied.
    """
    classes = [entry for entry in copied_classes(copied, labels) if entry.copies][:MOST_CLASSES]
    return {
        'num_images': len(copied),
        'share': len(copied) / num_distinct,
        'classes': [{'class': entry.label, 'copies': entry.copies} for entry in classes],
    }


def files_beside(table: Path) -> tuple[Path, Path]:
    """The table of classes and the gallery that are written next to a table of copied images."""
    return table.with_stem(f'{table.stem}_classes'), table.with_suffix('.png')


def write_copied(
    path: Path,
    sets: Sequence[ImageSet],
    copied: Sequence[list[CopiedImage]],
    labels: Tensor | None,
    original_names: Sequence[str] | None = None,
) -> None:
    """Write a CSV with a row for each copied training image and, if there are labels, a CSV with a row for each class.

    copied: each generated set's copied training images. original_names: the training images' file names, or None.
    The second CSV is written next to the first; see `files_beside`.
    """
    both = list(zip(sets, copied, strict=True))
    rows: Iterable[tuple] = (
        (
            *(images.name, image.position, None if original_names is None else original_names[image.position]),
            *(image.label, len(image.places), ' '.join(map(images.name_of, image.places))),
        )
        for images, found in both
        for image in found
    )
    write_text(path, csv_lines([COLUMNS, *rows]))
    if labels is not None:
        rows = (
            (images.name, *dataclasses.astuple(entry))
            for images, found in both
            for entry in copied_classes(found, labels)
        )
        names = 'set', 'class', 'training_images', 'copied', 'copies'
        write_text(files_beside(path)[0], csv_lines([names, *rows]))


def draw_copied(
    copied: list[CopiedImage],
    images: Tensor,
    training: Tensor,
    name: str,
    most: int = GALLERY_ROWS,
    num_images: int = IMAGES_PER_ROW,
    squared_distances: Tensor | None = None,
) -> PIL.Image.Image:
    """Draw the training images copied most often, each next to its first two copies.

    copied: the copied training images (at least one), those with the most copies first. images: the generated set,
    uint8 [N, C, H, W]. training: uint8 [M, C, H, W]. name: the generated set's name. most: how many training images
    to show. num_images: number of images per row. squared_distances: the squared pixel distances from generated images
    to their nearest training images, int64 [N]; if given, captions mark copies of mirror images.
    """

    def entry(image: CopiedImage) -> GalleryEntry:
        original, places = training[image.position], image.places[:2]
        captions = [f'#{image.position}\n{counted(len(image.places), "copy")}']
        if squared_distances is not None:
            mirrored = (is_mirrored(images[place], original, int(squared_distances[place])) for place in places)
            captions += ['mirrored' * flag for flag in mirrored]
        return GalleryEntry([original, *images[torch.tensor(places)]], captions)

    shown = [entry(image) for image in copied[:most]]
    count = f'{len(copied)} of {len(training)} training images are copied'
    lines = [f'{name}: {count}', '#: position in the training set.']
    which = f'The {most} copied most often' if len(copied) > most else 'Most copied first'
    title = f'{which}; up to two copies of each'
    return draw_entries(lines, {title: shown}, ('training', 'copy', 'copy'), num_images)
