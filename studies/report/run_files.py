"""Reads records from run folders. Missing or corrupt files do not raise errors."""

from pathlib import Path

from dnnlib.util import UserError
from evaluation.records import Record, evaluation_of, newest_evaluation, read_records
from studies.points import read_result


def all_records(run: Path) -> list[Record]:
    """The records in a run folder's mem_traj.jsonl, oldest first; an empty list if the file is missing or corrupt."""
    try:
        return read_records(run / 'mem_traj.jsonl')
    except (UserError, UnicodeDecodeError):
        return []


def run_records(run: Path) -> list[Record]:
    """Like `all_records`, but without records that have no kimg or epochs, such as the records of closed forms."""
    return [record for record in all_records(run) if None not in (record['kimg'], record['epochs'])]


def point_records(folder: Path) -> list[Record]:
    """The newest record of each snapshot in a point's own evaluation, in the order of kimg.

    Its run can also have records of other evaluations, made by hand. Closed forms are left out, as in `run_records`.
    """
    records, result = run_records(folder / 'run'), read_result(folder)
    own = [record for record in records if result is None or evaluation_of(record) == evaluation_of(result)]
    return newest_evaluation(own)
