"""Reads records from run folders. Missing or corrupt files do not raise errors."""

from pathlib import Path

from dnnlib.util import UserError
from evaluation.records import Record, read_records


def all_records(run: Path) -> list[Record]:
    """The records in a run folder's mem_traj.jsonl, oldest first; an empty list if the file is missing or corrupt."""
    try:
        return read_records(run / 'mem_traj.jsonl')
    except (UserError, UnicodeDecodeError):
        return []


def run_records(run: Path) -> list[Record]:
    """Like `all_records`, but without records that have no kimg or epochs, such as the records of closed forms."""
    records = all_records(run)
    return [record for record in records if None not in (record['kimg'], record['epochs'])]
