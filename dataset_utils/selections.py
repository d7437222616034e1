"""Which images a training set takes: pure functions from labels to indices into the source.

For one seed, and for none, a smaller set is contained in every larger one.
"""

from collections.abc import Sequence

import numpy as np

from dnnlib.util import UserError


def balanced(labels: Sequence[int], class_names: Sequence[str] | None, max_images: int, seed: int | None) -> list[int]:
    """Take max_images / C images of each of the C classes that are present, class after class in order of label.

    labels: of each image in the source. seed: None takes each class's first images, a seed draws them (see `members`).
    Raises UserError when C does not divide max_images, or a class has too few.
    Source: Gu et al. 2023, section 3.1: the first |D|/10 images of each class of CIFAR-10.
    """
    classes = members(labels, seed)
    if max_images % len(classes):
        raise UserError(
            f'--max-images={max_images} is no multiple of the {len(classes)} classes; '
            f'give {max_images - max_images % len(classes) or len(classes)}'
        )
    return take(classes, class_names, dict.fromkeys(classes, max_images // len(classes)))


def members(labels: Sequence[int], seed: int | None) -> dict[int, list[int]]:
    """Return the indices of each class's images by label, labels ascending.

    seed: None keeps the source's order; a seed in [0, 2^32) shuffles each class by a generator of its own, seeded by
    (seed, label), so that neither a longer prefix nor another class changes a class's order.
    """
    every = np.asarray(labels)
    classes = {int(label): np.flatnonzero(every == label) for label in np.unique(every)}
    if seed is not None:
        # RandomState's streams are frozen by numpy's policy (NEP 19), those of newer generators are not.
        classes = {
            label: indices[np.random.RandomState([seed, label]).permutation(len(indices))]
            for label, indices in classes.items()
        }
    return {label: indices.tolist() for label, indices in classes.items()}


def take(classes: dict[int, list[int]], class_names: Sequence[str] | None, counts: dict[int, int]) -> list[int]:
    """Take the first counts[label] images of each class in `counts`; raises UserError when a class has too few."""
    for label, count in counts.items():
        if count > len(classes[label]):
            smallest = min(len(classes[other]) for other in counts)
            raise UserError(
                f'--max-images asks for {count} images of class {name_of(label, class_names)}, which has '
                f'{len(classes[label])}; the largest possible is --max-images={smallest * len(counts)}'
            )
    return [index for label, count in counts.items() for index in classes[label][:count]]


def name_of(label: int, class_names: Sequence[str] | None) -> str:
    """Name a class for a message: '5 (dog)'."""
    if class_names is None or class_names[label] == str(label):
        return str(label)
    return f'{label} ({class_names[label]})'
