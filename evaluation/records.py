"""The records of evaluated snapshots, `mem_traj.jsonl`, without torch.

A record holds the settings that its numbers depend on; a snapshot that has a record with the same settings is not
evaluated again.
"""

import itertools
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from dnnlib.text_tables import write_text
from dnnlib.typed import parse_json
from dnnlib.util import UserError, code_sha256

# What the numbers of a record depend on.
SETTINGS = (
    *('snapshot', 'snapshot_sha256', 'dataset_sha256', 'xflip', 'sampler', 'seeds', 'class_index', 'classes', 'batch'),
    *('class_prior', 'precision', 'measured'),
)

Record = dict[str, Any]
Ratio = Annotated[float, Meta(ge=0, le=1)]


class Numbers(Struct, frozen=True):
    """What every record of an evaluated snapshot has; kimg and epochs are None if unknown."""

    num_images: Annotated[int, Meta(ge=1)]
    num_memorized: Annotated[int, Meta(ge=0)]
    num_duplicates: Annotated[int, Meta(ge=0)]
    ratio: Ratio
    ratio_low: Ratio
    ratio_high: Ratio
    mean_distance: Annotated[float, Meta(ge=0)]
    kimg: float | None
    epochs: float | None

    def __post_init__(self) -> None:
        if self.num_memorized > self.num_images:
            raise ValueError(f'{self.num_memorized} copies of {self.num_images} images')


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    raced = {'raced_seeds': record['raced_seeds']} if 'raced_seeds' in record else {}
    return {name: record.get(name) for name in SETTINGS} | raced


def parse_record(text: str | bytes, where: str) -> Record:
    """A record from its JSON text. where: for messages. Raises UserError if it lacks one of `Numbers`."""
    parse_json(text, Numbers, where)
    return json.loads(text)


def read_records(path: Path) -> list[Record]:
    """The records of a mem_traj.jsonl, oldest first; none if there is no such file. An incomplete last line is skipped.

    Raises UserError for another line that is not a record.
    """
    if not path.exists():
        return []
    records = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            records.append(parse_record(line, f'{path}: line {number}'))
        except UserError as error:
            if number < len(lines):
                raise UserError(f'{error}; remove it') from error
    return records


def find_record(records: Sequence[Record], settings: Mapping[str, Any]) -> Record | None:
    """The newest record with exactly these settings, or None."""
    return next((record for record in reversed(records) if settings_of(record) == settings_of(settings)), None)


def best_record(records: Sequence[Record]) -> Record:
    """The record of the highest ratio; among equal ratios, the record of the latest snapshot.

    Only records with the most images count: snapshots that left a race have fewer.
    """
    return max(records, key=lambda record: (record['num_images'], record['ratio'], record['kimg'] or 0))


def append_record(path: Path, record: Record) -> None:
    """Add a record; the file is complete at any time."""
    _write(path, [*read_records(path), record])


def replace_record(path: Path, record: Record) -> None:
    """Write a record, with more entries than before, in place of the newest one with the same settings."""
    records = read_records(path)
    place = max(place for place, old in enumerate(records) if settings_of(old) == settings_of(record))
    records[place] = record
    _write(path, records)


def _write(path: Path, records: Sequence[Record]) -> None:
    write_text(path, ''.join(json.dumps(record) + '\n' for record in records))


def versions() -> dict[str, str]:
    """Versions of the software that computed a record, and the hash of this toolkit's code."""
    import numpy as np  # only here: tables of records are shown without them
    import torch

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
