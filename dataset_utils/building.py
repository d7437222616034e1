"""Builds data sets from plans: reads, transforms, checks and writes their images."""

import contextlib
import dataclasses
import operator
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
from msgspec import UNSET
from tqdm import tqdm

from dataset_utils.archive import DatasetWriter, Destination
from dataset_utils.manifest import Manifest
from dataset_utils.parallel import ordered_map
from dataset_utils.sources import Source
from dataset_utils.sources.base import (
    ONE_SIZE,
    match,
    print_remarks,
    printable,
    range_warning,
    with_channels,
    words_of,
)
from dataset_utils.transforms import Transform, checked_square, pad
from dnnlib.util import UserError, counted

SKIPPED = 'skipped'  # key among a manifest's arguments; its value lists the unreadable images that were skipped
MAX_SKIPPED_FILES = 1000  # maximum number of skipped files that a manifest lists


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that determines a data set's bytes.

    rule: name of the rule in `rules.RULES` that made the plan. arguments: the rule's keyword arguments.
    parts: for each source, a pair (source, indices of the images to read from it, in order).
    labels: labels of all images in the order of the parts, or None. labels_note: how the labels were made, in words.
    transform: function applied to each image; None keeps square images unchanged.
    skip_unreadable: whether to skip damaged images instead of stopping; None if the rule needs every image it chose.
    limit: maximum number of images to make; None means all images.
    hash_all: whether the manifest's hash of a folder covers all images in the folder, or only the images that are used.
    """

    parts: Sequence[tuple[Source, Sequence[int]]]
    labels: list[int] | None
    labels_note: str
    class_names: list[str] | None
    rule: str = ''
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    transform: Transform | None = None
    skip_unreadable: bool | None = None
    limit: int | None = None
    hash_all: bool = True


def write_datasets(*jobs: tuple[Plan, Destination]) -> None:
    """Write the planned data sets, either all or none; shows a progress bar, and prints a line for each data set.

    Raises UserError if an image or a destination is not usable.
    """
    with contextlib.ExitStack() as stack:
        contents = [_write(plan, stack.enter_context(to.create()), to.path.name) for plan, to in jobs]
    print_remarks(list({source.path: source for plan, _ in jobs for source, _ in plan.parts}.values()))
    for content, (_, destination) in zip(contents, jobs, strict=True):
        print(f'{content} → {destination.path}')


def _write(plan: Plan, writer: DatasetWriter, name: str) -> str:
    """Write one data set; returns a summary of its content."""
    making = Making(plan)
    total = min(sum(len(indices) for _, indices in plan.parts), plan.limit or sys.maxsize)
    labels, highest = [], 0
    for image, label in tqdm(making, f'Writing {name}', total, unit='img', disable=None):
        writer.add(image, label)
        labels.append(label)
        highest = max(highest, int(image.max()))
    writer.finish(making.manifest())
    if making.unreadable:
        skipped = counted(len(making.unreadable), 'unreadable image')
        print(f'Skipped {skipped}; "{SKIPPED}" in the manifest lists them.', file=sys.stderr)
    if making.num_small:
        print(f'Skipped {counted(making.num_small, "image")} smaller than the resolution.', file=sys.stderr)
    for warning in range_warning(name, highest):
        print(warning, file=sys.stderr)
    classes = '' if plan.labels is None else f', {counted(len(set(labels)), "class")}'
    return f'{counted(len(labels), "image")}, {words_of(image.shape)}{classes}'


class Making:
    """Makes a plan's images one at a time; after the last image, `manifest` returns the data set's manifest.

    Iterating yields pairs (image, label). An image is uint8 [S, S, C]; a label is an integer or None. Raises UserError
    with an image's name if the image is unreadable (unless the plan skips such images), is not square, or does not have
    the size of the first image.

    kept: for each part of the plan, the indices (in its source) of the images that were kept.
    unreadable: names of images that were skipped as damaged.
    num_small: number of images that were skipped because they are too small for the transform.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self.kept: list[list[int]] = [[] for _ in plan.parts]
        self.unreadable: list[str] = []
        self.num_small = 0

    def __iter__(self) -> Iterator[tuple[np.ndarray, int | None]]:
        labels = map(operator.index, self.plan.labels) if self.plan.labels is not None else repeat(None)
        channels = max(source.channels for source, _ in self.plan.parts)
        first: tuple[tuple[int, ...], str] | None = None
        for kept, (source, indices) in zip(self.kept, self.plan.parts, strict=True):
            make = partial(_make_image, self.plan, source, channels)
            for index, (image, is_unreadable) in zip(indices, ordered_map(make, indices), strict=True):
                label, name = next(labels), source.describe(index)
                if is_unreadable:
                    self.unreadable.append(name)
                elif image is None:
                    self.num_small += 1
                else:
                    first = first or (image.shape, name)
                    kept.append(operator.index(index))  # JSON does not accept NumPy's integers, here and in labels
                    yield match(image, f'{source.where}: {name}', *first, _remedy(self.plan)), label
                    if self.plan.limit is not None and sum(map(len, self.kept)) >= self.plan.limit:
                        return
        if first is None:
            where = self.plan.parts[0][0].where
            raise UserError(f'{where}: all images are unreadable or smaller than `resolution`; give other images')

    def manifest(self) -> Manifest:
        plan, sources = self.plan, [source for source, _ in self.plan.parts]
        arguments = plan.arguments | sources[0].reading.changes()
        if plan.skip_unreadable:
            arguments |= {SKIPPED: self.unreadable}
        covered = [None] * len(sources) if plan.hash_all else self.kept
        others = [printable(name) for source in sources for name in source.skipped]
        if len(others) > MAX_SKIPPED_FILES:
            others[MAX_SKIPPED_FILES:] = [f'... and {len(others) - MAX_SKIPPED_FILES} more']
        names = [
            '' if source.original_names is None else source.original_names[index]
            for source, kept in zip(sources, self.kept, strict=True)
            for index in kept
        ]
        return Manifest(
            source=_one_or_all([source.file_name for source in sources]),
            source_sha256=_one_or_all([source.sha256(used) for source, used in zip(sources, covered, strict=True)]),
            rule=plan.rule,
            arguments=arguments,
            indices=_one_or_all(self.kept),
            labels=plan.labels_note,
            class_names=plan.class_names,
            skipped_files=others or UNSET,
            original_names=names if any(names) else UNSET,
        )


def _make_image(plan: Plan, source: Source, channels: int, index: int) -> tuple[np.ndarray | None, bool]:
    """Return (image, is_unreadable); the image is None if it is skipped as unreadable or too small."""
    try:
        image = with_channels(source.read(index), channels)
    except UserError as error:
        if plan.skip_unreadable:
            return None, True
        hint = ', or add `skip_unreadable`' if plan.skip_unreadable is False else ''
        raise UserError(f'{error}{hint}') from error
    try:
        if plan.transform:
            return plan.transform(image), False
        return pad(image, source.padded_size) if source.padded_size else checked_square(image), False
    except ValueError as error:
        raise UserError(f'{source.where}: {source.describe(index)} {error}; {_remedy(plan)}') from error


def _remedy(plan: Plan) -> str:
    return 'give `transform`=center-crop and `resolution`=WxH' if plan.rule == 'convert' else ONE_SIZE


def _one_or_all(values: list) -> Any:
    return values[0] if len(values) == 1 else values
