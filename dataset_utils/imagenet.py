"""Which of ImageNet's synsets stand for a class of CIFAR-10: the table `imagenet_superclasses.csv`."""

import csv
from importlib.resources import files

from dataset_utils.sources import Source
from dataset_utils.sources.base import shown
from dnnlib.util import UserError

CIFAR10_CLASSES = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
TRAIN = 'ILSVRC/Data/CLS-LOC/train'


def superclasses() -> dict[str, list[str]]:
    """Return the synsets of each superclass, sorted, by its name, which is one of CIFAR-10's class names."""
    table: dict[str, list[str]] = {}
    text = (files('dataset_utils') / 'imagenet_superclasses.csv').read_text(encoding='utf-8')
    for row in csv.DictReader(text.splitlines()):
        table.setdefault(row['superclass'], []).append(row['wnid'])
    return {name: sorted(synsets) for name, synsets in table.items()}


def images_by_synset(source: Source, superclass: str) -> list[tuple[str, list[int]]]:
    """Return the indices of the source's images of each synset of a superclass, synsets and images sorted.

    Raises UserError when the superclass is unknown, or one of its synsets is missing in the source.
    """
    table = superclasses()
    if superclass not in table:
        raise UserError(f'--superclass={superclass} is unknown; give one of {", ".join(sorted(table))}')
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
            f'{source.where}: none of the {total} synset folders of {superclass} is there, {folders}; '
            f"name ImageNet's folder of synsets, such as {TRAIN}"
        )
    listed = ', '.join(missing[:10]) + (', ...' if len(missing) > 10 else '')
    return (
        f'{source.where}: {total - len(missing)} of the {total} synset folders of {superclass} are there, '
        f'{listed} missing or empty; add them'
    )
