"""Selects images for a training set: pure functions that map a source's labels to the indices of the selected images.

With the same seed, or without a seed, larger sets contain the smaller ones, except for the remainder in
`first_classes`. Images without labels are treated as one class, with label 0.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from dataset_utils.sources.base import printable, some
from dnnlib.util import UserError

PAPER_SEED = 1024


def balanced(
    labels: Sequence[int],
    class_names: Sequence[str] | None,
    max_images: int,
    seed: int | None,
    sets: int = 1,
    number: int = 0,
) -> list[int]:
    """Take max_images / C images from each of the C classes that are present, class by class in order of label.

    labels: label of each image in the source. seed: None takes each class's first images; a seed draws them at random
    (see `members`). sets: number of disjoint sets to make. number: which of these sets to return, counting from 0;
    set 0 is the same for any number of sets.
    Raises UserError if C does not divide max_images, or if a class has too few images for all sets.
    Source: Gu et al. 2023, section 3.1: the first |D|/10 images of each CIFAR-10 class.
    """
    classes = members(labels, seed)
    rest = max_images % len(classes)
    if rest:
        raise UserError(
            f'`max_images`={max_images} is not a multiple of the number of classes ({len(classes)}); '
            f'give {max_images - rest or len(classes)}'
        )
    return take(classes, class_names, dict.fromkeys(classes, max_images // len(classes)), sets, number)


def first_classes(
    labels: Sequence[int], class_names: Sequence[str] | None, num_classes: int, max_images: int, seed: int | None
) -> list[int]:
    """Take max_images // C images from each of the first C = num_classes classes that are present.

    The last of these classes also provides the remainder. Raises UserError if there are fewer than C classes, if
    max_images is below C, or if a class has too few images.
    Source: Gu et al. 2023, section 4.2 (inter-diversity).
    """
    classes = members(labels, seed)
    if num_classes > len(classes):
        raise UserError(f'`num_classes`={num_classes} exceeds the {len(classes)} classes of the source; lower it')
    if max_images < num_classes:
        raise UserError(f'`max_images`={max_images} is less than `num_classes`={num_classes}; raise it')
    counts = dict.fromkeys(list(classes)[:num_classes], max_images // num_classes)
    counts[list(counts)[-1]] += max_images % num_classes
    return take(classes, class_names, counts)


def one_class(
    labels: Sequence[int], class_names: Sequence[str] | None, name: str, max_images: int | None, seed: int | None
) -> list[int]:
    """Take `max_images` images of one class; None takes all of them. name: name of the class, or its label as text.

    seed: None takes the first images; a seed draws them at random. Raises UserError if the class does not exist (the
    message lists the classes that do exist) or has too few images.
    """
    classes = members(labels, seed)
    label = next((label for label in classes if class_names is not None and class_names[label] == name), None)
    if label is None and name.isdecimal():
        label = int(name)
    if label is None or label not in classes:
        known = some([name_of(label, class_names) for label in classes], 20)
        raise UserError(f'`class_name`={name} is not a class of the source; give one of {known}')
    return take(classes, class_names, {label: len(classes[label]) if max_images is None else max_images})


def repeated(labels: Sequence[int] | None, count: int, copies: int, fraction: float, seed: int | None) -> list[int]:
    """Take all `count` images in order, then repeat a fraction of them until each repeated image occurs `copies` times.

    fraction: share of the images to repeat, in [0, 1]; round(fraction * count) images are repeated, with the same share
    of each class (to within one image).
    seed: None repeats each class's first images; a seed draws them at random. Without labels, all images count as one
    class. A larger fraction repeats all images that a smaller fraction repeats.
    """
    classes = members(labels if labels is not None else [0] * count, seed)
    shares = proportional(classes, round(fraction * count))
    chosen = [index for label, indices in classes.items() for index in indices[: shares[label]]]
    return list(range(count)) + chosen * (copies - 1)


def held_out(
    labels: Sequence[int], class_names: Sequence[str] | None, count: int, max_images: int | None, seed: int | None
) -> tuple[list[int], list[int]]:
    """Split images into a training set and `count` held-out images; returns the indices of both.

    The same share of each class is held out, to within one image.
    max_images: size of the training set, which is selected by `balanced` before other images are held out; None takes
    all images that are not held out, in the source's order.
    seed: None holds out each class's last images; a seed draws them at random.
    Raises UserError if too few images remain to be held out, and in the same cases as `balanced`.
    """
    taken = [] if max_images is None else balanced(labels, class_names, max_images, seed)
    used = set(taken)
    left = {label: [index for index in own if index not in used] for label, own in members(labels, seed).items()}
    most = len(labels) - (len(taken) or 1)
    if not 0 < count <= most:
        raise UserError(f'`held_out`={count} is out of range; {most} images remain, so give 1 to {most}')
    shares = proportional(left, count)
    chosen = sorted(index for label, own in left.items() for index in own[len(own) - shares[label] :])
    return taken or sorted(set(range(len(labels))) - set(chosen)), chosen


def proportional(classes: dict[int, list[int]], count: int) -> Counter[int]:
    """Divide `count` images among classes in proportion to their sizes, to within one image."""
    # The k-th image of a class gets the value (k - 1/2) / (class size). The images with the `count` lowest values are
    # taken.
    places = sorted(
        ((position + 0.5) / len(indices), label)
        for label, indices in classes.items()
        for position in range(len(indices))
    )
    return Counter(label for _, label in places[:count])


def spread(
    groups: Sequence[tuple[str, Sequence[int]]],
    max_images: int,
    seed: int,
    is_wanted: Callable[[int], bool] = lambda index: True,
) -> list[int]:
    """Draw `max_images` images evenly from S groups, one group after another.

    The first max_images mod S groups provide one image more than the others.
    groups: for each group, its name (a synset such as 'n02085620') and the indices of its images. Each group is
    shuffled with a generator seeded by `seed` and the digits of the name, so the draw does not depend on the rest of
    the source.
    is_wanted: function that returns whether the image at an index can be taken; if not, the next index in the group is
    tried.
    Raises UserError if a group has too few images.
    """
    share, extra = divmod(max_images, len(groups))
    chosen: list[int] = []
    for number, (name, indices) in enumerate(groups):
        count = share + (number < extra)
        order = shuffled(indices, seed, int(name[1:]))
        taken = list(islice(filter(is_wanted, order), min(count, len(order))))
        if len(taken) < count:
            kind = 'images' if len(taken) == len(indices) else 'readable images'
            raise UserError(
                f'`max_images`={max_images} requires {count} images of {name}, which has {len(taken)} {kind}; lower it'
            )
        chosen += taken
    return chosen


def members(labels: Sequence[int], seed: int | None) -> dict[int, list[int]]:
    """Return a dict that maps each label, in ascending order, to the indices of the images with that label.

    seed: None keeps the source's order. A seed in [0, 2^32) shuffles each class with its own generator, seeded by
    (seed, label), so a class's order does not depend on the other classes.
    """
    classes: dict[int, list[int]] = {label: [] for label in sorted(set(labels))}
    for index, label in enumerate(labels):
        classes[label].append(index)
    if seed is None:
        return classes
    return {label: shuffled(indices, seed, label) for label, indices in classes.items()}


def shuffled(indices: Sequence[int], seed: int, key: int) -> list[int]:
    """Shuffle indices with a generator seeded by (seed, key), both in [0, 2^32)."""
    # NumPy guarantees that RandomState's streams never change (NEP 19), unlike the streams of newer generators.
    order = np.random.RandomState([seed, key]).permutation(len(indices))
    return [indices[position] for position in order]


def take(
    classes: dict[int, list[int]],
    class_names: Sequence[str] | None,
    counts: dict[int, int],
    sets: int = 1,
    number: int = 0,
) -> list[int]:
    """Take counts[label] images of each class.

    sets, number: see `balanced`. Raises UserError if a class has too few images.
    """
    for label, count in counts.items():
        if sets * count > len(classes[label]):
            smallest = min(len(classes[other]) for other in counts)
            which = f'of class {name_of(label, class_names)}, which has' if len(classes) > 1 else 'but there are only'
            raise UserError(
                f'`max_images` requires {sets * count} images {which} {len(classes[label])}; '
                f'give at most {smallest // sets * len(counts)}'
            )
    return [index for label, count in counts.items() for index in classes[label][number * count : (number + 1) * count]]


def random_labels(count: int, num_classes: int, seed: int = PAPER_SEED) -> list[int]:
    """Draw `count` independent labels, uniform in [0, num_classes).

    Source: Gu et al. 2023, section 5.1, where Python's `random.randint` is called once for each image, in order.
    """
    generator = random.Random(seed)
    return [generator.randint(0, num_classes - 1) for _ in range(count)]


def name_of(label: int, class_names: Sequence[str] | None) -> str:
    """Format a class for a message, such as '5 (dog)'."""
    if class_names is None or class_names[label] == str(label):
        return str(label)
    return f'{label} ({printable(class_names[label])})'
