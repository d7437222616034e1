"""The images of the evaluated snapshot with the highest ratio, and their neighbours: `mem_best.npz`."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import atomic_file
from evaluation.records import settings_of

BEST_NAME = 'mem_best.npz'


@dataclass(frozen=True)
class BestSnapshot:
    """The images of the snapshot with the highest ratio, and their neighbours: the arrays of a mem_best.npz.

    seeds: int64 [N]. images: uint8 [N, C, H, W]. classes: int64 [N], -1 without a class.
    indices, squared_distances: int64 [N, 2], as in `evaluation.memorization.Memorization`.
    """

    seeds: Tensor
    images: Tensor
    classes: Tensor
    indices: Tensor
    squared_distances: Tensor


def write_best(path: Path, settings: Mapping[str, Any], best: BestSnapshot) -> None:
    """Write the file, uncompressed. settings: as in the snapshot's record."""
    with atomic_file(path) as file:
        arrays = {name: tensor.numpy() for name, tensor in vars(best).items()}
        np.savez(file, key=_key(settings), **arrays)  # type: ignore[arg-type]


def read_best(path: Path, settings: Mapping[str, Any]) -> BestSnapshot | None:
    """The images of a snapshot with exactly these settings, or None if the file has others or cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as data:
            if str(data['key']) != _key(settings):
                return None
            best = BestSnapshot(**{name: torch.from_numpy(data[name]) for name in BestSnapshot.__annotations__})
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return best if len(best.images) == len(best.seeds) else None


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings_of(settings), sort_keys=True)
