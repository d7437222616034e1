"""The rules by which training sets are made: each is a pure function from sources and options to a `Plan`.

A rule's keywords are what a manifest stores as its arguments, so that the same plan can be made again from them.
"""

from collections.abc import Sequence

from dataset_utils import selections
from dataset_utils.building import Part, Plan
from dataset_utils.sources import Source
from dataset_utils.transforms import make_transform
from dnnlib.util import UserError

LABELS_OF_SOURCE = 'those of the source'
NO_LABELS = 'none'


def plan_size(source: Source, *, max_images: int, seed: int | None = None) -> Plan:
    """Plan a class-balanced subset of `max_images` images, see `selections.balanced`; labels are kept."""
    labels = labels_of(source)
    indices = selections.balanced(labels, source.class_names, max_images, seed)
    return Plan(
        rule='size',
        arguments={'max_images': max_images, 'seed': seed},
        parts=[Part(source, indices)],
        labels=[labels[index] for index in indices],
        labels_note=LABELS_OF_SOURCE,
        class_names=source.class_names,
    )


def plan_convert(
    source: Source,
    *,
    max_images: int | None = None,
    transform: str | None = None,
    resolution: Sequence[int] | None = None,
    skip_unreadable: bool = False,
) -> Plan:
    """Plan the conversion of a whole source, or of its first `max_images` images: the rule of dataset_tool.py.

    transform, resolution: see `transforms.make_transform`; resolution (width, height).
    skip_unreadable: leave broken images out, and take others up to `max_images`.
    """
    return Plan(
        rule='convert',
        arguments={
            'max_images': max_images,
            'transform': transform,
            'resolution': resolution,
            'skip_unreadable': skip_unreadable,
        },
        parts=[Part(source, list(range(len(source))))],
        labels=source.labels,
        labels_note=LABELS_OF_SOURCE if source.labels is not None else NO_LABELS,
        class_names=source.class_names,
        transform=make_transform(transform, resolution) if resolution is not None else None,
        skip_unreadable=skip_unreadable,
        limit=max_images,
    )


def labels_of(source: Source) -> list[int]:
    """Return the labels that a selection by class needs; raises UserError for a source without."""
    if source.labels is None:
        raise UserError(
            f'{source.where} has no labels, which this selection needs; '
            f'take the first images of it with dataset_tool.py --max-images'
        )
    return source.labels
