"""The rules for making training sets. Each rule is a pure function that returns a `Plan` for sources and arguments.

A manifest stores the rule's name and keyword arguments, and `RULES` maps names to rules, so the same plan can be made
again from a manifest and its sources. A rule that is registered with examples is called a selection, and gets
its own sub-command:

    @rule('first', 'The first ten digits: --source=digits --dest=ten.zip --max-images=10')
    def plan_first(source: Source, *, max_images: int) -> Plan:
        '''Take the first images.'''
        return subset(source, range(max_images))

The positional arguments of the function are sources, its keyword arguments are options (see
`cli.dataset_options.OPTIONS`), and its docstring is the help text.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from dataset_utils import selections
from dataset_utils.building import SKIPPED, Plan
from dataset_utils.imagenet import CIFAR10_CLASSES, images_by_synset
from dataset_utils.sources import Source
from dataset_utils.sources.base import MAX_LABEL, printable, words_of
from dataset_utils.transforms import make_transform
from dnnlib.util import UserError

LABELS_OF_SOURCE = 'those of the source'
NO_LABELS = 'none'
MAX_IMAGES = 10**8  # because image names have eight digits
MADE_LABELS = ('random-labels', 'unique-labels')  # rules that replace the source's labels

Rule = Callable[..., Plan]

# The sources in the examples.
CIFAR = '--source=cifar-10-python.tar.gz'
MIX = '--source=dog.zip --blend=dog-imagenet.zip'
IMAGENET = '--source=imagenet/ILSVRC/Data/CLS-LOC/train'


RULES: dict[str, Rule] = {}
EXAMPLES: dict[str, tuple[str, ...]] = {}  # examples in the help text of each selection, as 'purpose: options'


def rule(name: str, *examples: str) -> Callable[[Rule], Rule]:
    """Return a decorator that registers a rule. The rule's plans then contain its name and keyword arguments."""

    def register(plan: Rule) -> Rule:
        @functools.wraps(plan)
        def complete(*sources: Source, **keywords: Any) -> Plan:
            given = inspect.signature(plan).bind(*sources, **keywords)
            given.apply_defaults()
            made = plan(*sources, **keywords)
            return dataclasses.replace(made, rule=name, arguments={**given.kwargs, **made.arguments})

        RULES[name] = complete
        if examples:
            EXAMPLES[name] = examples
        return complete

    return register


@rule('convert')
def plan_convert(
    source: Source,
    *,
    max_images: int | None = None,
    transform: str | None = None,
    resolution: Sequence[int] | None = None,
    skip_unreadable: bool = False,
) -> Plan:
    """Convert all images of a source, or only the first `max_images`. This is the rule of dataset_tool.py.

    transform, resolution: see `transforms.make_transform`; resolution is (width, height).
    skip_unreadable: whether to skip damaged images, which then do not count towards `max_images`.
    """
    return dataclasses.replace(
        subset(source, range(len(source))),
        transform=make_transform(transform, resolution),
        skip_unreadable=skip_unreadable,
        limit=max_images,
    )


@rule(
    'size',
    f'The first 200 images of each CIFAR-10 class: {CIFAR} --dest=cifar10-2000.zip --max-images=2000',
    f'200 images of each class, drawn at random: {CIFAR} --dest=drawn.zip --max-images=2000 --seed=1',
)
def plan_size(source: Source, *, max_images: int, seed: int | None = None) -> Plan:
    """Take the same number of images of each class.

    The set is ordered by class and keeps the source's labels; `max_images` must be a multiple of the number of classes.
    Images without labels count as one class.
    """
    return subset(source, selections.balanced(*_classes_of(source), max_images, seed))


@rule(
    'classes',
    f'1,000 airplanes and 1,000 automobiles: {CIFAR} --dest=c2.zip --num-classes=2 --max-images=2000',
    '166 zeros, 166 ones and 168 twos: --source=digits --dest=c3.zip --num-classes=3 --max-images=500',
)
def plan_classes(source: Source, *, num_classes: int, max_images: int, seed: int | None = None) -> Plan:
    """Take images of the first classes only (inter-diversity).

    The same number of images is taken from each of the first `num_classes` classes; the last of these classes also
    provides the remainder, if there is one.
    """
    indices = selections.first_classes(labels_of(source), source.class_names, num_classes, max_images, seed)
    return subset(source, indices)


@rule(
    'resolution',
    f'2,000 images of CIFAR-10 at 16x16: {CIFAR} --dest=r16.zip --resolution=16x16 --max-images=2000',
    f'The same images at 8x8: {CIFAR} --dest=r8.zip --resolution=8x8 --max-images=2000',
)
def plan_resolution(source: Source, *, resolution: Sequence[int], max_images: int, seed: int | None = None) -> Plan:
    """Take the same images as `size`, and resize them (data dimension).

    Images are resized with a Lanczos filter, as in dataset_tool.py.
    """
    plan = plan_size(source, max_images=max_images, seed=seed)
    return dataclasses.replace(plan, transform=make_transform(None, resolution))


@rule(
    'random-labels',
    f'2,000 images of CIFAR-10 with 20 random labels: {CIFAR} --dest=r20.zip --num-classes=20 --max-images=2000',
    '500 digits with 5 labels, drawn with another seed: --source=digits --dest=r5.zip --num-classes=5 --max-images=500 --label-seed=1',
)
def plan_random_labels(
    source: Source,
    *,
    num_classes: int,
    max_images: int,
    seed: int | None = None,
    label_seed: int = selections.PAPER_SEED,
) -> Plan:
    """Take the same images as `size`, and label them at random (conditioning).

    Labels are independent and uniformly distributed, and are drawn in the order of the images.
    """
    if not 1 <= num_classes <= MAX_LABEL + 1:
        raise UserError(f'`num_classes`={num_classes} is out of range; give 1 to {MAX_LABEL + 1}')
    plan = plan_size(source, max_images=max_images, seed=seed)
    note = f"random: Python's random.Random({label_seed}).randint(0, {num_classes - 1}) for each image in order"
    labels = selections.random_labels(max_images, num_classes, label_seed)
    return dataclasses.replace(plan, labels=labels, labels_note=note, class_names=None)


@rule(
    'unique-labels',
    f'All of CIFAR-10 with 50,000 labels: {CIFAR} --dest=u50000.zip --max-images=50000',
    '500 digits with 500 labels: --source=digits --dest=u500.zip --max-images=500',
)
def plan_unique_labels(source: Source, *, max_images: int, seed: int | None = None) -> Plan:
    """Take the same images as `size`, and make each image its own class (conditioning).

    The label is the image's position in the data set.
    """
    plan = plan_size(source, max_images=max_images, seed=seed)
    note = 'unique: the position of the image'
    return dataclasses.replace(plan, labels=list(range(max_images)), labels_note=note, class_names=None)


@rule(
    'one-class',
    f'The first 2,000 dogs of CIFAR-10: {CIFAR} --dest=dog.zip --class-name=dog --max-images=2000',
    'Every digit that is a seven: --source=digits --dest=seven.zip --class-name=7',
)
def plan_one_class(source: Source, *, class_name: str, max_images: int | None = None, seed: int | None = None) -> Plan:
    """Take images of one class.

    Without `max_images`, all images of the class are taken. The images keep their label from the source.
    """
    indices = selections.one_class(labels_of(source), source.class_names, class_name, max_images, seed)
    return subset(source, indices)


@rule(
    'imagenet-class',
    f'2,000 dogs from 123 synsets, at 32x32 as in CIFAR-10: {IMAGENET} --dest=dog-imagenet.zip --superclass=dog --max-images=2000',
    f'1,000 cats at 64x64, skipping damaged files: {IMAGENET} --dest=cat-imagenet.zip --superclass=cat --max-images=1000 --resolution=64x64 --skip-unreadable',
)
def plan_imagenet_class(
    source: Source,
    *,
    superclass: str,
    max_images: int,
    resolution: Sequence[int] = (32, 32),
    seed: int = 0,
    skip_unreadable: bool = False,
) -> Plan:
    """Draw images of a CIFAR-10 class from ImageNet (intra-diversity).

    The images are spread evenly over the ImageNet synsets of the class, and get the label of the class in CIFAR-10.
    `source` is ImageNet's train folder, or a part of it that contains the folders of all these synsets. Images are
    center-cropped, then resized.
    """
    # Source: Gu et al. 2023, section 4.3.
    groups = images_by_synset(source, superclass)
    skipped: list[str] = []

    def is_wanted(index: int) -> bool:
        try:
            return not skip_unreadable or source.read(index) is not None
        except UserError:
            skipped.append(source.describe(index))
            return False

    indices = selections.spread(groups, max_images, seed, is_wanted)
    return Plan(
        arguments={SKIPPED: skipped} if skip_unreadable else {},
        parts=[(source, indices)],
        labels=[CIFAR10_CLASSES.index(superclass)] * len(indices),
        labels_note=f"that of CIFAR-10's class {superclass}",
        class_names=CIFAR10_CLASSES,
        transform=make_transform('center-crop', resolution),
        skip_unreadable=None if skip_unreadable else False,
        hash_all=False,
    )


@rule(
    'mixture',
    f'1,600 dogs from CIFAR-10 and 400 from ImageNet: {MIX} --dest=dog-0.2.zip --blend-rate=0.2 --max-images=2000',
    f'Half of the images from each: {MIX} --dest=dog-0.5.zip --blend-rate=0.5 --max-images=2000',
)
def plan_mixture(source: Source, blend: Source, *, blend_rate: float, max_images: int) -> Plan:
    """Mix two data sets (intra-diversity).

    With N = `max_images` and r = `blend_rate`, the set consists of the first int(N * (1 - r)) images of `source`, followed
    by the first images of `blend`, up to N images in total.
    """
    # The product is computed in float64. Because of rounding, only 199 of 1,000 images come from `source` at a rate of 0.8.
    # Source: Gu et al. 2023, section 4.3.
    if not 0 <= blend_rate <= 1:
        raise UserError(f'`blend_rate`={blend_rate} is out of range; give 0 to 1')
    _check_alike(source, blend)
    first = int(max_images * (1 - blend_rate))
    parts = [(source, range(first)), (blend, range(max_images - first))]
    for part, indices in parts:
        if indices.stop > len(part):
            raise UserError(
                f'{part.where} has only {len(part)} of the {indices.stop} images needed; lower `max_images`'
            )
    is_labelled = source.labels is not None
    return Plan(
        parts=parts,
        labels=[label for part, indices in parts for label in labels_of(part)[: len(indices)]] if is_labelled else None,
        labels_note='those of the sources' if is_labelled else NO_LABELS,
        class_names=source.class_names or blend.class_names,
    )


@rule(
    'duplicate',
    '1,900 images, because 100 of 1,000 images occur ten times: --source=cifar10-1000.zip --dest=d10.zip --copies=10 --fraction=0.1',
    'Every image twice: --source=cifar10-1000.zip --dest=d2.zip --copies=2 --fraction=1',
)
def plan_duplicate(source: Source, *, copies: int, fraction: float, seed: int | None = None) -> Plan:
    """Repeat a fraction of the images.

    All images of the source come first, in their order. The repeated images follow, so that each of them occurs `copies`
    times in total. The same share of each class is repeated; without `seed`, the first images of each class are repeated.
    """
    if copies < 1:
        raise UserError(f'`copies`={copies} is out of range; give at least 1')
    if not 0 <= fraction <= 1:
        raise UserError(f'`fraction`={fraction} is out of range; give 0 to 1')
    if copies * len(source) > MAX_IMAGES:
        raise UserError(f'`copies`={copies} could give more than {MAX_IMAGES} images; lower it')
    indices = selections.repeated(source.labels, len(source), copies, fraction, seed)
    if copies > 1 and fraction > 0 and len(indices) == len(source):
        raise UserError(
            f'`fraction`={fraction:g} of {len(source)} images is less than one image, so nothing is repeated; raise it'
        )
    return subset(source, indices)


@rule('split')
def plan_split(source: Source, *, max_images: int, half: str, seed: int | None = None) -> Plan:
    """Take one of two disjoint sets of `max_images` images. half: 'a' for the set that `size` takes, 'b' for the other."""
    return subset(source, selections.balanced(*_classes_of(source), max_images, seed, 2, 'ab'.index(half)))


@rule('held-out')
def plan_held_out(
    source: Source, *, held_out: int, half: str, max_images: int | None = None, seed: int | None = None
) -> Plan:
    """Take a training set (half 'a') or a held-out set of `held_out` images (half 'b'); see `selections.held_out`."""
    both = selections.held_out(*_classes_of(source), held_out, max_images, seed)
    return subset(source, both['ab'.index(half)])


def subset(source: Source, indices: Sequence[int]) -> Plan:
    """Return the plan for a subset of one source, with the source's labels."""
    labels = source.labels
    return Plan(
        parts=[(source, indices)],
        labels=[labels[index] for index in indices] if labels is not None else None,
        labels_note=LABELS_OF_SOURCE if labels is not None else NO_LABELS,
        class_names=source.class_names,
    )


def labels_of(source: Source) -> list[int]:
    """Return a source's labels; raises UserError if it has none."""
    if source.labels is None:
        raise UserError(f'{source.where} has no labels, but this selection requires labels; select by size instead')
    return source.labels


def _classes_of(source: Source) -> tuple[list[int], list[str] | None]:
    """Return labels and class names; images without labels count as one class."""
    return ([0] * len(source), None) if source.labels is None else (source.labels, source.class_names)


def _check_alike(source: Source, blend: Source) -> None:
    if source.shape[:2] != blend.shape[:2]:
        raise UserError(
            f'{source.where} contains {words_of(source.shape)} images, but {blend.where} contains {words_of(blend.shape)} images; '
            f'resize one of them with dataset_tool.py'
        )
    if (source.labels is None) != (blend.labels is None):
        bare = source if source.labels is None else blend
        raise UserError(f'{bare.where} has no labels, but the other set has labels; label both sets or neither')
    names = [part.class_names for part in (source, blend)]
    if None not in names and names[0] != names[1]:
        raise UserError(
            f'{source.where} and {blend.where} have different class names, so a label would have two meanings; '
            f'make both from sources with the same classes'
        )
    for part, others in ((source, names[1]), (blend, names[0])):
        if part.manifest is not None and part.manifest.rule in MADE_LABELS:
            raise UserError(
                f'{part.where} has labels made by {printable(part.manifest.rule)}, and such labels cannot be mixed; '
                f'mix the sets from which it was made, then label the mixture'
            )
        if part.labels is not None and others is not None and max(part.labels) >= len(others):
            raise UserError(
                f'{part.where} has the label {max(part.labels)}, but the set to mix it with has only {len(others)} '
                f'classes; make both from sources with the same classes'
            )
