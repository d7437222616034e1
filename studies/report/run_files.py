"""Reads records and statistics from run folders; unreadable parts are skipped."""

import json
from pathlib import Path
from typing import Any

from dnnlib.util import UserError
from evaluation.records import Record, read_records


def all_records(run: Path) -> list[Record]:
    """All records in a run folder, oldest first; empty if the file is missing or corrupt."""
    try:
        return read_records(run / 'mem_traj.jsonl')
    except (UserError, UnicodeDecodeError):
        return []


def run_records(run: Path) -> list[Record]:
    """Like `all_records`, but only for snapshots whose kimg and epochs are known (not for closed forms)."""
    records = all_records(run)
    return [record for record in records if None not in (record['kimg'], record['epochs'])]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a JSON lines file; missing, truncated or invalid lines are skipped."""
    found = []
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    for line in lines:
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(fields, dict):
            found.append(fields)
    return found
