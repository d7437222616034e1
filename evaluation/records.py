"""The records of evaluated snapshots, stored in `mem_traj.jsonl` (no torch).

A record includes the settings that determine its numbers; a snapshot that has a record with the same settings is not
evaluated again.
"""

import itertools
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from dnnlib.text_tables import write_text
from dnnlib.typed import parse_json
from dnnlib.util import UserError, code_sha256

# Settings that determine a record's numbers.
SETTINGS = (
    *('snapshot', 'snapshot_sha256', 'dataset_sha256', 'xflip', 'sampler', 'seeds', 'class_index', 'classes', 'batch'),
    *('class_prior', 'precision', 'measured'),
)

# A generated image is far from any data if it is farther than FAR reference distances from each training image.
FAR = 2**0.5

Record = dict[str, Any]
Ratio = Annotated[float, Meta(ge=0, le=1)]


class Numbers(Struct, frozen=True):
    """The fields that every snapshot's record has; kimg and epochs are None if unknown."""

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
            raise ValueError(f'{self.num_memorized} copies out of {self.num_images} images is impossible')


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    raced = {'raced_seeds': record['raced_seeds']} if 'raced_seeds' in record else {}
    return {name: record.get(name) for name in SETTINGS} | raced


def evaluation_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that all records of one evaluation of a run share."""
    own = settings_of(record)
    own['seeds'] = own.get('raced_seeds', own['seeds'])  # in a race, snapshots get different numbers of seeds
    return {name: value for name, value in own.items() if name not in ('snapshot', 'snapshot_sha256')}


def evaluations(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each evaluation, in the order of the evaluations' first records."""
    found: list[list[Record]] = []
    for record in records:
        same = next((group for group in found if evaluation_of(group[0]) == evaluation_of(record)), None)
        if same is None:
            found.append([record])
        else:
            same.append(record)
    return found


def newest_evaluation(records: Sequence[Record]) -> list[Record]:
    """The newest record of each snapshot in the evaluation that the last record belongs to, in the order of kimg."""
    if not records:
        return []
    same = [record for record in records if evaluation_of(record) == evaluation_of(records[-1])]
    return sorted({record['snapshot']: record for record in same}.values(), key=lambda record: record['kimg'] or 0)


def changed_settings(
    old: Mapping[str, Any], new: Mapping[str, Any], *, of: Callable[[Mapping[str, Any]], dict[str, Any]] = evaluation_of
) -> str:
    """How the settings of an evaluation differ from those of another, such as 'seeds=0-9 instead of 0-99'.

    old, new: a record of each evaluation. of: gives the settings to compare; `evaluation_of` leaves out the snapshot,
    and `settings_of` includes it. The result is empty if the settings are the same.
    """
    before, after = (dict(_flat(of(record))) for record in (old, new))
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ', '.join(f'{name}={after.get(name)} instead of {before.get(name)}' for name in names)


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each setting and its value; hashes are shortened to eight characters."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield name, value[:8] if 'sha256' in name and isinstance(value, str) else value


def parse_record(text: str | bytes, where: str) -> Record:
    """Parse a record from JSON. where: the source of the text, for messages.

    Raises UserError if the record lacks a field of `Numbers`.
    """
    parse_json(text, Numbers, where)
    return json.loads(text)


def read_records(path: Path) -> list[Record]:
    """Read the records in a mem_traj.jsonl, oldest first. Returns an empty list if the file does not exist.

    An incomplete last line is skipped. Raises UserError if another line is not a record.
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
                raise UserError(f'{error}; remove this line') from error
    return records


def find_record(records: Sequence[Record], settings: Mapping[str, Any]) -> Record | None:
    """The newest record with exactly these settings, or None."""
    return next((record for record in reversed(records) if settings_of(record) == settings_of(settings)), None)


def best_record(records: Sequence[Record]) -> Record:
    """The record with the highest ratio; among equal ratios, the record of the latest snapshot.

    Only records with the most images are compared, because snapshots eliminated from a race have fewer images.
    """
    return max(records, key=lambda record: (record['num_images'], record['ratio'], record['kimg'] or 0))


def append_record(path: Path, record: Record) -> None:
    """Append a record. If writing is interrupted, the old file remains."""
    _write(path, [*read_records(path), record])


def replace_record(path: Path, record: Record) -> None:
    """Replace the newest record with the same settings by `record`, which has more entries."""
    records = read_records(path)
    place = max(place for place, old in enumerate(records) if settings_of(old) == settings_of(record))
    records[place] = record
    _write(path, records)


def _write(path: Path, records: Sequence[Record]) -> None:
    write_text(path, ''.join(json.dumps(record) + '\n' for record in records))


def versions() -> dict[str, str]:
    """The versions of the software that computed a record, and a hash of this toolkit's code."""
    import numpy as np  # these slow imports are not needed to read records
    import torch

    return {
        'python': platform.python_version(),
        'torch': torch.__version__,
        'numpy': np.__version__,
        'code_sha256': code_sha256(),
    }


def format_seeds(seeds: Sequence[int]) -> str:
    """Format seeds as ranges: [0, 1, 2, 7] becomes '0-2,7'."""
    runs = itertools.groupby(enumerate(seeds), key=lambda pair: pair[1] - pair[0])
    ranges = [[seed for _, seed in run] for _, run in runs]
    return ','.join(str(run[0]) if len(run) == 1 else f'{run[0]}-{run[-1]}' for run in ranges)
