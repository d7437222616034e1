"""The ImageNet synsets that correspond to each CIFAR-10 class, from the table `imagenet_superclasses.csv`."""

import csv
from importlib.resources import files

from dataset_utils.sources import Source
from dataset_utils.sources.base import some
from dnnlib.util import UserError

CIFAR10_CLASSES = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
TRAIN = 'ILSVRC/Data/CLS-LOC/train'


def superclasses() -> dict[str, list[str]]:
    """Return a dict that maps each superclass (the name of a CIFAR-10 class) to its sorted synsets."""
    table: dict[str, list[str]] = {}
    text = (files('dataset_utils') / 'imagenet_superclasses.csv').read_text(encoding='utf-8')
    for row in csv.DictReader(text.splitlines()):
        table.setdefault(row['superclass'], []).append(row['wnid'])
    return {name: sorted(synsets) for name, synsets in table.items()}


def images_by_synset(source: Source, superclass: str) -> list[tuple[str, list[int]]]:
    """For each synset of a superclass, return the synset and the indices of its images in the source.

    Synsets and indices are sorted.
    Raises UserError if the superclass is unknown, or if the source lacks one of its synsets.
    """
    table = superclasses()
    if superclass not in table:
        raise UserError(f'`superclass`={superclass} is unknown; give one of {", ".join(sorted(table))}')
    names = source.class_names or []
    found: dict[str, list[int]] = {synset: [] for synset in table[superclass]}
    missing = [synset for synset in found if synset not in names]
    if missing:
        raise UserError(
            f'{source.where} has {len(found) - len(missing)} of the {len(found)} synset folders for {superclass} '
            f'(missing or empty: {some(missing)}; folders found: {some(names) or "none"}); '
            f'give a folder that has all of them, such as {TRAIN}'
        )
    for index, label in enumerate(source.labels or []):
        if names[label] in found:
            found[names[label]].append(index)
    return list(found.items())
