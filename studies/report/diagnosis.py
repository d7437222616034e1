"""What the measurements of a study's points found, as rows: errors by noise level, and clocks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dnnlib.typed import read_json
from studies.results import StudyResults

Row = dict[str, Any]


def level_rows(results: StudyResults) -> list[Row]:
    """The errors of the last snapshot of each finished point: a row for each noise level and source of images."""
    return [
        {**head, 'kimg': records[-1]['settings']['kimg'], **row}
        for head, run in _finished(results, 'levels')
        if (records := read_json(run / 'levels.json', list[Any]))
        for row in records[-1]['rows']
    ]


def clock_rows(results: StudyResults) -> list[Row]:
    """The clocks of each finished point in kimg, with their 95 % intervals."""
    rows = []
    for head, run in _finished(results, 'clocks'):
        for record in read_json(run / 'clocks.json', list[Any]) or []:
            row = dict(head)
            for name, clock in record['clocks'].items():
                row |= {name: clock['time'], f'{name}_low': clock['low'], f'{name}_high': clock['high']}
            rows.append(row)
    return rows


def _finished(results: StudyResults, measurement: str) -> Iterator[tuple[Row, Path]]:
    """Factor values, size and repeat of each finished point that is to have a measurement, and its run folder."""
    if measurement not in results.study.diagnose:
        return
    for outcome in results.outcomes:
        for result in outcome.points:
            if result.record is not None:
                point = result.point
                yield {**outcome.combination.values, 'size': point.size, 'repeat': point.repeat}, point.folder / 'run'
