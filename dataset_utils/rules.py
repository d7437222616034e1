"""The rules by which training sets are made: each is a pure function from sources and options to a `Plan`.

A rule's keywords are what a manifest stores as its arguments, so that the same plan can be made again from them.
"""

from dataset_utils import selections
from dataset_utils.building import Part, Plan
from dataset_utils.sources import Source
from dnnlib.util import UserError

LABELS_OF_SOURCE = 'those of the source'


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


def labels_of(source: Source) -> list[int]:
    """Return the labels that a selection by class needs; raises UserError for a source without."""
    if source.labels is None:
        raise UserError(
            f'{source.where} has no labels, which this selection needs; '
            f'take the first images of it with dataset_tool.py --max-images'
        )
    return source.labels
