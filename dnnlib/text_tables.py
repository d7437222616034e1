"""Text tables: CSV and aligned columns."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dnnlib.util import atomic_file


def csv_text(rows: Sequence[Mapping[str, Any]], if_empty: Sequence[str] = ()) -> str:
    """Format rows as CSV; the header lists all keys in order of first appearance, and None becomes an empty field.

    if_empty: the columns of the header that is written if there are no rows.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row)) or if_empty
    return csv_lines([columns, *([row.get(name) for name in columns] for row in rows)])


def csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    """Format rows as CSV lines; None becomes an empty field."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, completely or not at all.

    If the text contains file names that are not UTF-8, their bytes are kept.
    """
    with atomic_file(path) as file:
        file.write(text.encode('utf-8', 'surrogateescape'))


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Format rows in aligned columns: the first `left` columns are left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligns = [str.ljust] * left + [str.rjust] * (len(widths) - left)
    cells = ([align(text, width) for align, text, width in zip(aligns, row, widths, strict=True)] for row in rows)
    return '\n'.join('  '.join(line).rstrip() for line in cells)
