"""A study's diagnostic measurements as table rows: errors by noise level, agreement, and clocks."""

import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dnnlib.typed import read_json
from evaluation.diagnosis_options import DIFFERENT_SEEDS, NEAREST, SAME_SEED, TRAINING
from evaluation.intervals import t_quantile
from studies.points import DONE
from studies.results import StudyResults

Row = dict[str, Any]
# The similarities shown in tables and figures. For each: the kinds of image pairs over which it is averaged, and the
# displayed name.
AGREEMENT = {
    'same_seed': ((SAME_SEED,), 'A and B, same seed'),
    'nearest_image': (NEAREST, 'generated images and their nearest training image'),
    'training_sets': ((TRAINING,), "training images of A and the nearest of B's"),
    'different_seeds': ((DIFFERENT_SEEDS,), 'A and B, different seeds'),
}


def level_rows(results: StudyResults) -> list[Row]:
    """The errors of each finished point's last snapshot: one row per noise level and source of noisy images."""
    return [
        {**head, 'kimg': records[-1]['settings']['kimg'], **row}
        for head, run in _finished(results, 'levels')
        if (records := read_json(run / 'levels.json', list[Any]))
        for row in records[-1]['rows']
    ]


def agreement_rows(results: StudyResults) -> list[Row]:
    """The agreement of each finished point with its second network: one row per kind of image pair."""
    return [
        {**head, **row}
        for head, run in _finished(results, 'agreement')
        for record in read_json(run / 'agreement.json', list[Any]) or []
        for row in record['rows']
    ]


def mean_agreement(results: StudyResults) -> list[Row]:
    """The similarities in `AGREEMENT` for each combination and size: means over repeats, with 95 % intervals.

    With several repeats, these are Student's t intervals over repeats; with one repeat, intervals over its images.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in agreement_rows(results):
        head = {factor.name: row[factor.name] for factor in results.study.factors} | {'size': row['size']}
        groups.setdefault(tuple(head.items()), []).append(row)
    return [mean_row(dict(head), rows) for head, rows in groups.items()]


def mean_row(head: Row, rows: list[Row]) -> Row:
    """The similarities in `AGREEMENT`: means over repeats, with 95 % intervals.

    head: fields placed before the measured ones. rows: the rows to average, in the format of `agreement_rows`.
    """
    repeats = sorted({row['repeat'] for row in rows})
    found = {**head, 'repeats': len(repeats)}
    for name, (kinds, _) in AGREEMENT.items():
        own = [[row for row in rows if row['repeat'] == repeat and row['pairs'] in kinds] for repeat in repeats]
        means, lows, highs = (
            [statistics.fmean(row[f'mean{end}'] for row in each) for each in own] for end in ('', '_low', '_high')
        )
        mean, low, high = statistics.fmean(means), lows[0], highs[0]
        if len(means) > 1:
            half = t_quantile(len(means) - 1) * statistics.stdev(means) / math.sqrt(len(means))
            low, high = mean - half, mean + half
        found |= {name: mean, f'{name}_low': low, f'{name}_high': high}
    return found


def clock_rows(results: StudyResults) -> list[Row]:
    """The clocks of each finished point, in kimg, with their 95 % intervals."""
    rows = []
    for head, run in _finished(results, 'clocks'):
        for record in read_json(run / 'clocks.json', list[Any]) or []:
            row = dict(head)
            for name, clock in record['clocks'].items():
                row |= {name: clock['time'], f'{name}_low': clock['low'], f'{name}_high': clock['high']}
            rows.append(row)
    return rows


def _finished(results: StudyResults, measurement: str) -> Iterator[tuple[Row, Path]]:
    """For each point that has made this measurement, yield its factor values, size and repeat, and its run folder."""
    if measurement not in results.study.diagnose:
        return
    for outcome in results.outcomes:
        for result in outcome.points:
            point, steps = result.point, list(result.point.commands())
            later = steps[steps.index(measurement) + 1 :]
            if result.status.state == DONE or (result.record is not None and result.status.step in later):
                yield {**outcome.combination.values, 'size': point.size, 'repeat': point.repeat}, point.folder / 'run'
