"""Tables as text: CSV files, and aligned columns."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dnnlib.util import atomic_file


def csv_text(rows: Sequence[Mapping[str, Any]], if_empty: Sequence[str] = ()) -> str:
    """A CSV with the columns of all rows, in the order of their first appearance, or `if_empty`; empty for None."""
    columns = list(dict.fromkeys(name for row in rows for name in row)) or if_empty
    return csv_lines([columns, *([row.get(name) for name in columns] for row in rows)])


def csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as lines of a CSV; empty for None."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or not at all; names that are not UTF-8 stay as they are."""
    with atomic_file(path) as file:
        file.write(text.encode('utf-8', 'surrogateescape'))


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows as lines of columns, the first `left` aligned to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligns = [str.ljust] * left + [str.rjust] * (len(widths) - left)
    cells = ([align(text, width) for align, text, width in zip(aligns, row, widths, strict=True)] for row in rows)
    return '\n'.join('  '.join(line).rstrip() for line in cells)
