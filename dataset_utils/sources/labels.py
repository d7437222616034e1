"""Labels of image files, from `dataset.json` or from the folders that contain the files."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from msgspec import Meta

from dataset_utils.sources.base import MAX_LABEL, printable
from dnnlib.typed import Typed, parse_json
from dnnlib.util import UserError

LABELS_FILE = 'dataset.json'
# Folders that divide images into groups. Images 1000 to 1999 are in 00001 (data sets) or 001000 (generated images).
PART, NUMBERED_IMAGE = re.compile(r'\d{5,}'), re.compile(r'(?:img)?(\d+)\.\w+')
IMAGES_PER_PART = 1000
SPLIT = re.compile(
    r'(train|training|test|testing|val|valid|validation|dev|eval)(?:\d+|[-_.]\w+)?(?:\.\w+)?', re.IGNORECASE
)


class LabelsFile(Typed, frozen=True, forbid_unknown_fields=False):
    """The content of `dataset.json`: the name and label of every image, or None if there are no labels."""

    labels: list[tuple[str, Annotated[int, Meta(ge=0, le=MAX_LABEL)]]] | None


def listed_labels(data: bytes, names: Sequence[str], where: str) -> list[int] | None:
    """Return the label of each image in `names`, or None if the file gives no labels.

    data: the content of `dataset.json`. where: how messages name the source.
    Raises UserError if the file is invalid or does not match the images.
    """
    where = f'{where}: {LABELS_FILE}'
    try:
        listed = parse_json(data, LabelsFile, where).labels
    except UserError as error:
        raise UserError(f'{error}; fix {LABELS_FILE}, or remove it') from error
    if listed is None:
        return None
    # Some archives and Macs write é as two characters instead of one, so names are compared in a normalized form.
    plain = partial(unicodedata.normalize, 'NFC')
    places = {plain(name): place for place, name in enumerate(names)}
    labels: list[int | None] = [None] * len(names)
    for name, label in listed:
        place = places.get(plain(name))
        if place is None:
            raise UserError(
                f'{where} lists {printable(name)}, which does not exist; add the image or remove it from {LABELS_FILE}'
            )
        if labels[place] not in (None, label):
            raise UserError(f'{where} gives two labels to {printable(name)}; remove one of them')
        labels[place] = label
    complete = [label for label in labels if label is not None]
    if len(complete) < len(names):
        first = printable(names[labels.index(None)])
        raise UserError(
            f'{where} has no label for {len(names) - len(complete)} of {len(names)} images (the first is {first}); '
            f'label every image, or use {{"labels": null}} for no labels'
        )
    return complete


def folder_labels(names: Sequence[str], where: str) -> tuple[list[int] | None, list[str] | None]:
    """Derive labels and class names from the folders that contain the images. names: sorted paths of the images.

    If one folder directly contains all images, it is the only class. Otherwise, the class of an image is its folder at
    the first level at which the paths differ.
    Returns (None, None) if there are no folders, or if they only divide numbered images into groups.
    Raises UserError if some images are next to the class folders instead of in them.
    """
    paths = [name.split('/') for name in names]
    lowest, highest = paths[0][:-1], paths[-1][:-1]
    common = next((i for i, pair in enumerate(zip(lowest, highest, strict=False)) if pair[0] != pair[1]), len(lowest))
    level = common if any(len(path) > common + 1 for path in paths) else common - 1
    if level < 0:
        return None, None
    outside = next((path for path in paths if len(path) <= level + 1), None)
    if outside:
        raise UserError(
            f'{where}: {printable("/".join(outside))} is next to folders of images, so the folders cannot be classes; '
            f'move it into a folder, or make a data set without labels with dataset_tool.py --no-labels'
        )
    if all(_is_in_part(path, level) for path in paths):
        return None, None
    classes = sorted({path[level] for path in paths})
    numbers = {name: number for number, name in enumerate(classes)}
    return [numbers[path[level]] for path in paths], classes


def _is_in_part(path: list[str], level: int) -> bool:
    folder, match = path[level], NUMBERED_IMAGE.fullmatch(path[-1])
    if len(path) != level + 2 or not match or not PART.fullmatch(folder):
        return False
    number = int(match[1])
    return int(folder) in (number // IMAGES_PER_PART, number - number % IMAGES_PER_PART)


def refuse_splits(names: Sequence[str], where: str) -> None:
    """Raise UserError if there are folders such as train/ and test/, because their images would be mixed."""
    folders: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for folder in {name.rpartition('/')[0] for name in names}:
        while folder:
            above, _, last = folder.rpartition('/')
            if match := SPLIT.fullmatch(last):
                folders[above].setdefault(match[1].lower(), last)
            folder = above
    for above, splits in sorted(folders.items()):
        if len(splits) > 1:
            found = ' and '.join(map(printable, sorted(splits.values())))
            raise UserError(
                f'{where}: {printable(above) or "it"} has the folders {found}, whose images would be mixed; '
                f'give only one of these folders, or add a {LABELS_FILE} if they are classes'
            )
