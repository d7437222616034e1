"""Writes results as JSON, CSV and text tables; finished measurements are read back from the JSON file."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dnnlib.text_tables import aligned, csv_text, write_text
from dnnlib.typed import parse_json
from dnnlib.util import UserError, significant
from evaluation.noise_levels import Estimate
from torch_utils import distributed

Row = dict[str, Any]
# Called with the path for partial results and the settings that determine the results; returns a record.
Measure = Callable[[Path, Row], Row]


def flat(estimates: Mapping[str, Estimate]) -> Row:
    """Estimates as columns: NAME, NAME_low and NAME_high; None replaces numbers that are not finite."""
    row: Row = {}
    for name, estimate in estimates.items():
        for suffix, value in (('', estimate.mean), ('_low', estimate.low), ('_high', estimate.high)):
            row[name + suffix] = value if math.isfinite(value) else None
    return row


def measure_missing(path: Path, wanted: Sequence[tuple[Row, Measure]]) -> list[Row]:
    """Return a record for each pair in `wanted`, in the same order and on every rank.

    Records are read from files or, if they are missing, measured now.
    path: the JSON file with these records, written after each measurement. Before it is replaced, records with other
    settings are saved in a second file, NAME_earlier.json, and are read from there if they are wanted again.
    wanted: for each record, its settings (values that JSON can store) and the function that measures its other entries.
    """
    order = [json.loads(json.dumps(settings)) for settings, _ in wanted]
    earlier = path.with_name(f'{path.stem}_earlier.json')
    found, old = distributed.on_main(lambda: (_read_records(path), _read_records(earlier)))
    known = (next((each for each in [*found, *old] if each['settings'] == settings), None) for settings in order)
    records = [record for record in known if record is not None]
    replaced = [record for record in found if record not in [*records, *old]]
    partial = path.with_suffix('.partial.npz')

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if replaced:
            _write_records(earlier, [*old, *replaced])
        if records != found:
            _write_records(path, records)

    distributed.on_main(write)
    if replaced:
        distributed.print0(f'Note: {path} contained results of other settings, which are saved in {earlier}.')
    for settings, (_, measure) in zip(order, wanted, strict=True):
        if all(record['settings'] != settings for record in records):
            records.append({'settings': settings, **measure(partial, settings)})
            records.sort(key=lambda record: order.index(record['settings']))
            distributed.on_main(lambda: _write_records(path, records))
            distributed.on_main(lambda: partial.unlink(missing_ok=True))
    return records


def _read_records(path: Path) -> list[Row]:
    if not path.exists():
        return []
    try:
        records = parse_json(path.read_bytes(), list[Row], '')
        assert all('settings' in record for record in records)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f'{path} does not contain results of a measurement; remove it') from error
    return records


def _write_records(path: Path, records: Sequence[Row]) -> None:
    write_text(path, json.dumps(records, indent=1) + '\n')


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    write_text(path, csv_text(rows))


def text_table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Format rows as aligned columns. columns: the heading for each key; columns without values are omitted."""
    shown = {name: heading for name, heading in columns.items() if any(row.get(name) is not None for row in rows)}
    cells = [list(shown.values()), *([_cell(row.get(name)) for name in shown] for row in rows)]
    return aligned(cells, left=0)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return 'yes' if value else ''
    if isinstance(value, float):
        return significant(value, 4)
    return '' if value is None else str(value)
