"""From a plan to a data set: the one place where images are read, transformed, checked and written."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from dataset_utils.archive import Destination
from dataset_utils.manifest import Manifest
from dataset_utils.parallel import ordered_map
from dataset_utils.sources import Source
from dataset_utils.sources.base import match, words_of
from dnnlib.util import UserError

Transform = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Part:
    """Images of one source, by index, in the order in which the data set has them."""

    source: Source
    indices: list[int]


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that decides a data set's bytes.

    rule, arguments: the function in `rules` that made the plan, and its keywords. parts: what to read, part after part.
    labels: of the images of all parts in order, or None; labels_note: how they were made, in words.
    transform: of each image, uint8 [H, W, C] to the same; None leaves images as they are.
    """

    rule: str
    arguments: dict[str, Any]
    parts: list[Part]
    labels: list[int] | None
    labels_note: str
    class_names: list[str] | None
    transform: Transform | None = None


def write_dataset(plan: Plan, destination: Destination) -> None:
    """Write what the plan says, with a bar on stderr. Raises UserError, and then leaves nothing behind."""
    with destination.create() as writer:
        total = sum(len(part.indices) for part in plan.parts)
        images = tqdm(planned_images(plan), f'Writing {destination.path.name}', total, unit='img')
        for position, image in enumerate(images):
            writer.add(image, plan.labels[position] if plan.labels is not None else None)
        writer.finish(manifest_of(plan))


def planned_images(plan: Plan) -> Iterator[np.ndarray]:
    """Yield the images of a plan in order, uint8 [S, S, C], all of one size and channels, else raises UserError."""
    first: tuple[tuple[int, ...], str] | None = None
    for part in plan.parts:

        def prepare(index: int, source: Source = part.source) -> np.ndarray:
            image = source.read(index)
            return plan.transform(image) if plan.transform else image

        for index, image in zip(part.indices, ordered_map(prepare, part.indices), strict=True):
            name = f'{part.source.where}: {part.source.describe(index)}'
            first = first or (_square(image, name), name)
            yield match(image, name, *first)


def _square(image: np.ndarray, name: str) -> tuple[int, ...]:
    if image.shape[0] != image.shape[1]:
        raise UserError(
            f'{name} is {words_of(image.shape)}, not square; crop with dataset_tool.py --transform=center-crop '
            f'--resolution=WxH'
        )
    return image.shape


def manifest_of(plan: Plan) -> Manifest:
    """Say how the data set of a plan was made."""
    sources = [part.source for part in plan.parts]
    return Manifest(
        source=_one_or_all([source.file_name for source in sources]),
        source_sha256=_one_or_all([source.sha256() for source in sources]),
        rule=plan.rule,
        arguments=plan.arguments,
        indices=_one_or_all([part.indices for part in plan.parts]),
        labels=plan.labels_note,
        class_names=plan.class_names,
    )


def _one_or_all(values: list) -> Any:
    return values[0] if len(values) == 1 else values
