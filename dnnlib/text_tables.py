"""Tables as text: CSV files, and aligned columns."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def csv_text(rows: Sequence[Mapping[str, Any]], if_empty: Sequence[str] = ()) -> str:
    """A CSV with the columns of all rows, in the order of their first appearance, or `if_empty`; empty for None."""
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns or if_empty, lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows as lines of columns, the first `left` aligned to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligns = [str.ljust] * left + [str.rjust] * (len(widths) - left)
    cells = ([align(text, width) for align, text, width in zip(aligns, row, widths, strict=True)] for row in rows)
    return '\n'.join('  '.join(line).rstrip() for line in cells)
