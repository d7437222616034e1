"""A study's results as text, CSV and JSON. The tables contain no times, so a study that was interrupted and resumed has
the same tables as an uninterrupted one."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dnnlib.text_tables import aligned, csv_text
from dnnlib.util import atomic_file, counted, format_time
from evaluation.effective_memorization import EMM
from evaluation.printing import far_share, is_far, numbers_of
from studies.points import DONE, FAILED, RUNNING, STOPPED
from studies.report.diagnosis import agreement_rows, clock_rows, level_rows
from studies.report.finding import FAR_NOTE, advice, bracket_text, of
from studies.results import PointResult, StudyResults
from studies.time_left import STEPS, about_or_more, running_line, study_seconds_left


def ratio_rows(results: StudyResults) -> list[dict[str, Any]]:
    """One row per combination and size with a finished repeat; ratios are in [0, 1].

    dataset_sha256: content hashes of the repeats' training sets. far: number of repeats with many images that are far
    from any data, see `evaluation.printing.is_far`. far_share: the share of these images, averaged over repeats; None
    if an old record lacks it.
    """
    rows = []
    for outcome in results.outcomes:
        for ratios in outcome.ratios:
            records = [result.record for result in outcome.at(ratios.size) if result.record is not None]
            shares = [share for share in map(far_share, records) if share is not None]
            rows.append(
                {
                    **outcome.combination.values,
                    'size': ratios.size,
                    'repeats': len(ratios.images),
                    'images': sum(ratios.images),
                    'memorized': sum(ratios.memorized),
                    'ratio': ratios.mean,
                    'ratio_low': ratios.interval.low,
                    'ratio_high': ratios.interval.high,
                    'interval': ratios.interval.kind,
                    'mean_distance': sum(record['mean_distance'] for record in records) / len(records),
                    'dataset_sha256': ' '.join(record.get('dataset_sha256') or '' for record in records),
                    'far': sum(map(is_far, records)),
                    'far_share': sum(shares) / len(shares) if len(shares) == len(records) else None,
                    **metric_means(records),
                }
            )
    return rows


def far_text(row: dict[str, Any]) -> str:
    """The share of images far from any data in a row of `ratio_rows`; if it is unknown, 'yes' or 'no'."""
    share = row['far_share']
    return ('yes' if row['far'] else 'no') if share is None else f'{100 * share:.0f} %'


def metric_means(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean of each metric over the repeats of one size. A metric is omitted if at least one repeat lacks it.

    records: one record for each repeat.
    """
    found = [record.get('metrics') for record in records]
    columns = [dict(numbers_of(metrics)) if isinstance(metrics, dict) else {} for metrics in found]
    values = {name: [column.get(name) for column in columns] for name in columns[0]}
    known = {name: [value for value in row if isinstance(value, int | float)] for name, row in values.items()}
    return {name: sum(row) / len(row) for name, row in known.items() if len(row) == len(columns)}


def emm_rows(results: StudyResults) -> list[dict[str, Any]]:
    """One row per combination, with the EMM and both ends of its interval.

    Each of these three numbers has a relation ('=', '≥' or '<').
    """
    return [{**outcome.combination.values, **emm_fields(outcome.emm)} for outcome in results.outcomes]


def emm_fields(emm: EMM | None) -> dict[str, Any]:
    if emm is None:
        return dict.fromkeys(('emm', 'emm_relation', 'low', 'low_relation', 'high', 'high_relation'))
    return {
        'emm': emm.estimate.value,
        'emm_relation': emm.estimate.relation,
        'low': emm.low.value,
        'low_relation': emm.low.relation,
        'high': emm.high.value,
        'high_relation': emm.high.relation,
    }


def write_tables(results: StudyResults) -> list[Path]:
    """Write ratios.csv, emm.csv, tables.json and a CSV for each `diagnose` measurement into the study's folder;
    returns their paths."""
    contents = {
        'ratios.csv': csv_text(ratio_rows(results), ['size']),
        'emm.csv': csv_text(emm_rows(results), ['size']),
        'tables.json': json.dumps(tables(results), indent=2, ensure_ascii=False) + '\n',
    }
    measured = {'levels': level_rows(results), 'agreement': agreement_rows(results), 'clocks': clock_rows(results)}
    contents |= {f'{name}.csv': csv_text(rows) for name, rows in measured.items() if rows}
    for name, text in contents.items():
        with atomic_file(results.root / name) as file:
            file.write(text.encode())
    return [results.root / name for name in contents]


def tables(results: StudyResults) -> dict[str, Any]:
    """All tables and warnings of a study, as values that JSON can store."""
    return {
        'study': results.study.name,
        'title': results.study.title,
        'study_sha256': hashlib.sha256(json.dumps(results.study.document, sort_keys=True).encode()).hexdigest(),
        'versions': distinct(point.record.get('versions', {}) for point in results.points if point.record is not None),
        'threshold': results.study.threshold,
        'ratios': ratio_rows(results),
        'emm': emm_rows(results),
        'emm_interval': 'images, repeats and interpolation between sizes',
        'warnings': results.warnings,
    }


def distinct(values: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """The values without duplicates, in order of first occurrence."""
    return list({json.dumps(value, sort_keys=True): value for value in values}.values())


def table_text(results: StudyResults) -> str:
    """The tables as text for a terminal."""
    factors = [factor.name for factor in results.study.factors]
    found = ratio_rows(results)
    any_far = any(row['far'] for row in found)
    rows = [
        [
            *(str(row[name]) for name in factors),
            f'{row["size"]:,}',
            str(row['repeats']),
            f'{row["memorized"]}/{row["images"]}',
            f'{100 * row["ratio"]:.1f} %',
            f'[{100 * row["ratio_low"]:.1f}, {100 * row["ratio_high"]:.1f}]',
            f'{row["mean_distance"]:.1f}',
            *([far_text(row)] if any_far else []),
        ]
        for row in found
    ]
    kinds = sorted({row['interval'] for row in found})
    labels = [factor.label for factor in results.study.factors]
    header = [*labels, '|D|', 'repeats', 'copies', 'ratio', '95 % interval', 'mean distance', *['far'] * any_far]
    emms = [
        [
            *outcome.combination.values.values(),
            str(outcome.emm.estimate),
            outcome.emm.interval,
            bracket_text(outcome, results.study.threshold),
        ]
        for outcome in results.outcomes
        if outcome.emm is not None
    ]
    parts = [
        f'Highest memorization ratio over the snapshots of each training run; intervals: {" and ".join(kinds)}',
        aligned([header, *rows], len(factors)),
    ]
    if emms:
        share = f'{100 * results.study.threshold:.3g} %'
        parts += [
            f'EMM, the largest |D| with a ratio of at least {share};\n'
            f'intervals over images, repeats and interpolation between sizes',
            aligned([[*labels, 'EMM', '95 % interval', 'measured'], *emms], len(factors)),
        ]
    if any_far:
        parts.append(f'far: {FAR_NOTE}')
    if any(result.status.state != DONE for result in results.points):
        parts.append(f'Not all points are done ({results.counts_text()}), so these results can change.')
    parts += [f'Warning: {warning}' for warning in results.warnings]
    parts += advice(results)
    return '\n\n'.join(parts) if rows else 'No point is done yet.'


def status_text(results: StudyResults) -> str:
    """A study's progress: counts, running points, failed points with their errors, and the estimated time left."""
    counts = results.counts()
    lines = [f'{results.study.title}: {results.counts_text()}']
    lines += [running_line(result, results) for result in results.points if result.status.state == RUNNING]
    for state in (FAILED, STOPPED):
        lines += [point_line(result) for result in results.points if result.status.state == state]
    searching = [outcome for outcome in results.outcomes if outcome.next_size is not None]
    for outcome in searching:
        lines.append(f'next size to measure{of(outcome)}: {outcome.next_size} images')
    lines += [f'EMM{of(o)} so far: {o.emm}' for o in results.outcomes if o.emm]
    if counts[RUNNING] == 0 and counts.get(STOPPED):
        lines.append('To resume the study, run the same emm.py command.')
    lines += [f'set aside because its settings differ: {path}' for path in results.set_aside]
    seconds = study_seconds_left(results)
    if seconds:
        more = ', plus the time for further sizes in the search' if searching else ''
        at_a_time = results.counts()[RUNNING] or 1
        about = about_or_more(results).capitalize()
        lines.append(f'{about} {format_time(seconds)} left with {counted(at_a_time, "point")} at a time{more}.')
    return '\n'.join(lines)


def point_line(result: PointResult) -> str:
    status, point = result.status, result.point
    step = STEPS.get(status.step, status.step)
    times = f' ({status.failures} times)' if status.state == FAILED and status.failures > 1 else ''
    where = f'\n    log: {point.folder / "log.txt"}' if status.state == FAILED else ''
    return f'{status.state}{times}: {point.name}, step {step}: {status.message}{where}'
