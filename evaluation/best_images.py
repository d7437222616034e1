"""`mem_best.npz`: the images of the evaluated snapshot with the highest ratio, and their nearest training images."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation.generators import Generator
from evaluation.records import changed_settings, evaluation_of, settings_of
from evaluation.saved_arrays import read_arrays, read_settings, write_arrays

BEST_NAME = 'mem_best.npz'


@dataclass(frozen=True)
class BestSnapshot:
    """The arrays in mem_best.npz: the images of the snapshot with the highest ratio, and their nearest training images.

    seeds: int64 [N]. images: uint8 [N, C, H, W]. classes: int64 [N], -1 for images without a class.
    indices, squared_distances: int64 [N, 2], as in `evaluation.memorization.Memorization`.
    """

    seeds: Tensor
    images: Tensor
    classes: Tensor
    indices: Tensor
    squared_distances: Tensor


def write_best(path: Path, record: Mapping[str, Any], best: BestSnapshot) -> None:
    """Write mem_best.npz. record: the snapshot's record, whose settings are stored with the images."""
    write_arrays(path, settings_of(record), {name: tensor.numpy() for name, tensor in vars(best).items()})


def changed_from_best(path: Path, record: Mapping[str, Any], generators: Iterable[Generator]) -> str:
    """How the record's settings differ from those in mem_best.npz; empty if they are equal or the file is missing.

    generators: all generators of this evaluation, such as the snapshots of a run; mem_best.npz may contain images from
        any of them.
    See `evaluation.records.changed_settings`.
    """
    found = read_settings(path)
    if not found:
        return ''
    is_own = any(found.get('snapshot') == own.name and found.get('snapshot_sha256') == own.sha256 for own in generators)
    return changed_settings(found, record, of=evaluation_of if is_own else settings_of)


def read_best(path: Path, record: Mapping[str, Any]) -> BestSnapshot | None:
    """Read the images saved with the record's settings; None if the settings differ or the file cannot be read."""
    arrays = read_arrays(path, settings_of(record))
    if arrays is None or arrays.keys() != BestSnapshot.__annotations__.keys():
        return None
    shapes = {'seeds': 1, 'images': 4, 'classes': 1, 'indices': 2, 'squared_distances': 2}
    for name, array in arrays.items():
        is_kind = array.dtype == (np.uint8 if name == 'images' else np.int64) and array.ndim == shapes[name]
        if not is_kind or len(array) != len(arrays['seeds']) or (shapes[name] == 2 and array.shape[1] != 2):
            return None
    if not len(arrays['seeds']) or arrays['indices'].min() < 0:
        return None
    return BestSnapshot(**{name: torch.from_numpy(array) for name, array in arrays.items()})
