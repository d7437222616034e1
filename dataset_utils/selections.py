"""Which images a training set takes: pure functions from labels to indices into the source.

With the same seed, or without one, a smaller set is contained in every larger one, except for the remainder of
`first_classes`. Labels that are all 0 select from all images alike.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from dataset_utils.sources.base import shown
from dnnlib.util import UserError


def balanced(labels: Sequence[int], class_names: Sequence[str] | None, max_images: int, seed: int | None) -> list[int]:
    """Take max_images / C images of each of the C classes that are present, class after class in order of label.

    labels: one for each image in the source. seed: None takes each class's first images, a seed draws them (see
    `members`). Raises UserError if C does not divide max_images, or if a class has too few images.
    Source: Gu et al. 2023, section 3.1: the first |D|/10 images of each class of CIFAR-10.
    """
    classes = members(labels, seed)
    return take(classes, class_names, _equal_counts(classes, max_images))


def halves(
    labels: Sequence[int], class_names: Sequence[str] | None, max_images: int, seed: int | None
) -> tuple[list[int], list[int]]:
    """Take two disjoint sets of `max_images` images each: what `balanced` takes, and the next images of each class.

    Raises UserError as `balanced` does for twice as many images.
    """
    classes = members(labels, seed)
    counts = _equal_counts(classes, max_images)
    _check_enough(classes, class_names, counts, sets=2)
    first = [index for label, count in counts.items() for index in classes[label][:count]]
    second = [index for label, count in counts.items() for index in classes[label][count : 2 * count]]
    return first, second


def first_classes(
    labels: Sequence[int], class_names: Sequence[str] | None, num_classes: int, max_images: int, seed: int | None
) -> list[int]:
    """Take max_images // C images of each of the first C classes that are present, and the rest from the last one.

    Raises UserError if there are fewer classes, less than one image for each, or if a class has too few images.
    Source: Gu et al. 2023, section 4.2 (inter-diversity).
    """
    classes = members(labels, seed)
    if num_classes > len(classes):
        raise UserError(f'`num_classes`={num_classes} is more than the {len(classes)} classes of the source; lower it')
    if max_images < num_classes:
        raise UserError(f'`max_images`={max_images} is less than `num_classes`={num_classes}; raise it')
    counts = dict.fromkeys(list(classes)[:num_classes], max_images // num_classes)
    counts[list(counts)[-1]] += max_images % num_classes
    return take(classes, class_names, counts)


def one_class(
    labels: Sequence[int], class_names: Sequence[str] | None, name: str, max_images: int | None, seed: int | None
) -> list[int]:
    """Take the first `max_images` images of one class, or all of them. name: the class's name, or its label in digits.

    Raises UserError if there is no such class, with a list of the classes, or if it has too few images.
    """
    classes = members(labels, seed)
    label = _find_class(classes, class_names, name)
    return take(classes, class_names, {label: len(classes[label]) if max_images is None else max_images})


def repeated(labels: Sequence[int] | None, count: int, copies: int, fraction: float, seed: int | None) -> list[int]:
    """Take all `count` images in order, and then repeat a fraction of them until each of those occurs `copies` times.

    fraction: in [0, 1]; round(fraction * count) images are repeated, the same share of each class to within one image:
    the first ones, or drawn by the seed. Without labels all images count as one class. The images of a smaller fraction
    are among those of a larger one.
    """
    classes = members(labels if labels is not None else [0] * count, seed)
    # The k-th image of a class has the place (k - 1/2) / (size of the class), and the lowest places are taken.
    places = sorted(
        ((position + 0.5) / len(indices), label)
        for label, indices in classes.items()
        for position in range(len(indices))
    )
    shares = Counter(label for _, label in places[: round(fraction * count)])
    chosen = [index for label, indices in classes.items() for index in indices[: shares[label]]]
    return list(range(count)) + chosen * (copies - 1)


def spread(
    groups: Sequence[tuple[str, Sequence[int]]],
    max_images: int,
    seed: int,
    is_wanted: Callable[[int], bool] = lambda index: True,
) -> list[int]:
    """Draw `max_images` images evenly from S groups, group after group; the first max_images mod S give one more.

    groups: name, such as 'n02085620', and indices of each. A group is shuffled by its digits and the seed, so that the
    draw does not depend on the rest of the source. is_wanted: whether an index may be taken; otherwise the next index
    of its group takes its place. Raises UserError if a group has too few images.
    """
    share, extra = divmod(max_images, len(groups))
    chosen: list[int] = []
    for number, (name, indices) in enumerate(groups):
        count = share + (number < extra)
        taken: list[int] = []
        for index in shuffled(indices, seed, int(name[1:])):
            if len(taken) == count:
                break
            if is_wanted(index):
                taken.append(index)
        if len(taken) < count:
            kind = 'images' if len(taken) == len(indices) else 'readable images'
            raise UserError(
                f'`max_images`={max_images} asks for {count} images of {name}, which has {len(taken)} {kind}; lower it'
            )
        chosen += taken
    return chosen


def members(labels: Sequence[int], seed: int | None) -> dict[int, list[int]]:
    """Return the indices of each class's images by label, labels ascending.

    seed: None keeps the source's order; a seed in [0, 2^32) shuffles each class with its own generator, seeded by
    (seed, label), so that a class's order depends on nothing else.
    """
    every = np.asarray(labels)
    order = np.argsort(every, kind='stable')
    present, starts = np.unique(every[order], return_index=True)
    classes = dict(zip(present.tolist(), [part.tolist() for part in np.split(order, starts[1:])], strict=True))
    if seed is None:
        return classes
    return {label: shuffled(indices, seed, label) for label, indices in classes.items()}


def shuffled(indices: Sequence[int], seed: int, key: int) -> list[int]:
    """Shuffle indices with a generator seeded by (seed, key), both in [0, 2^32)."""
    # numpy guarantees that the streams of RandomState never change (NEP 19), but not those of newer generators.
    order = np.random.RandomState([seed, key]).permutation(len(indices))
    return [indices[position] for position in order]


def take(classes: dict[int, list[int]], class_names: Sequence[str] | None, counts: dict[int, int]) -> list[int]:
    """Take the first counts[label] images of each class in `counts`; raises UserError if a class has too few."""
    _check_enough(classes, class_names, counts)
    return [index for label, count in counts.items() for index in classes[label][:count]]


def name_of(label: int, class_names: Sequence[str] | None) -> str:
    """Name a class for a message: '5 (dog)'."""
    if class_names is None or class_names[label] == str(label):
        return str(label)
    return f'{label} ({shown(class_names[label])})'


def _equal_counts(classes: dict[int, list[int]], max_images: int) -> dict[int, int]:
    if max_images % len(classes):
        raise UserError(
            f'`max_images`={max_images} is not a multiple of the {len(classes)} classes; '
            f'give {max_images - max_images % len(classes) or len(classes)}'
        )
    return dict.fromkeys(classes, max_images // len(classes))


def _check_enough(
    classes: dict[int, list[int]], class_names: Sequence[str] | None, counts: dict[int, int], sets: int = 1
) -> None:
    for label, count in counts.items():
        if sets * count > len(classes[label]):
            smallest = min(len(classes[other]) for other in counts)
            which = f'of class {name_of(label, class_names)}, which has' if len(classes) > 1 else 'of'
            raise UserError(
                f'`max_images` asks for {sets * count} images {which} {len(classes[label])}; '
                f'give at most {smallest // sets * len(counts)}'
            )


def _find_class(classes: dict[int, list[int]], class_names: Sequence[str] | None, name: str) -> int:
    for label in classes:
        if class_names is not None and class_names[label] == name:
            return label
    if name.isdecimal() and int(name) in classes:
        return int(name)
    known = [name_of(label, class_names) for label in classes]
    listed = ', '.join(known[:20]) + (', ...' if len(known) > 20 else '')
    raise UserError(f'`class_name`={name} is not a class of the source, which has {listed}; give one of those')
