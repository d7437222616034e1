"""The records of evaluated snapshots, `mem_traj.jsonl`, and the images of the best of them, `mem_best.npz`.

A record holds the settings that its numbers depend on; a snapshot that has a record with the same settings is not
evaluated again, and a `mem_best.npz` with other settings is ignored.
"""

import itertools
import json
import platform
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import UserError, atomic_file, code_sha256
from evaluation.memorization import THRESHOLD

# What the numbers of a record depend on.
SETTINGS = (
    *('snapshot', 'snapshot_sha256', 'dataset_sha256', 'xflip', 'sampler', 'seeds', 'class_index', 'classes', 'batch'),
    'precision',
)
BEST_NAME = 'mem_best.npz'

Record = dict[str, Any]


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record.get(name) for name in SETTINGS}


def read_records(path: Path) -> list[Record]:
    """The records of a mem_traj.jsonl, oldest first; none if there is no such file. An incomplete last line is skipped.

    Raises UserError for another line that is not a record.
    """
    if not path.exists():
        return []
    records = []
    lines = path.read_text(encoding='utf-8').splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            assert isinstance(record, dict)
        except (ValueError, AssertionError) as error:
            if number == len(lines):
                break
            raise UserError(f'{path}: line {number} is not a record; remove it') from error
        records.append(record)
    return records


def find_record(records: Sequence[Record], settings: Mapping[str, Any]) -> Record | None:
    """The newest record with exactly these settings, or None."""
    return next((record for record in reversed(records) if settings_of(record) == settings_of(settings)), None)


def best_record(records: Sequence[Record]) -> Record:
    """The record of the highest ratio; among equal ratios, the record of the latest snapshot."""
    return max(records, key=lambda record: (record['ratio'], record['kimg'] or 0))


def append_record(path: Path, record: Record) -> None:
    """Add a record; the file is complete at any time."""
    lines = [json.dumps(old) for old in read_records(path)] + [json.dumps(record)]
    with atomic_file(path) as file:
        file.write(''.join(line + '\n' for line in lines).encode())


def versions() -> dict[str, str]:
    """Versions of the software that computed a record, and the hash of this toolkit's code."""
    return {
        'python': platform.python_version(),
        'torch': torch.__version__,
        'numpy': np.__version__,
        'code_sha256': code_sha256(),
    }


def format_seeds(seeds: Sequence[int]) -> str:
    """Seeds as ranges: [0, 1, 2, 7] is '0-2,7'."""
    runs = itertools.groupby(enumerate(seeds), key=lambda pair: pair[1] - pair[0])
    ranges = [[seed for _, seed in run] for _, run in runs]
    return ','.join(str(run[0]) if len(run) == 1 else f'{run[0]}-{run[-1]}' for run in ranges)


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


def closeness(squared_distances: Tensor) -> Tensor:
    """How far each image is from the threshold of a copy: |log(d1 / d2 / threshold)|, infinite for an exact copy.

    squared_distances: int64 [N, 2]. Returns float64 [N].
    """
    nearest, second = squared_distances.double().unbind(1)
    return (0.5 * (nearest / second).log() - np.log(THRESHOLD)).abs()


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings_of(settings), sort_keys=True)
