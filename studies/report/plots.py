"""Draws figures of memorization ratios and the EMM.

Each `..._figure` function makes one figure; `save_figure` writes it as PNG or SVG. Curves differ in marker, line style
and colour, so that figures remain legible in black and white.
"""

import io
import itertools
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, NullFormatter, NullLocator

from dnnlib.util import atomic_file
from evaluation.effective_memorization import EMM, EMM_RATIO

_WIDTH, _DPI = 4.8, 160  # in inches, narrow enough for text to be readable on a phone; a PNG is 768 pixels wide
_LABEL_LENGTH = 26  # most characters in a line of a label
_COLORS = ['#0b0b0b', '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#7a7a7a', '#56b4e9', '#b58900']
_MARKERS = 'osD^vPX*'
_LINES: list[str | tuple] = ['-', '--', '-.', ':', (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1))]
_EDGE, _FILL = '#222222', '#9a9a9a'
_STYLE: dict[Any, Any] = {
    'font.size': 9,
    'legend.fontsize': 8.5,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'text.parse_math': False,  # show dollar signs in names literally
    'svg.hashsalt': 'figure',  # makes SVG files deterministic
}


@dataclass(frozen=True)
class RatioPoint:
    """A memorization ratio in [0, 1] at a training-set size, with its 95 % interval.

    far: whether the generated images are far from any data; figures mark such points with a cross.
    """

    dataset_size: int
    ratio: float
    ratio_low: float
    ratio_high: float
    far: bool = False


@dataclass(frozen=True)
class Curve:
    """The ratios of one configuration by training-set size. name: the factor value, for the legend."""

    name: str
    points: Sequence[RatioPoint]


@dataclass(frozen=True)
class TrainingCurve:
    """The ratios of one run's snapshots; each sequence has one entry for each snapshot.

    low, high: ends of the ratios' 95 % intervals. far: as in `RatioPoint`.
    """

    name: str
    epochs: Sequence[float]
    ratios: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    far: Sequence[bool]


@dataclass(frozen=True)
class RunHistory:
    """One run: its losses by thousands of images seen, and its snapshots' ratios with their 95 % intervals.

    losses: (kimg, loss); losses that are not positive numbers are omitted. ratios: (kimg, ratio, low, high).
    far: kimg of the snapshots whose images are far from any data.
    """

    losses: Sequence[tuple[float, float]]
    ratios: Sequence[tuple[float, float, float, float]]
    far: Sequence[float] = ()


@dataclass(frozen=True)
class EmmBar:
    """The EMM of one factor value. name: the factor value."""

    name: str
    emm: EMM


@dataclass(frozen=True)
class SkipPlacement:
    """A ratio in [0, 1], with its 95 % interval, for a network that keeps some of its skip connections.

    mask: 1 for each connection that is kept, in encoder order from the highest resolution to the lowest.
    far: as in `RatioPoint`.
    """

    mask: Sequence[int]
    ratio: float
    ratio_low: float
    ratio_high: float
    far: bool = False


def ratio_figure(
    curves: Sequence[Curve],
    title: str,
    interval: str = '95 % interval',
    threshold: float = EMM_RATIO,
    label: str = '',
) -> Figure:
    """Ratio against size, one curve per factor value; intervals are bands, and the EMM's threshold is dashed.

    interval: what the bands show, for the axis label. threshold: the ratio that defines the EMM. label: the factor's
    name, shown above the legend.
    """
    with new_figure(title, 3.2 + legend_height([curve.name for curve in curves], label)) as (figure, axes):
        handles = []
        for place, (style, curve) in enumerate(zip(curve_styles(len(curves)), curves, strict=False)):
            points = sorted(curve.points, key=lambda point: point.dataset_size)
            # Sizes are shifted by up to 3 %, so that curves that coincide do not hide each other.
            shift = 1.03 ** (2 * place / max(len(curves) - 1, 1) - (len(curves) > 1))
            sizes = [point.dataset_size * shift for point in points]
            ends = [point.ratio_low for point in points], [point.ratio_high for point in points]
            handles.append(_band_curve(axes, sizes, [point.ratio for point in points], *ends, style))
            cross_out(axes, [(s, 100 * p.ratio) for s, p in zip(sizes, points, strict=True) if p.far])
        axes.set_xscale('log')
        sizes = sorted({point.dataset_size for curve in curves for point in curve.points})
        shown = apart(sizes, share=0.09)
        axes.xaxis.set_major_locator(FixedLocator(shown))
        axes.xaxis.set_major_formatter(FixedFormatter([f'{size:,}' for size in shown]))
        axes.xaxis.set_minor_locator(FixedLocator([size for size in sizes if size not in shown]))
        axes.xaxis.set_minor_formatter(FixedFormatter([]))
        if len(sizes) == 1:
            axes.set_xlim(sizes[0] / 2, sizes[0] * 2)
        crosses = crosses_text(p.far for curve in curves for p in curve.points)
        axes.set_xlabel(f'training images |D|\n(bands: {interval}){crosses}')
        ratio_axis(axes)
        _threshold(axes, threshold)
        add_legend(figure, handles, [curve.name for curve in curves], label)
    return figure


def training_figure(
    curves: Sequence[TrainingCurve],
    title: str,
    interval: str = '95 % interval',
    threshold: float = EMM_RATIO,
    label: str = '',
) -> Figure:
    """Ratio against training epochs, one curve per run; intervals are bands, and the EMM's threshold is dashed.

    interval, threshold, label: as in `ratio_figure`.
    """
    with new_figure(title, 3.2 + legend_height([curve.name for curve in curves], label)) as (figure, axes):
        handles = [
            _band_curve(axes, curve.epochs, curve.ratios, curve.low, curve.high, style)
            for style, curve in zip(curve_styles(len(curves)), curves, strict=False)
        ]
        for curve in curves:
            rows = zip(curve.epochs, curve.ratios, curve.far, strict=True)
            cross_out(axes, [(epochs, 100 * ratio) for epochs, ratio, far in rows if far])
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(lambda epochs, _: f'{epochs:,.0f}')
        crosses = crosses_text(far for curve in curves for far in curve.far)
        axes.set_xlabel(f'epochs of training\n(bands: {interval}){crosses}')
        ratio_axis(axes)
        _threshold(axes, threshold)
        add_legend(figure, handles, [curve.name for curve in curves], label)
    return figure


def run_figure(history: RunHistory, title: str, threshold: float = EMM_RATIO) -> Figure | None:
    """A run's loss above its snapshots' ratios, with a shared axis of images seen; None if the run has neither."""
    losses = [(kimg, loss) for kimg, loss in history.losses if math.isfinite(loss) and loss > 0]
    ratios = sorted(row for row in history.ratios if all(map(math.isfinite, row)))
    has_losses, has_ratios = len(losses) > 1, bool(ratios)
    panels = has_losses + has_ratios
    if not panels:
        return None
    crosses = ''
    with new_panels(title, 0.6 + 1.7 * panels, panels) as (figure, all_axes):
        if has_losses:
            all_axes[0].plot(*zip(*losses, strict=True), color=_EDGE, linewidth=1.2)
            _loss_axis(all_axes[0], [loss for _, loss in losses])
            all_axes[0].set_ylabel('loss')
            all_axes[0].grid(alpha=0.25)
        if has_ratios:
            kimg, shares, low, high = zip(*ratios, strict=True)
            _band_curve(all_axes[-1], kimg, shares, low, high, next(curve_styles()))
            far = [(row[0], 100 * row[1]) for row in ratios if row[0] in history.far]
            cross_out(all_axes[-1], far)
            crosses = crosses_text(far)
            ratio_axis(all_axes[-1])
            _threshold(all_axes[-1], threshold)
        all_axes[-1].set_xlim(left=0)
        all_axes[-1].set_xlabel(f'training images seen, in thousands{crosses}')
    return figure


def _loss_axis(axes: Axes, losses: Sequence[float]) -> None:
    """Set a logarithmic axis with plain numbers, or a linear one if losses differ by less than a factor of three."""
    spread = max(losses) / min(losses)
    if spread < 3:
        return
    axes.set_yscale('log')
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if spread < 100 else (1,)))
    axes.yaxis.set_major_formatter(lambda value, _: f'{value:g}')
    axes.yaxis.set_minor_formatter(NullFormatter())


def emm_figure(bars: Sequence[EmmBar], title: str, label: str = '') -> Figure:
    """The EMM by factor value, on a logarithmic scale, with the first value on top.

    A known EMM is a dot within its interval. An EMM outside the measured sizes is an open triangle that points towards
    it. Interval ends outside the measured sizes are drawn as arrows. label: the factor's name.
    """
    names = [_label(bar.name, width=18) for bar in bars]
    places, height = row_places(names)
    with new_figure(title, 1.1 + 0.2 * height) as (figure, axes):
        ends = [bound.value for bar in bars for bound in (bar.emm.estimate, bar.emm.low, bar.emm.high)]
        low, high = max(min(ends), 0.5), max(max(ends), 0.5)
        margin = max((high / low) ** 0.08, 1.15 if high > 1.2 * low else 1.5)
        axes.set_xscale('log')
        axes.set_xlim(low / margin**1.5, high * margin**1.5)
        for y, bar in zip(places, bars, strict=True):
            _emm_mark(axes, y, bar.emm, margin)
        ticks = _round_numbers(*axes.get_xlim())
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FixedFormatter([f'{tick:,}' for tick in ticks]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel('EMM in training images (95 % interval)')
        label_rows(axes, places, names, [str(bar.emm.estimate) for bar in bars], height, label)
    return figure


def value_figure(
    values: Sequence[tuple[str, RatioPoint]],
    title: str,
    interval: str = '95 % interval',
    threshold: float = EMM_RATIO,
    label: str = '',
) -> Figure:
    """Ratio at one size by factor value, first value on top: a dot within its interval; the EMM's threshold is dashed.

    values: pairs of name and ratio. interval: what the lines show, for the axis label. label: the factor's name.
    """
    names = [_label(name, width=18) for name, _ in values]
    places, height = row_places(names)
    with new_figure(title, 1.1 + 0.2 * height) as (figure, axes):
        for y, (_, point) in zip(places, values, strict=True):
            low, ratio, high = (100 * share for share in (point.ratio_low, point.ratio, point.ratio_high))
            axes.plot([low, high], [y, y], color=_EDGE, linewidth=1.6, marker='|', markersize=8)
            axes.plot([ratio], [y], marker='o', markersize=8, color=_EDGE)
            cross_out(axes, [(ratio, y)] if point.far else [])
        axes.axvline(100 * threshold, color='#555555', linestyle=(0, (6, 4)), linewidth=1, zorder=1)
        axes.set_xlim(-2, 102)
        crosses = crosses_text(point.far for _, point in values)
        axes.set_xlabel(f'memorized images in % (dashed: EMM threshold, {100 * threshold:.3g} %)\n{interval}{crosses}')
        label_rows(axes, places, names, [f'{100 * point.ratio:.1f}' for _, point in values], height, label)
    return figure


def skip_figure(placements: Sequence[SkipPlacement], resolutions: Sequence[int], title: str) -> Figure:
    """Ratio by the skip connections that are kept: a bar per mask and, below it, the positions (filled if kept).

    resolutions: the encoder's resolutions, highest first; each has the same number of positions.
    Raises ValueError if masks differ in length, or if the number of resolutions does not divide their length.
    """
    lengths = {len(placement.mask) for placement in placements}
    if len(lengths) != 1 or max(lengths) % len(resolutions):
        raise ValueError(f'masks of length {sorted(lengths)} do not fit {len(resolutions)} resolutions')
    num_places = lengths.pop()
    per_resolution = num_places // len(resolutions)
    with matplotlib.rc_context(_STYLE):
        heights = [2.3, 0.17 * num_places + 0.08 * len(resolutions)]
        figure = Figure(figsize=(_WIDTH, sum(heights) + 0.7), layout='constrained')
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=heights)
        _title(figure, title)
        _skip_bars(above, placements)
        for column, placement in enumerate(placements):
            for place, kept in enumerate(placement.mask):
                y = place + 0.5 * (place // per_resolution)
                color = _EDGE if kept else 'white'
                below.add_patch(
                    Rectangle((column - 0.3, y + 0.1), 0.6, 0.8, facecolor=color, edgecolor='#888888', linewidth=0.7)
                )
        below.set_ylim(num_places + 0.5 * (len(resolutions) - 1), 0)
        centres = [(per_resolution + 0.5) * i + per_resolution / 2 for i in range(len(resolutions))]
        below.set_yticks(centres, [f'{resolution}×{resolution}' for resolution in resolutions])
        below.set_xticks([])
        below.tick_params(length=0)
        for spine in below.spines.values():
            spine.set_visible(False)
        crosses = crosses_text(placement.far for placement in placements)
        below.set_xlabel(f'skip connections kept (filled), in encoder order{crosses}')
    return figure


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG or SVG, depending on the path's extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = figure_bytes(figure, path.suffix[1:])
    with atomic_file(path) as file:
        file.write(data)


def figure_bytes(figure: Figure, file_format: str) -> bytes:
    """Render a figure as the content of a 'png' or 'svg' file; deterministic."""
    data = io.BytesIO()
    metadata: dict[str, None] = {'Software': None} if file_format == 'png' else {'Date': None, 'Creator': None}
    with matplotlib.rc_context(_STYLE):
        figure.savefig(data, format=file_format, dpi=_DPI, metadata=metadata)
    return data.getvalue()


@contextmanager
def new_figure(title: str, height: float) -> Iterator[tuple[Figure, Axes]]:
    """An empty figure with the width of README figures, in the project's style. height: in inches."""
    with new_panels(title, height, 1) as (figure, (axes,)):
        yield figure, axes


@contextmanager
def new_panels(title: str, height: float, count: int) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """Like `new_figure`, with `count` panels above one another that share the horizontal axis."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout='constrained')
        panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
        _title(figure, title)
        yield figure, list(panels)


def _title(figure: Figure, title: str) -> None:
    if title:
        figure.suptitle(_label(title, width=50), x=0.01, ha='left', fontsize=10, fontweight='bold')


def curve_styles(count: int = 1) -> Iterator[dict]:
    """Yield the colour, marker and line style of each of `count` curves.

    Earlier curves are wider, so that they remain visible behind later curves that coincide with them.
    """
    styles = zip(itertools.cycle(_COLORS), itertools.cycle(_MARKERS), itertools.cycle(_LINES), strict=False)
    for number, (color, marker, line) in enumerate(styles):
        # The second curve with the same marker has an open marker.
        face = 'white' if number // len(_MARKERS) % 2 else color
        width = 1.3 + min(0.6 * max(count - 1 - number, 0), 2.4)
        yield {'color': color, 'marker': marker, 'linestyle': line, 'markerfacecolor': face, 'linewidth': width}


def _band_curve(
    axes: Axes,
    x: Sequence[float],
    ratios: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    style: dict,
) -> Line2D:
    middle, bottom, top = (100 * np.array(shares, dtype=np.float64) for shares in (ratios, low, high))
    axes.fill_between(x, bottom, top, color=style['color'], alpha=0.13, linewidth=0)
    # Intervals are also drawn as lines, because the band of a single point has no width and is invisible.
    axes.vlines(x, bottom, top, color=style['color'], linewidth=1)
    return axes.plot(x, middle, markersize=5, markeredgewidth=1.2, **style)[0]


def cross_out(axes: Axes, places: Sequence[tuple[float, float]]) -> None:
    """Draw a cross at each of these (x, y) places, where images are far from any data."""
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
    """The part of an axis label that explains the crosses; empty if there are none."""
    return '\ncrosses: images far from any data' if any(flags) else ''


def ratio_axis(axes: Axes) -> None:
    axes.set_ylim(-3, 104)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel('memorized images (%)')
    axes.grid(alpha=0.25)


def _threshold(axes: Axes, threshold: float) -> None:
    """Draw the EMM's threshold as a dashed line, labelled next to the axes so that no curve hides the label."""
    axes.axhline(100 * threshold, color='#555555', linestyle=(0, (6, 4)), linewidth=1, zorder=1)
    place, text = (1, 100 * threshold), f'{100 * threshold:.3g} %\nEMM'
    axes.annotate(text, place, (4, 0), ('axes fraction', 'data'), 'offset points', va='center', fontsize=8)


def row_places(names: Sequence[str]) -> tuple[list[float], float]:
    """The vertical positions of rows with these labels and the total height, in text lines (at least two per row)."""
    lines = [max(2, name.count('\n') + 1) for name in names]
    ends = list(itertools.accumulate(lines))
    return [end - own / 2 for end, own in zip(ends, lines, strict=True)], float(ends[-1])


def label_rows(
    axes: Axes, places: Sequence[float], names: Sequence[str], values: Sequence[str], height: float, label: str = ''
) -> None:
    """Write the rows' names on the left of the axes, next to `label`, and their values on the right."""
    axes.set_yticks(places, names)
    axes.set_ylabel(_label(label) if label else '')
    axes.tick_params(axis='y', length=0)
    axes.set_ylim(height + 0.3, -0.3)
    axes.grid(axis='x', alpha=0.3)
    right = axes.secondary_yaxis('right')
    right.set_yticks(places, values)
    right.tick_params(axis='y', length=0)
    right.spines['right'].set_visible(False)


def _emm_mark(axes: Axes, y: float, emm: EMM, margin: float) -> None:
    low, value, high = (max(bound.value, 0.5) for bound in (emm.low, emm.estimate, emm.high))
    axes.plot([low, high], [y, y], color=_EDGE, linewidth=1.6, solid_capstyle='butt')
    for end, bound in ((low, emm.low), (high, emm.high)):
        if bound.relation == '=':
            axes.plot([end], [y], marker='|', markersize=8, color=_EDGE)
        else:
            beyond = end / margin if bound.relation == '<' else end * margin
            axes.annotate('', (beyond, y), (end, y), arrowprops={'arrowstyle': '->', 'color': _EDGE, 'shrinkA': 0})
    marker = {'=': 'o', '≥': '>', '<': '<'}[emm.estimate.relation]
    face = _EDGE if marker == 'o' else 'white'
    axes.plot([value], [y], marker=marker, markersize=8, color=_EDGE, markerfacecolor=face, markeredgewidth=1.4)


def _skip_bars(axes: Axes, placements: Sequence[SkipPlacement]) -> None:
    ratios = [100 * placement.ratio for placement in placements]
    errors = [
        [100 * max(0.0, p.ratio - p.ratio_low) for p in placements],
        [100 * max(0.0, p.ratio_high - p.ratio) for p in placements],
    ]
    columns = range(len(placements))
    axes.bar(columns, ratios, width=0.62, color=_FILL, edgecolor=_EDGE, linewidth=0.8)
    axes.errorbar(columns, ratios, yerr=errors, fmt='none', ecolor=_EDGE, elinewidth=1, capsize=2.5)
    for column, placement in enumerate(placements):
        top = 100 * max(placement.ratio_high, placement.ratio)
        text, size = f'{100 * placement.ratio:.1f}', 8 if len(placements) <= 13 else 6.5
        cross_out(axes, [(column, ratios[column])] if placement.far else [])
        axes.annotate(
            text, (column, top), (0, 9 if placement.far else 2), textcoords='offset points', ha='center', fontsize=size
        )
    middle, half = (len(placements) - 1) / 2, max(len(placements) + 0.4, 6) / 2  # keeps bars narrow if there are few
    axes.set_xlim(middle - half, middle + half)
    ratio_axis(axes)
    axes.set_ylim(0, 112)
    axes.grid(visible=False, axis='x')
    axes.tick_params(axis='x', length=0)


def legend_height(names: Sequence[str], label: str = '') -> float:
    """The height in inches of the legend below a figure. label: the text above the names."""
    names = [_label(name) for name in names]
    if len(names) < 2:
        return 0
    rows = math.ceil(len(names) / _legend_columns(names))
    return 0.15 + 0.17 * (rows * max(name.count('\n') + 1 for name in names) + bool(label))


def add_legend(figure: Figure, handles: list[Line2D], names: Sequence[str], label: str = '') -> None:
    """Add a legend below the figure, so that long names take no space from the curves."""
    labels = [_label(name) for name in names]
    if len(labels) > 1:
        figure.legend(
            handles,
            labels,
            title=_label(label, width=50) if label else None,
            loc='outside lower center',
            ncols=_legend_columns(labels),
            frameon=False,
            handlelength=3.2,
        )


def _legend_columns(labels: Sequence[str]) -> int:
    longest = max(len(line) for label in labels for line in label.split('\n'))
    return max(1, min(len(labels), 4, 66 // (longest + 11)))


def _label(name: str, width: int = _LABEL_LENGTH) -> str:
    """Format a name as a label: at most two lines, without characters that fonts lack."""
    name = ''.join(character if character.isprintable() else ' ' for character in name).strip()
    # matplotlib omits labels from the legend if they begin with an underscore.
    name = f' {name}' if name.startswith('_') else name
    lines = textwrap.wrap(name, width, max_lines=2, placeholder=' …', drop_whitespace=False, break_on_hyphens=False)
    return '\n'.join([*lines[:1], *map(str.strip, lines[1:])]) or '—'


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


def _round_numbers(low: float, high: float) -> list[int]:
    """About three to eight round numbers in an interval, for the ticks of a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[int] = []
    for digits in ([1], [1, 3], [1, 2, 5], range(1, 10), np.arange(10, 100) / 10):
        numbers = {round(digit * 10**decade) for decade in decades for digit in digits}
        found = sorted(number for number in numbers if max(low, 1) <= number <= high)
        if len(found) >= 3:
            break
    return apart(found, share=0.1) if found else []
