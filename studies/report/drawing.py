"""What all figures of a study share: style, panels, axes, marks, labels, legends, and writing PNG and SVG files.

Curves differ in marker, line style and colour, so that figures remain legible in black and white.
"""

import io
import itertools
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dnnlib.util import atomic_file

WIDTH, _DPI = 4.8, 160  # in inches, narrow enough for text to be readable on a phone; a PNG is 768 pixels wide
_LABEL_LENGTH = 26  # most characters in a line of a label
_COLORS = ['#0b0b0b', '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#7a7a7a', '#56b4e9', '#b58900']
_MARKERS = 'osD^vPX*'
_LINES: list[str | tuple] = ['-', '--', '-.', ':', (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1))]
EDGE, FILL = '#222222', '#9a9a9a'
STYLE: dict[Any, Any] = {
    'font.size': 9,
    'legend.fontsize': 8.5,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.formatter.limits': (-5, 12),  # otherwise, an axis from 1e6 on has a separate factor such as 1e6
    'text.parse_math': False,  # show dollar signs in names literally
    'svg.hashsalt': 'figure',  # makes SVG files deterministic
}


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG or SVG, depending on the path's extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = figure_bytes(figure, path.suffix[1:])
    with atomic_file(path) as file:
        file.write(data)


def figure_bytes(figure: Figure, file_format: str) -> bytes:
    """Render a figure as the content of a 'png' or 'svg' file. The result is deterministic."""
    data = io.BytesIO()
    metadata: dict[str, None] = {'Software': None} if file_format == 'png' else {'Date': None, 'Creator': None}
    with matplotlib.rc_context(STYLE):
        figure.savefig(data, format=file_format, dpi=_DPI, metadata=metadata)
    return data.getvalue()


@contextmanager
def new_figure(title: str, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Yield an empty figure in the project's style, and the figure's axes. height: the figure's height in inches."""
    with new_panels(title, height, 1) as (figure, (axes,)):
        yield figure, axes


@contextmanager
def new_panels(title: str, height: float, count: int) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """Like `new_figure`, with `count` panels above one another that share the horizontal axis."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout='constrained')
        panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
        for axes in panels:
            axes.grid(alpha=0.25)
        add_title(figure, title)
        yield figure, list(panels)


def add_title(figure: Figure, title: str) -> None:
    if title:
        figure.suptitle(label_text(title, width=50), x=0.01, ha='left', fontsize=10, fontweight='bold')


def curve_styles(count: int = 1) -> Iterator[dict]:
    """Yield the colour, marker and line style of each of `count` curves.

    Earlier curves are wider, so that they remain visible behind later curves that coincide with them.
    """
    styles = zip(itertools.cycle(_COLORS), itertools.cycle(_MARKERS), itertools.cycle(_LINES), strict=False)
    for number, (color, marker, line) in enumerate(styles):
        # When all marker shapes have been used, they are used again as open markers.
        face = 'white' if number // len(_MARKERS) % 2 else color
        width = 1.3 + min(0.6 * max(count - 1 - number, 0), 2.4)
        yield {'color': color, 'marker': marker, 'linestyle': line, 'markerfacecolor': face, 'linewidth': width}


def band_curve(
    axes: Axes,
    x: Sequence[float],
    ratios: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    style: dict,
    pieces: int = 1,
) -> Line2D:
    """Draw ratios as a curve, and their intervals as a band.

    pieces: number of straight pieces from each point to the next. On a logarithmic axis, several pieces show that
    ratios are interpolated linearly in x.
    """
    points, places = np.arange(len(x)), np.linspace(0, len(x) - 1, (len(x) - 1) * pieces + 1)
    middle, bottom, top = (100 * np.array(shares, dtype=np.float64) for shares in (ratios, low, high))
    fine, curve, lower, upper = (np.interp(places, points, values) for values in (x, middle, bottom, top))
    axes.fill_between(fine, lower, upper, color=style['color'], alpha=0.13, linewidth=0)
    # Intervals are also drawn as lines, because the band of a single point has no width and is invisible.
    axes.vlines(x, bottom, top, color=style['color'], linewidth=1)
    return axes.plot(fine, curve, markevery=pieces, markersize=5, markeredgewidth=1.2, **style)[0]


def cross_out(axes: Axes, places: Sequence[tuple[float, float]]) -> None:
    """Draw crosses over plotted points whose generated images are far from any data. places: (x, y) of these points."""
    if places:
        axes.plot(
            *zip(*places, strict=True),
            marker='x',
            markersize=13,
            color='#b3261e',
            linestyle='none',
            zorder=5,
            clip_on=False,
        )


def crosses_text(flags: Iterable[object]) -> str:
    """The part of an axis label that explains the crosses; empty if there are no crosses."""
    return '\ncrosses: images far from any data' if any(flags) else ''


def ratio_axis(axes: Axes) -> None:
    axes.set_ylim(-3, 104)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel('memorized images (%)')


def threshold_line(axes: Axes, threshold: float) -> None:
    """Draw the EMM's threshold as a dashed line, labelled next to the axes so that no curve hides the label."""
    axes.axhline(100 * threshold, color='#555555', linestyle=(0, (6, 4)), linewidth=1, zorder=1)
    place, text = (1, 100 * threshold), f'{100 * threshold:.3g} %\nEMM'
    axes.annotate(text, place, (4, 0), ('axes fraction', 'data'), 'offset points', va='center', fontsize=8)


def row_places(names: Sequence[str]) -> tuple[list[float], float]:
    """The vertical position of the middle of each row, and the total height of the rows, both in text lines.

    names: the rows' labels. A row has at least two text lines.
    """
    lines = [max(2, name.count('\n') + 1) for name in names]
    ends = list(itertools.accumulate(lines))
    return [end - own / 2 for end, own in zip(ends, lines, strict=True)], float(ends[-1])


def label_rows(
    axes: Axes, places: Sequence[float], names: Sequence[str], values: Sequence[str], height: float, label: str = ''
) -> None:
    """Write the rows' names to the left of the axes, and the rows' values to the right. label: the left axis label."""
    axes.set_yticks(places, names)
    axes.set_ylabel(label_text(label) if label else '')
    axes.tick_params(axis='y', length=0)
    axes.set_ylim(height + 0.3, -0.3)
    axes.grid(visible=False, axis='y')
    axes.grid(axis='x', alpha=0.3)
    right = axes.secondary_yaxis('right')
    right.set_yticks(places, values)
    right.tick_params(axis='y', length=0)
    right.spines['right'].set_visible(False)


def legend_height(names: Sequence[str], label: str = '') -> float:
    """The height in inches of the legend below a figure. label: the text above the names."""
    names = [label_text(name) for name in names]
    if len(names) < 2:
        return 0
    rows = math.ceil(len(names) / _legend_columns(names))
    return 0.15 + 0.17 * (rows * max(name.count('\n') + 1 for name in names) + bool(label))


def add_legend(figure: Figure, handles: list[Line2D], names: Sequence[str], label: str = '') -> None:
    """Add a legend below the figure, so that long names take no space from the curves."""
    labels = [label_text(name) for name in names]
    if len(labels) > 1:
        figure.legend(
            handles,
            labels,
            title=label_text(label, width=50) if label else None,
            loc='outside lower center',
            ncols=_legend_columns(labels),
            frameon=False,
            handlelength=3.2,
        )


def _legend_columns(labels: Sequence[str]) -> int:
    longest = max(len(line) for label in labels for line in label.split('\n'))
    return max(1, min(len(labels), 4, 66 // (longest + 11)))


def label_text(name: str, width: int = _LABEL_LENGTH, lines: int = 4) -> str:
    """Format a name as a label of at most `lines` lines, without characters that fonts lack."""
    name = ''.join(character if character.isprintable() else ' ' for character in name).strip()
    # matplotlib omits labels from the legend if they begin with an underscore.
    name = f' {name}' if name.startswith('_') else name
    wrapped = textwrap.wrap(
        name, width, max_lines=lines, placeholder=' …', drop_whitespace=False, break_on_hyphens=False
    )
    return '\n'.join([*wrapped[:1], *map(str.strip, wrapped[1:])]) or '—'


def apart(sizes: Sequence[int], share: float) -> list[int]:
    """Choose the ascending sizes whose labels fit on a logarithmic axis; the first and the last are always included.

    share: smallest distance between two labels, as a share of the axis.
    """
    if len(sizes) < 3:
        return list(sizes)
    gap = share * math.log(sizes[-1] / sizes[0])
    shown = [sizes[0]]
    for size in sizes[1:-1]:
        if math.log(size / shown[-1]) >= gap and math.log(sizes[-1] / size) >= gap:
            shown.append(size)
    return [*shown, sizes[-1]]
