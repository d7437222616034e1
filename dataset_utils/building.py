"""From a plan to a data set: the one place where images are read, transformed, checked and written."""

import contextlib
import dataclasses
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
from dataset_utils.sources.base import ONE_SIZE, match, print_remarks, shown, with_channels
from dataset_utils.transforms import Transform, checked_square, pad
from dnnlib.util import UserError

SKIPPED = 'skipped'  # among a manifest's arguments: the names of unreadable images that were skipped
MAX_SKIPPED_FILES = 1000  # names of other files in a manifest


@dataclasses.dataclass(frozen=True)
class Part:
    """Images of one source, by index, in the order in which the data set has them."""

    source: Source
    indices: list[int]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that determines a data set's bytes.

    rule, arguments: the function in `rules.RULES` that made the plan, and its keywords.
    parts: what to read, part after part. labels: for the images of all parts in order, or None; labels_note: how they
    were made, in words. transform: applied to each image; None keeps square images as they are.
    skip_unreadable: skip damaged images instead of stopping; None if the rule needs each image that it chose.
    limit: stop after this many images, None for all.
    hash_all: whether the manifest's hash of a folder covers the bytes of all of its images, or only of those taken.
    """

    parts: list[Part]
    labels: list[int] | None
    labels_note: str
    class_names: list[str] | None
    rule: str = ''
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    transform: Transform | None = None
    skip_unreadable: bool | None = None
    limit: int | None = None
    hash_all: bool = True


@dataclasses.dataclass(frozen=True)
class Made:
    """An image of a data set and its origin.

    part, index: the source among the plan's parts, and the image in it. image: uint8 [S, S, C], or None for one that
    is skipped because it is unreadable or too small for the transformation.
    """

    part: int
    index: int
    label: int | None
    image: np.ndarray | None
    is_unreadable: bool = False


def write_dataset(plan: Plan, destination: Destination) -> None:
    """Write a plan's data set, with a bar on stderr. Raises UserError, and then leaves nothing behind."""
    write_datasets([(plan, destination)])


def write_datasets(jobs: Sequence[tuple[Plan, Destination]]) -> None:
    """Write several data sets, of which either all appear or none. Raises UserError."""
    with contextlib.ExitStack() as stack:
        for plan, destination in jobs:
            _write(plan, stack.enter_context(destination.create()), destination.path.name)
    print_remarks(list({part.source.path: part.source for plan, _ in jobs for part in plan.parts}.values()))


def _write(plan: Plan, writer: DatasetWriter, name: str) -> None:
    total = min(sum(len(part.indices) for part in plan.parts), plan.limit or sys.maxsize)
    kept: list[Made] = []
    skipped: list[Made] = []
    with tqdm(None, f'Writing {name}', total, unit='img', disable=None) as progress:
        for made in make_images(plan):
            if made.image is None:
                skipped.append(made)
                continue
            writer.add(made.image, made.label)
            kept.append(dataclasses.replace(made, image=None))
            progress.update()
    writer.finish(make_manifest(plan, kept, skipped))
    _report(skipped)


def make_images(plan: Plan) -> Iterator[Made]:
    """Make the images of a plan in order, of one size and number of channels; skipped ones come without an image.

    Raises UserError that names an image that is unreadable (unless the plan skips those), not square, or of another
    size than the first.
    """
    shape, reference = None, ''
    remaining = sys.maxsize if plan.limit is None else plan.limit
    for made in _transformed_images(plan):
        if made.image is not None:
            source = plan.parts[made.part].source
            if shape is None:
                shape, reference = made.image.shape, source.describe(made.index)
            name = f'{source.where}: {source.describe(made.index)}'
            image = match(made.image, name, shape, reference, _remedy(plan))
            made = dataclasses.replace(made, image=image)
            remaining -= 1
        yield made
        if remaining == 0:
            return
    if shape is None:
        raise UserError(
            f'{plan.parts[0].source.where}: every image is unreadable or smaller than `resolution`; give other images'
        )


def _report(skipped: list[Made]) -> None:
    unreadable = sum(made.is_unreadable for made in skipped)
    if unreadable:
        print(f'Skipped {unreadable} unreadable images, see "{SKIPPED}" in the manifest.', file=sys.stderr)
    if len(skipped) > unreadable:
        print(f'Skipped {len(skipped) - unreadable} images smaller than the resolution.', file=sys.stderr)


def _transformed_images(plan: Plan) -> Iterator[Made]:
    labels = iter(plan.labels) if plan.labels is not None else repeat(None)
    channels = max(part.source.channels for part in plan.parts)
    for number, part in enumerate(plan.parts):
        make = partial(_make_image, plan, part.source, channels)
        for index, (image, is_unreadable) in zip(part.indices, ordered_map(make, part.indices), strict=True):
            yield Made(number, index, next(labels), image, is_unreadable)


def _make_image(plan: Plan, source: Source, channels: int, index: int) -> tuple[np.ndarray | None, bool]:
    try:
        image = with_channels(source.read(index), channels)
    except UserError as error:
        if plan.skip_unreadable:
            return None, True
        hint = ', or add `skip_unreadable`' if plan.skip_unreadable is False else ''
        raise UserError(f'{error}{hint}') from error
    try:
        return _transform_of(plan, source)(image), False
    except ValueError as error:
        raise UserError(f'{source.where}: {source.describe(index)} {error}; {_remedy(plan)}') from error


def _remedy(plan: Plan) -> str:
    if plan.rule == 'convert':
        return 'give `transform`=center-crop and `resolution`=WxH'
    return ONE_SIZE


def _transform_of(plan: Plan, source: Source) -> Transform:
    if plan.transform:
        return plan.transform
    if source.padded_size is not None:
        return partial(pad, size=source.padded_size)
    return checked_square


def make_manifest(plan: Plan, kept: list[Made], skipped: list[Made]) -> Manifest:
    """Record how a data set was made. kept, skipped: what `make_images` yielded, with and without an image."""
    sources = [part.source for part in plan.parts]
    indices = [[made.index for made in kept if made.part == number] for number in range(len(sources))]
    arguments = plan.arguments | sources[0].reading.changes()
    if plan.skip_unreadable:
        names = [sources[made.part].describe(made.index) for made in skipped if made.is_unreadable]
        arguments = arguments | {SKIPPED: names}
    covered = [None] * len(sources) if plan.hash_all else indices
    hashes = [source.sha256(used) for source, used in zip(sources, covered, strict=True)]
    return Manifest(
        source=_one_or_all([source.file_name for source in sources]),
        source_sha256=_one_or_all(hashes),
        rule=plan.rule,
        arguments=arguments,
        indices=_one_or_all(indices),
        labels=plan.labels_note,
        class_names=plan.class_names,
        skipped_files=_skipped_files(sources) or UNSET,
    )


def _skipped_files(sources: Sequence[Source]) -> list[str]:
    names = [shown(name) for source in sources for name in source.skipped]
    rest = len(names) - MAX_SKIPPED_FILES
    return names if rest <= 0 else [*names[:MAX_SKIPPED_FILES], f'... and {rest} more']


def _one_or_all(values: list) -> Any:
    return values[0] if len(values) == 1 else values
