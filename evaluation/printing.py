"""Records as text for a person: a line of the log, and tables of several records and of their metrics."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dnnlib.util import format_time


def log_line(record: Mapping[str, Any]) -> str:
    return (
        f'{record["snapshot"]}  kimg {_known(record["kimg"]):<9} epochs {_known(record["epochs"]):<9} '
        f'memorized {record["num_memorized"]}/{record["num_images"]}  ratio {100 * record["ratio"]:.2f} % '
        f'[{100 * record["ratio_low"]:.2f}, {100 * record["ratio_high"]:.2f}]  '
        f'mean distance {record["mean_distance"]:.2f}  time {format_time(record["seconds"])}'
    )


def _known(value: float | None) -> str:
    return 'unknown' if value is None else f'{value:.1f}'


def summary(records: Sequence[Mapping[str, Any]]) -> str:
    """The ratio of each record, and a table of their metrics if there are any."""
    if len(records) == 1:
        (record,) = records
        parts = [f'Memorization ratio: {ratio_text(record)} of {record["num_images"]} images']
    else:
        parts = [table_of_records(records)]
    return '\n'.join(parts + [table_of_metrics(records)] * any('metrics' in record for record in records))


def ratio_text(record: Mapping[str, Any]) -> str:
    """'40.00 % (95 % interval 30.94 to 49.80 %)'"""
    low, high = 100 * record['ratio_low'], 100 * record['ratio_high']
    return f'{100 * record["ratio"]:.2f} % (95 % interval {low:.2f} to {high:.2f} %)'


def table_of_records(records: Sequence[Mapping[str, Any]]) -> str:
    """One line per set of images."""
    rows = [['images', 'count', 'copies', '95 % interval', 'mean distance']]
    for record in records:
        interval = f'{100 * record["ratio_low"]:.2f} to {100 * record["ratio_high"]:.2f} %'
        ratio, distance = f'{100 * record["ratio"]:.2f} %', f'{record["mean_distance"]:.2f}'
        rows.append([_name(record), str(record['num_images']), ratio, interval, distance])
    return aligned(rows)


def table_of_metrics(records: Sequence[Mapping[str, Any]]) -> str:
    """One line per number of a metric, one column per set of images; lists are left to the JSON records."""
    columns = [dict(_numbers(record.get('metrics', {}))) for record in records]
    names = list(dict.fromkeys(name for column in columns for name in column))
    space = next((record['metrics_space'] for record in records if 'metrics' in record), '')
    rows = [[f'metrics in {space}', *map(_name, records)]]
    rows += [[name, *(_shown(column.get(name)) for column in columns)] for name in names]
    return aligned(rows)


def _name(record: Mapping[str, Any]) -> str:
    return record['images'] if 'images' in record else record['snapshot']


def _numbers(values: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, float | None]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f'{prefix}{name}.')
        elif not isinstance(value, list):
            yield f'{prefix}{name}', value


def _shown(value: float | None) -> str:
    return '-' if value is None else f'{value:.6g}'


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines of columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([text.rjust(width) for text, width in zip(row, widths, strict=True)] for row in rows)
    return '\n'.join('  '.join([row[0].ljust(widths[0]), *line[1:]]) for row, line in zip(rows, lines, strict=True))
