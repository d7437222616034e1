"""Reads the history of a run from its folder: its losses, and the ratios of its snapshots."""

import contextlib
import json
from pathlib import Path
from typing import Any

from evaluation.printing import is_far
from studies.report.ratio_plots import RunHistory
from studies.report.run_files import run_records
from training.training_loop import STATS_FILE

_MOST_LOSSES = 200


def run_history(run: Path) -> RunHistory:
    """Read a run's history from its stats.jsonl and mem_traj.jsonl."""
    losses = read_losses(run / STATS_FILE)
    losses = losses[:: -(-len(losses) // _MOST_LOSSES) or 1]
    records = newest_records(run_records(run))
    ratios = ((record['kimg'], record['ratio'], record['ratio_low'], record['ratio_high']) for record in records)
    far = (record['kimg'] for record in records if is_far(record))
    return RunHistory(tuple(losses), tuple(ratios), tuple(far))  # tuples can be hashed, as `trainings.drawn` requires


def newest_records(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest record of each snapshot, ordered by epochs.

    Only records with the same seeds, sampler and precision as the newest record are used.
    """
    if not records:
        return []
    same = [r for r in records if all(r.get(key) == records[-1].get(key) for key in ('seeds', 'sampler', 'precision'))]
    return sorted({record['snapshot']: record for record in same}.values(), key=lambda record: record['epochs'])


def read_losses(path: Path) -> list[tuple[float, float]]:
    """The kimg and mean loss in each line of a stats.jsonl; damaged lines are skipped; empty if the file is missing."""
    losses = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            fields = json.loads(line)
            losses.append((float(fields['Progress/kimg']), float(fields['Loss/loss']['mean'])))
    return losses
