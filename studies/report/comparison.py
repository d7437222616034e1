"""Compares a study's results with the tables.json of another run of the same study."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dnnlib.text_tables import aligned
from dnnlib.typed import read_json
from dnnlib.util import UserError
from evaluation.effective_memorization import EMM, Bound
from studies.report.tables import tables
from studies.results import StudyResults

Row = Mapping[str, Any]
# A row's value as text, both ends of its interval, and its relation: '=', '≥' or '<' (see `Bound`).
Number = tuple[str, float, float, str]
ONLY_HERE, ONLY_THERE, ONLY_BOUNDS = 'only here', 'only there', 'only bounds'


def comparison_text(results: StudyResults, path: Path) -> str:
    """List the ratios and EMMs of both runs, and show which of them agree (have overlapping 95 % intervals).

    Two EMMs that are bounds in the same direction, such as < 10 and < 20, cannot disagree, so they are not counted.
    EMMs at different thresholds are shown, but not compared.
    path: a tables.json written by `write_tables`. Rows are matched by factor values and size.
    Raises UserError if the file is missing or not a tables.json, if the factors differ, or if no row is in both runs.
    """
    if not path.exists():
        raise UserError(f'{path}: no such file; give a tables.json written by emm.py table')
    here, there = tables(results), read_json(path, dict[str, Any]) or {}
    factors = [factor.name for factor in results.study.factors]
    try:
        others = [list(itertools.takewhile(lambda name: name != 'size', row)) for row in there['ratios'][:1]]
        if others and set(others[0]) != set(factors):
            raise UserError(
                f'{path} has the factors {", ".join(others[0]) or "none"}, but {results.root} has '
                f'{", ".join(factors) or "none"}; give results of the same study'
            )
        ratios = compared(here['ratios'], there['ratios'], [*factors, 'size'], _ratio)
        emms = compared(here['emm'], there['emm'], factors, _emm)
        thresholds = [table['threshold'] for table in (here, there)]
        origins = [(table.get('study_sha256'), _training_sets(table), table.get('versions')) for table in (here, there)]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{path} is not a tables.json written by emm.py table') from error
    if {ONLY_HERE, ONLY_THERE}.issuperset(row[-1] for row in ratios + emms):
        raise UserError(
            f'{path} and {results.root} have no factor value and size in common; give results of the same study'
        )
    if thresholds[0] != thresholds[1]:
        emms = [[*row[:-1], 'not compared'] for row in emms]
    study, data, code = (_same(*pair) for pair in zip(*origins, strict=True))
    parts = [
        f'Study file: {study}; training sets: {data}; code and versions: {code}.',
        aligned([[*factors, '|D|', 'ratio here', 'ratio there', ''], *ratios], len(factors)),
    ]
    if emms:
        parts.append(aligned([[*factors, 'EMM here', 'EMM there', ''], *emms], len(factors)))
    if thresholds[0] != thresholds[1]:
        parts.append(f'The EMMs are not comparable: the threshold is {thresholds[0]} here and {thresholds[1]} there.')
    verdicts = [row[-1] for row in ratios + emms]
    agree, differ = verdicts.count('agrees'), verdicts.count('higher') + verdicts.count('lower')
    parts.append(f'{agree} of {agree + differ} numbers agree (their 95 % intervals overlap).')
    return '\n\n'.join(parts)


def compared(here: Sequence[Row], there: Sequence[Row], keys: Sequence[str], value_of: Any) -> list[list[str]]:
    """Compare two tables, row by row. A row of the result contains the values of `keys`, both numbers as text, and
    whether the numbers agree.

    value_of: function that takes a row, and returns its `Number`, or None if the row has no number.
    """
    saved, rows = {_key(row, keys): row for row in there}, []
    ours = {_key(row, keys): row for row in here}
    for key in dict.fromkeys([*ours, *saved]):
        pair = [value_of(table[key]) if key in table else None for table in (ours, saved)]
        if pair != [None, None]:
            rows.append([*key, *('' if value is None else value[0] for value in pair), verdict(*pair)])
    return rows


def verdict(ours: Number | None, theirs: Number | None) -> str:
    if ours is None:
        return ONLY_THERE
    if theirs is None:
        return ONLY_HERE
    if ours[3] == theirs[3] != '=':
        return ONLY_BOUNDS
    if ours[1] > theirs[2]:
        return 'higher'
    return 'lower' if ours[2] < theirs[1] else 'agrees'


def _key(row: Row, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(row[key]) for key in keys)


def _training_sets(table: Row) -> set[str] | None:
    return {row['dataset_sha256'] for row in table['ratios'] if row.get('dataset_sha256')} or None


def _same(here: Any, there: Any) -> str:
    missing = [side for side, value in (('here', here), ('there', there)) if not value]
    if missing:
        return f'not recorded {" and ".join(missing)}'
    return 'the same' if here == there else 'different'


def _ratio(row: Row) -> Number:
    low, high = row['ratio_low'], row['ratio_high']
    return f'{100 * row["ratio"]:.1f} % [{100 * low:.1f}, {100 * high:.1f}]', low, high, '='


def _emm(row: Row) -> Number | None:
    if row['emm'] is None:
        return None
    emm = EMM(*(Bound(row[name], row[f'{name}_relation']) for name in ('emm', 'low', 'high')))
    return str(emm), *emm.ends, emm.estimate.relation
