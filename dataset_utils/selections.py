"""Which images a training set takes: pure functions from labels to indices into the source.

For one seed, and for none, a smaller set is contained in every larger one, but for the remainder of `first_classes`.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from dataset_utils.sources.base import shown
from dnnlib.util import UserError


def balanced(labels: Sequence[int], class_names: Sequence[str] | None, max_images: int, seed: int | None) -> list[int]:
    """Take max_images / C images of each of the C classes that are present, class after class in order of label.

    labels: of each image in the source. seed: None takes each class's first images, a seed draws them (see `members`).
    Raises UserError when C does not divide max_images, or a class has too few.
    Source: Gu et al. 2023, section 3.1: the first |D|/10 images of each class of CIFAR-10.
    """
    classes = members(labels, seed)
    return take(classes, class_names, _equal_counts(classes, max_images))


def halves(
    labels: Sequence[int], class_names: Sequence[str] | None, max_images: int, seed: int | None
) -> tuple[list[int], list[int]]:
    """Take two disjoint sets of `max_images` images each: the first is `balanced`'s, the second the next of each class.

    Raises UserError as `balanced` does, for twice as many images.
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
    """Take max_images // C images of each of the first C classes that are present, and the remainder of the last.

    Raises UserError when there are fewer classes, less than one image for each, or a class has too few.
    Source: Gu et al. 2023, section 4.2 (inter-diversity).
    """
    classes = members(labels, seed)
    if num_classes > len(classes):
        raise UserError(f'--num-classes={num_classes} is more than the {len(classes)} classes of the source; lower it')
    if max_images < num_classes:
        raise UserError(f'--max-images={max_images} is less than one for each of --num-classes={num_classes}; raise it')
    counts = dict.fromkeys(list(classes)[:num_classes], max_images // num_classes)
    counts[list(counts)[-1]] += max_images % num_classes
    return take(classes, class_names, counts)


def one_class(
    labels: Sequence[int], class_names: Sequence[str] | None, name: str, max_images: int | None, seed: int | None
) -> list[int]:
    """Take the first `max_images` images of one class, or all of it. name: the class's name, or its label in digits.

    Raises UserError when there is no such class, listing those that are, or it has too few images.
    """
    classes = members(labels, seed)
    label = _find_class(classes, class_names, name)
    return take(classes, class_names, {label: len(classes[label]) if max_images is None else max_images})


def repeated(labels: Sequence[int] | None, count: int, copies: int, fraction: float, seed: int | None) -> list[int]:
    """Take all `count` images in order, then a fraction of them again and again, until each of those is there `copies`
    times.

    Repeated are round(fraction * count) images, of each class the same share to within an image: the first, or drawn by
    the seed; without labels all images count as one class. A smaller fraction's are among a larger one's. fraction: in
    [0, 1].
    """
    classes = members(labels if labels is not None else [0] * count, seed)
    # Every image stands at the share of its class that it completes, and those that stand first are taken.
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
    """Draw `max_images` images evenly from groups, group after group; the first max_images mod S of S give one more.

    groups: name, such as 'n02085620', and indices of each; its digits and the seed decide how a group is shuffled, so
    that the draw does not depend on what else the source holds. is_wanted: whether an index may be taken; the next of
    its group takes its place. Raises UserError when a group has too few.
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
                f'--max-images={max_images} asks for {count} images of {name}, which has {len(taken)} {kind}; lower it'
            )
        chosen += taken
    return chosen


def members(labels: Sequence[int], seed: int | None) -> dict[int, list[int]]:
    """Return the indices of each class's images by label, labels ascending.

    seed: None keeps the source's order; a seed in [0, 2^32) shuffles each class by a generator of its own, seeded by
    (seed, label), so that neither a longer prefix nor another class changes a class's order.
    """
    every = np.asarray(labels)
    order = np.argsort(every, kind='stable')
    present, starts = np.unique(every[order], return_index=True)
    classes = dict(zip(present.tolist(), [part.tolist() for part in np.split(order, starts[1:])], strict=True))
    if seed is None:
        return classes
    return {label: shuffled(indices, seed, label) for label, indices in classes.items()}


def shuffled(indices: Sequence[int], seed: int, key: int) -> list[int]:
    """Shuffle indices by a generator that is seeded by (seed, key), both in [0, 2^32)."""
    # RandomState's streams are frozen by numpy's policy (NEP 19), those of newer generators are not.
    order = np.random.RandomState([seed, key]).permutation(len(indices))
    return [indices[position] for position in order]


def take(classes: dict[int, list[int]], class_names: Sequence[str] | None, counts: dict[int, int]) -> list[int]:
    """Take the first counts[label] images of each class in `counts`; raises UserError when a class has too few."""
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
            f'--max-images={max_images} is no multiple of the {len(classes)} classes; '
            f'give {max_images - max_images % len(classes) or len(classes)}'
        )
    return dict.fromkeys(classes, max_images // len(classes))


def _check_enough(
    classes: dict[int, list[int]], class_names: Sequence[str] | None, counts: dict[int, int], sets: int = 1
) -> None:
    for label, count in counts.items():
        if sets * count > len(classes[label]):
            smallest = min(len(classes[other]) for other in counts)
            raise UserError(
                f'--max-images asks for {sets * count} images of class {name_of(label, class_names)}, which has '
                f'{len(classes[label])}; the largest possible is --max-images={smallest // sets * len(counts)}'
            )


def _find_class(classes: dict[int, list[int]], class_names: Sequence[str] | None, name: str) -> int:
    for label in classes:
        if class_names is not None and class_names[label] == name:
            return label
    if name.isdecimal() and int(name) in classes:
        return int(name)
    known = [name_of(label, class_names) for label in classes]
    listed = ', '.join(known[:20]) + (', ...' if len(known) > 20 else '')
    raise UserError(f'--class-name={name} is no class of the source, which has {listed}; give one of those')
