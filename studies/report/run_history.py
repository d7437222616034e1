"""Reads the history of a run from its folder: its losses, and the ratios of its snapshots."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from evaluation.printing import is_far
from evaluation.records import Record, newest_evaluation
from studies.report.ratio_plots import RunHistory
from training.training_loop import STATS_FILE

_MOST_LOSSES = 200


def run_history(run: Path, records: Sequence[Record]) -> RunHistory:
    """Read a run's losses from its stats.jsonl, and take its ratios from the records of one evaluation."""
    losses = read_losses(run / STATS_FILE)
    losses = losses[:: -(-len(losses) // _MOST_LOSSES) or 1]
    records = newest_evaluation(records)
    ratios = ((record['kimg'], record['ratio'], record['ratio_low'], record['ratio_high']) for record in records)
    far = (record['kimg'] for record in records if is_far(record))
    return RunHistory(tuple(losses), tuple(ratios), tuple(far))  # tuples can be hashed, as `trainings.drawn` requires


def read_losses(path: Path) -> list[tuple[float, float]]:
    """The kimg and mean loss in each line of a stats.jsonl; damaged lines are skipped; empty if the file is missing."""
    losses = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            fields = json.loads(line)
            losses.append((float(fields['Progress/kimg']), float(fields['Loss/loss']['mean'])))
    return losses
