"""Reads the history of a run from its folder: its losses, and the ratios of its snapshots."""

from pathlib import Path
from typing import Any

from evaluation.printing import is_far
from studies.report.ratio_plots import RunHistory
from studies.report.run_files import read_lines, run_records
from training.training_loop import STATS_FILE

_MOST_LOSSES = 200


def run_history(run: Path) -> RunHistory:
    """Read a run's history from its stats.jsonl and mem_traj.jsonl."""
    losses = [pair for pair in map(loss_of, read_lines(run / STATS_FILE)) if pair is not None]
    losses = losses[:: -(-len(losses) // _MOST_LOSSES) or 1]
    names = ('kimg', 'ratio', 'ratio_low', 'ratio_high')
    records = newest_records(run_records(run))
    far = [record['kimg'] for record in records if is_far(record)]
    return RunHistory(losses, [tuple(record[name] for name in names) for record in records], far)


def newest_records(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest record of each snapshot, ordered by epochs.

    Only records with the same seeds, sampler and precision as the newest record are used.
    """
    if not records:
        return []
    same = [r for r in records if all(r.get(key) == records[-1].get(key) for key in ('seeds', 'sampler', 'precision'))]
    return sorted({record['snapshot']: record for record in same}.values(), key=lambda record: record['epochs'])


def loss_of(fields: dict[str, Any]) -> tuple[float, float] | None:
    """The kimg and mean loss from a line of stats.jsonl."""
    kimg, loss = fields.get('Progress/kimg'), fields.get('Loss/loss')
    mean = loss.get('mean') if isinstance(loss, dict) else None
    return (float(kimg), float(mean)) if isinstance(kimg, int | float) and isinstance(mean, int | float) else None
