"""The records of an evaluated run, `mem_traj.jsonl`, and what is known of a snapshot whose evaluation was interrupted.

A record holds the settings that its numbers depend on; a snapshot that has a record of the same settings is not
evaluated again.
"""

import itertools
import json
import platform
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib.util import UserError, atomic_file

# What the numbers of a record depend on.
SETTINGS = ('snapshot', 'snapshot_sha256', 'dataset_sha256', 'sampler', 'seeds', 'class_index', 'batch', 'precision')


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a mem_traj.jsonl, oldest first; none where there is no such file. A line cut short is left out."""
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


def find_record(records: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any] | None:
    """The newest record of exactly these settings, or None."""
    for record in reversed(records):
        if all(record.get(name) == settings[name] for name in SETTINGS):
            return record
    return None


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add a record; the file is whole at any time."""
    lines = [json.dumps(old) for old in read_records(path)] + [json.dumps(record)]
    with atomic_file(path) as file:
        file.write(''.join(line + '\n' for line in lines).encode())


def versions() -> dict[str, str]:
    """Versions of what the numbers were computed with."""
    return {'python': platform.python_version(), 'torch': torch.__version__, 'numpy': np.__version__}


def format_seeds(seeds: Sequence[int]) -> str:
    """Seeds as ranges: [0, 1, 2, 7] is '0-2,7'."""
    runs = itertools.groupby(enumerate(seeds), key=lambda pair: pair[1] - pair[0])
    ranges = [[seed for _, seed in run] for _, run in runs]
    return ','.join(str(run[0]) if len(run) == 1 else f'{run[0]}-{run[-1]}' for run in ranges)


class PartialResults:
    """Neighbours of the images judged so far of one snapshot, kept in a file until its record is written.

    path: of the file, or None to keep nothing. settings: as in the record; a file of other settings is ignored.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]):
        self.path = path
        self.key = json.dumps(settings, sort_keys=True)
        self.found: dict[int, tuple[list[int], list[int]]] = {}  # by seed: two indices, two squared distances
        if path is not None and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as data:
                if str(data['key']) == self.key:
                    found = torch.from_numpy(data['indices']), torch.from_numpy(data['squared_distances'])
                    self.add(data['seeds'].tolist(), *found)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
            return  # a file that cannot be read is as good as none

    def add(self, seeds: Sequence[int], indices: torch.Tensor, squared_distances: torch.Tensor) -> None:
        """Add the results of a batch: int64 [B, 2] each."""
        for seed, index, distance in zip(seeds, indices.tolist(), squared_distances.tolist(), strict=True):
            self.found[seed] = index, distance

    def arrays(self, seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices and squared distances in the order of the seeds, int64 [N, 2] each."""
        pairs = [self.found[seed] for seed in seeds]
        indices, distances = zip(*pairs, strict=True)
        return torch.tensor(indices, dtype=torch.int64), torch.tensor(distances, dtype=torch.int64)

    def save(self) -> None:
        if self.path is None:
            return
        seeds = list(self.found)
        indices, distances = self.arrays(seeds)
        with atomic_file(self.path) as file:
            np.savez(file, key=self.key, seeds=seeds, indices=indices, squared_distances=distances)

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
