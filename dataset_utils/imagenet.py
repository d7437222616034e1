"""ImageNet's synsets for each class of CIFAR-10: the table `imagenet_superclasses.csv`."""

import csv
from importlib.resources import files

from dataset_utils.sources import Source
from dataset_utils.sources.base import shown
from dnnlib.util import UserError

CIFAR10_CLASSES = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
TRAIN = 'ILSVRC/Data/CLS-LOC/train'


def superclasses() -> dict[str, list[str]]:
    """Return the sorted synsets of each superclass; superclasses have the names of CIFAR-10's classes."""
    table: dict[str, list[str]] = {}
    text = (files('dataset_utils') / 'imagenet_superclasses.csv').read_text(encoding='utf-8')
    for row in csv.DictReader(text.splitlines()):
        table.setdefault(row['superclass'], []).append(row['wnid'])
    return {name: sorted(synsets) for name, synsets in table.items()}


def images_by_synset(source: Source, superclass: str) -> list[tuple[str, list[int]]]:
    """Return each synset of a superclass with the indices of its images in the source, both sorted.

    Raises UserError if the superclass is unknown, or if the source lacks one of its synsets.
    """
    table = superclasses()
    if superclass not in table:
        raise UserError(f'`superclass`={superclass} is unknown; give one of {", ".join(sorted(table))}')
    names = source.class_names or []
    missing = [synset for synset in table[superclass] if synset not in names]
    if missing:
        raise UserError(_missing_words(source, superclass, len(table[superclass]), missing))
    found: dict[str, list[int]] = {synset: [] for synset in table[superclass]}
    for index, label in enumerate(source.labels or []):
        if names[label] in found:
            found[names[label]].append(index)
    return list(found.items())


def _missing_words(source: Source, superclass: str, total: int, missing: list[str]) -> str:
    if len(missing) == total:
        folders = (
            f'its folders are {shown(", ".join(source.class_names[:5]))}' if source.class_names else 'it has no folders'
        )
        return (
            f'{source.where}: it has none of the {total} synset folders of {superclass}, {folders}; '
            f"give ImageNet's folder of synsets, such as {TRAIN}"
        )
    listed = ', '.join(missing[:10]) + (', ...' if len(missing) > 10 else '')
    return (
        f'{source.where}: it has {total - len(missing)} of the {total} synset folders of {superclass}, '
        f'{listed} missing or empty; add them'
    )
