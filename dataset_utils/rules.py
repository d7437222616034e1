"""The rules by which training sets are made: each is a pure function from sources and options to a `Plan`.

A rule's keywords are what a manifest stores as its arguments, and RULES names the rules, so that the same plan can be
made again from a manifest and its sources.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from dataset_utils import selections
from dataset_utils.building import SKIPPED, Part, Plan
from dataset_utils.imagenet import CIFAR10_CLASSES, images_by_synset
from dataset_utils.labelling import PAPER_SEED, random_labels, unique_labels
from dataset_utils.sources import Source
from dataset_utils.sources.base import shown, words_of
from dataset_utils.sources.files import MAX_LABEL
from dataset_utils.transforms import make_transform
from dnnlib.util import UserError

LABELS_OF_SOURCE = 'those of the source'
NO_LABELS = 'none'
MAX_IMAGES = 10**8  # the eight digits of an image's name
MADE_LABELS = ('random-labels', 'unique-labels')  # rules whose labels are not the source's


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
    plan = _subset(
        'convert',
        source,
        list(range(len(source))),
        max_images=max_images,
        transform=transform,
        resolution=resolution,
        skip_unreadable=skip_unreadable,
    )
    return dataclasses.replace(
        plan,
        transform=make_transform(transform, resolution) if resolution is not None else None,
        skip_unreadable=skip_unreadable,
        limit=max_images,
    )


def plan_size(source: Source, *, max_images: int, seed: int | None = None) -> Plan:
    """Plan a class-balanced subset of `max_images` images, see `selections.balanced`; labels are kept."""
    indices = selections.balanced(labels_of(source), source.class_names, max_images, seed)
    return _subset('size', source, indices, max_images=max_images, seed=seed)


def plan_classes(source: Source, *, num_classes: int, max_images: int, seed: int | None = None) -> Plan:
    """Plan a subset of the first `num_classes` classes, see `selections.first_classes`; labels are kept."""
    indices = selections.first_classes(labels_of(source), source.class_names, num_classes, max_images, seed)
    return _subset('classes', source, indices, num_classes=num_classes, max_images=max_images, seed=seed)


def plan_resolution(source: Source, *, resolution: Sequence[int], max_images: int, seed: int | None = None) -> Plan:
    """Plan what `plan_size` does, resized as dataset_tool.py does. resolution: (width, height), which are equal."""
    indices = selections.balanced(labels_of(source), source.class_names, max_images, seed)
    plan = _subset('resolution', source, indices, resolution=resolution, max_images=max_images, seed=seed)
    return dataclasses.replace(plan, transform=make_transform(None, resolution))


def plan_random_labels(
    source: Source, *, num_classes: int, max_images: int, seed: int | None = None, label_seed: int = PAPER_SEED
) -> Plan:
    """Plan what `plan_size` does, with random labels in [0, num_classes), see `labelling.random_labels`."""
    if not 1 <= num_classes <= MAX_LABEL + 1:
        raise UserError(f'--num-classes={num_classes} is not in the range from 1 to {MAX_LABEL + 1}')
    indices = selections.balanced(labels_of(source), source.class_names, max_images, seed)
    plan = _subset(
        'random-labels',
        source,
        indices,
        num_classes=num_classes,
        max_images=max_images,
        seed=seed,
        label_seed=label_seed,
    )
    note = f"random: Python's random.Random({label_seed}).randint(0, {num_classes - 1}) for each image in order"
    labels = random_labels(len(indices), num_classes, label_seed)
    return dataclasses.replace(plan, labels=labels, labels_note=note, class_names=None)


def plan_unique_labels(source: Source, *, max_images: int, seed: int | None = None) -> Plan:
    """Plan what `plan_size` does, with the image's position as its label."""
    indices = selections.balanced(labels_of(source), source.class_names, max_images, seed)
    plan = _subset('unique-labels', source, indices, max_images=max_images, seed=seed)
    note = 'unique: the position of the image'
    return dataclasses.replace(plan, labels=unique_labels(len(indices)), labels_note=note, class_names=None)


def plan_one_class(source: Source, *, class_name: str, max_images: int | None = None, seed: int | None = None) -> Plan:
    """Plan a subset of one class, by name or label, see `selections.one_class`; the label is kept."""
    indices = selections.one_class(labels_of(source), source.class_names, class_name, max_images, seed)
    return _subset('one-class', source, indices, class_name=class_name, max_images=max_images, seed=seed)


def plan_imagenet_class(
    source: Source,
    *,
    superclass: str,
    max_images: int,
    resolution: Sequence[int] = (32, 32),
    seed: int = 0,
    skip_unreadable: bool = False,
) -> Plan:
    """Plan images of a superclass of ImageNet, spread evenly over its synsets, see `selections.spread`.

    They are center-cropped and resized to `resolution`, and have the label of CIFAR-10's class of that name.
    skip_unreadable: draw another image of the synset instead of a broken one, and list those in the arguments.
    Source: Gu et al. 2023, section 4.3 (intra-diversity).
    """
    groups = images_by_synset(source, superclass)
    arguments: dict[str, Any] = {
        'superclass': superclass,
        'max_images': max_images,
        'resolution': resolution,
        'seed': seed,
        'skip_unreadable': skip_unreadable,
    }
    if skip_unreadable:
        reader = _UnreadableSkipper(source)
        indices = selections.spread(groups, max_images, seed, reader.is_readable)
        arguments[SKIPPED] = reader.skipped
    else:
        indices = selections.spread(groups, max_images, seed)
    return Plan(
        rule='imagenet-class',
        arguments=arguments,
        parts=[Part(source, indices)],
        labels=[CIFAR10_CLASSES.index(superclass)] * len(indices),
        labels_note=f"that of CIFAR-10's class {superclass}",
        class_names=CIFAR10_CLASSES,
        transform=make_transform('center-crop', resolution),
        skip_unreadable=None if skip_unreadable else False,
        hash_all=False,
    )


def plan_mixture(source: Source, blend: Source, *, blend_rate: float, max_images: int) -> Plan:
    """Plan the first int(max_images * (1 - blend_rate)) images of `source`, and the first of `blend` for the rest.

    blend_rate: in [0, 1]. The product is taken in float64: at 0.8, 199 of 1,000 images come from `source`.
    Raises UserError when a source has too few images, or the two differ in size, channels or classes.
    Source: Gu et al. 2023, section 4.3 (intra-diversity).
    """
    if not 0 <= blend_rate <= 1:
        raise UserError(f'--blend-rate={blend_rate} is not in the range from 0 to 1')
    _check_alike(source, blend)
    counts = [int(max_images * (1 - blend_rate))]
    counts.append(max_images - counts[0])
    labels: list[int] = []
    for part, count in zip((source, blend), counts, strict=True):
        if count > len(part):
            raise UserError(f'{part.where} has {len(part)} images, but {count} are needed; lower --max-images')
        labels += (part.labels or [])[:count]
    return Plan(
        rule='mixture',
        arguments={'blend_rate': blend_rate, 'max_images': max_images},
        parts=[Part(part, list(range(count))) for part, count in zip((source, blend), counts, strict=True)],
        labels=labels if source.labels is not None else None,
        labels_note='those of the sources' if source.labels is not None else NO_LABELS,
        class_names=source.class_names or blend.class_names,
    )


def plan_duplicate(source: Source, *, copies: int, fraction: float, seed: int | None = None) -> Plan:
    """Plan all images of a source, a fraction of them `copies` times, see `selections.repeated`; labels are kept."""
    if copies < 1:
        raise UserError(f'--copies={copies} must be at least 1')
    if not 0 <= fraction <= 1:
        raise UserError(f'--fraction={fraction} is not in the range from 0 to 1')
    if copies * len(source) > MAX_IMAGES:
        raise UserError(f'--copies={copies} may give more than {MAX_IMAGES} images; lower it')
    indices = selections.repeated(source.labels, len(source), copies, fraction, seed)
    if copies > 1 and fraction > 0 and len(indices) == len(source):
        raise UserError(
            f'--fraction={fraction:g} of {len(source)} images is less than one, so none is repeated; raise it'
        )
    return _subset('duplicate', source, indices, copies=copies, fraction=fraction, seed=seed)


def plan_split(source: Source, *, max_images: int, half: str, seed: int | None = None) -> Plan:
    """Plan one of two disjoint class-balanced halves of `max_images` images each, see `selections.halves`.

    half: 'a', which is what `plan_size` takes, or 'b'.
    """
    halves = selections.halves(labels_of(source), source.class_names, max_images, seed)
    return _subset('split', source, halves['ab'.index(half)], max_images=max_images, half=half, seed=seed)


RULES: dict[str, Callable[..., Plan]] = {
    'convert': plan_convert,
    'size': plan_size,
    'classes': plan_classes,
    'resolution': plan_resolution,
    'random-labels': plan_random_labels,
    'unique-labels': plan_unique_labels,
    'one-class': plan_one_class,
    'imagenet-class': plan_imagenet_class,
    'mixture': plan_mixture,
    'duplicate': plan_duplicate,
    'split': plan_split,
}


def labels_of(source: Source) -> list[int]:
    """Return the labels that a selection by class needs; raises UserError for a source without."""
    if source.labels is None:
        raise UserError(
            f'{source.where} has no labels, which this selection needs; '
            f'take the first images of it with dataset_tool.py --max-images'
        )
    return source.labels


def _subset(rule: str, source: Source, indices: list[int], **arguments: Any) -> Plan:
    labels = source.labels
    return Plan(
        rule=rule,
        arguments=arguments,
        parts=[Part(source, indices)],
        labels=[labels[index] for index in indices] if labels is not None else None,
        labels_note=LABELS_OF_SOURCE if labels is not None else NO_LABELS,
        class_names=source.class_names,
    )


def _check_alike(source: Source, blend: Source) -> None:
    shapes = [part.read(0).shape for part in (source, blend)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f'{source.where} is {words_of(shapes[0])}, but {blend.where} is {words_of(shapes[1])}; '
            f'bring both to one size and to one of grey and RGB with dataset_tool.py'
        )
    if (source.labels is None) != (blend.labels is None):
        bare = source if source.labels is None else blend
        raise UserError(f'{bare.where} has no labels, but what it is mixed with has; label both or neither')
    for part in (source, blend):
        manifest = getattr(part, 'manifest', None)
        if manifest is not None and manifest.rule in MADE_LABELS:
            raise UserError(
                f'{part.where} has labels of its own making ({shown(manifest.labels)}), which do not mix; '
                f'mix the sets before them, and then label the mixture'
            )
    _check_classes_alike(source, blend)


def _check_classes_alike(source: Source, blend: Source) -> None:
    names = [part.class_names for part in (source, blend)]
    if None not in names and names[0] != names[1]:
        raise UserError(
            f'{source.where} and {blend.where} name their classes differently, so that labels would mean two things; '
            f'make both from sources with the same classes'
        )
    for part, others in ((source, names[1]), (blend, names[0])):
        if part.labels is not None and others is not None and max(part.labels) >= len(others):
            raise UserError(
                f'{part.where} has the label {max(part.labels)}, but what it is mixed with has {len(others)} classes; '
                f'make both from sources with the same classes'
            )


class _UnreadableSkipper:
    """Tells which images can be read, and remembers the names of those that cannot."""

    def __init__(self, source: Source):
        self.source = source
        self.skipped: list[str] = []

    def is_readable(self, index: int) -> bool:
        try:
            self.source.read(index)
        except UserError:
            self.skipped.append(self.source.describe(index))
            return False
        return True
