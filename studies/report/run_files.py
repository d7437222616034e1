"""Reads the records and statistics in run folders; what is not readable is left out."""

import json
from pathlib import Path
from typing import Any

from dnnlib.util import UserError
from evaluation.records import Record, read_records


def all_records(run: Path) -> list[Record]:
    """The records of a run folder, oldest first; empty if the file is missing or damaged."""
    try:
        return read_records(run / 'mem_traj.jsonl')
    except (UserError, UnicodeDecodeError):
        return []


def run_records(run: Path) -> list[Record]:
    """Like `all_records`, but only of snapshots whose kimg and epochs are known, not of closed forms."""
    records = all_records(run)
    return [record for record in records if None not in (record['kimg'], record['epochs'])]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; missing, truncated or other lines are omitted."""
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
