"""Draws the figures of diagnose.py: errors by noise level, training-set geometry, agreement, and clocks."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter

from evaluation.diagnosis.clocks_table import CLOCKS, normalized_time
from evaluation.geometry import DECIDED
from studies.report.diagnosis import AGREEMENT
from studies.report.drawing import add_legend, apart, curve_styles, label_rows, legend_height, new_figure, row_places

Row = dict[str, Any]
SIGMA = 'noise level sigma (images in [-1, 1])'
# Legend names of the sources of noisy images, short enough for two columns.
NAMES = {'train': 'training', 'test': 'held out', 'trajectory': 'trajectory', 'generated': 'own images'}


def error_figure(rows: Sequence[Row], title: str) -> Figure:
    """Squared denoising errors per pixel by noise level.

    The denoiser has one curve for each source of noisy images. The optimum and the Gaussian denoiser are shown for one
    source only: the held-out images or, without them, the first source.
    """
    sources = [source for source in NAMES if any(row['source'] == source and 'error' in row for row in rows)]
    shown = 'test' if 'test' in sources else sources[0]
    curves = [(f'denoiser, {NAMES[source]}', source, 'error_per_pixel') for source in sources]
    curves += [(f'optimum, {NAMES[shown]}', shown, 'optimum_error_per_pixel')]
    curves += [(f'Gaussian, {NAMES[shown]}', shown, 'gaussian_error_per_pixel')]
    return _level_figure(rows, curves, title, 'squared error per pixel')


def distance_figure(rows: Sequence[Row], title: str) -> Figure:
    """Squared distances per pixel, by noise level, between the denoiser's outputs and the outputs of two closed forms:
    the optimum and the Gaussian denoiser."""
    sources = [source for source in NAMES if any(row['source'] == source for row in rows)]
    curves = [
        (f'{name}, {NAMES[source]}', source, f'to_{name.lower()}_per_pixel')
        for name in ('optimum', 'Gaussian')
        for source in sources
    ]
    return _level_figure(rows, curves, title, 'squared distance per pixel')


def explained_figure(rows: Sequence[Row], compared: Sequence[str], title: str) -> Figure:
    """The share of a denoiser D that each closed form F explains: 1 - |D - F|² / |D - mean D|².

    Values below -1 are cut off.
    """
    with new_figure(title, 3.6 + legend_height(compared)) as (figure, axes):
        handles = [
            _curve(axes, rows, 'sigma', f'explained_{name}', style)
            for style, name in zip(curve_styles(), compared, strict=False)
        ]
        _logarithmic(axes, 'x')
        axes.set_ylim(max(axes.get_ylim()[0], -1.04), 1.04)
        axes.set_xlabel(SIGMA)
        axes.set_ylabel('explained share')
        add_legend(figure, handles, list(compared))
    return figure


def windows_figure(rows: Sequence[Row], title: str) -> Figure:
    """The calibrated window, in pixels, by noise level; the band shows the quartiles over images."""
    with new_figure(title, 3.4) as (figure, axes):
        style = next(curve_styles())
        shown = [{**row, 'window_low': row['lowest_quarter'], 'window_high': row['highest_quarter']} for row in rows]
        _curve(axes, shown, 'sigma', 'window', style)
        _logarithmic(axes, 'x')
        axes.set_ylim(bottom=0)
        axes.set_xlabel(SIGMA)
        axes.set_ylabel('window in pixels')
    return figure


def _level_figure(rows: Sequence[Row], curves: Sequence[tuple[str, str, str]], title: str, label: str) -> Figure:
    """Draw curves by noise level. curves: each curve's legend name, source of noisy images and column of `rows`."""
    names = [name for name, _, _ in curves]
    with new_figure(title, 3.6 + legend_height(names)) as (figure, axes):
        handles = []
        for style, (_, source, column) in zip(curve_styles(), curves, strict=False):
            own = [row for row in rows if row['source'] == source]
            handles.append(_curve(axes, own, 'sigma', column, style))
        highest = max((row[column] or 0 for row in rows for _, _, column in curves if column in row), default=1)
        positive = [row[column] for row in rows for _, _, column in curves if (row.get(column) or 0) > 1e-7 * highest]
        _logarithmic(axes, 'x', 'y')
        axes.set_ylim(min(positive, default=1) / 2, highest * 2)
        axes.set_xlabel(SIGMA)
        axes.set_ylabel(label)
        add_legend(figure, handles, names)
    return figure


def geometry_figure(rows: Sequence[Row], title: str) -> Figure:
    """Posterior weight, shell coverage and share of covered images by noise level; see `evaluation.geometry`."""
    columns = {'posterior_weight': 'posterior weight', 'shell_coverage': 'shell coverage', 'covered': 'covered images'}
    shown = {column: name for column, name in columns.items() if column in rows[0]}
    with new_figure(title, 3.4 + legend_height(list(shown.values()))) as (figure, axes):
        handles = [
            _curve(axes, rows, 'sigma', column, style) for style, column in zip(curve_styles(), shown, strict=False)
        ]
        _logarithmic(axes, 'x')
        axes.set_ylim(-0.03, 1.04)
        for row in rows:
            if row.get('decided'):
                axes.axvline(row['sigma'], color='#d55e00', alpha=0.18, linewidth=9, zorder=0)
        axes.axhline(DECIDED, color='#555555', linestyle=(0, (6, 4)), linewidth=1, zorder=1)
        decided = (
            '\n(shaded: levels at which memorization is decided)' if any(row.get('decided') for row in rows) else ''
        )
        axes.set_xlabel(f'{SIGMA}{decided}')
        axes.set_ylabel('share')
        add_legend(figure, handles, list(shown.values()))
    return figure


def agreement_figure(rows: Sequence[Row], threshold: float, title: str) -> Figure:
    """Cosines of each kind of image pair; the threshold is dashed.

    A dot marks the median, a thick line joins the quartiles, and a thin line joins the 5 % and 95 % quantiles.
    """
    places, height = row_places([row['pairs'] for row in rows])
    with new_figure(title, 1.1 + 0.2 * height) as (figure, axes):
        for y, row in zip(places, rows, strict=True):
            low, left, middle, right, high = (row[f'quantile_{quantile}'] for quantile in (5, 25, 50, 75, 95))
            axes.plot([low, high], [y, y], color='#222222', linewidth=1, marker='|', markersize=7)
            axes.plot([left, right], [y, y], color='#222222', linewidth=6, alpha=0.35, solid_capstyle='butt')
            axes.plot([middle], [y], color='#222222', marker='o', markersize=6)
        axes.axvline(threshold, color='#d55e00', linestyle=(0, (6, 4)), linewidth=1, zorder=1)
        axes.set_xlim(right=1.02)
        axes.set_xlabel(f'cosine (5 to 95 %, quartiles, median;\nright: share above {threshold:g} in %)')
        names = [_two_lines(row['pairs']) for row in rows]
        label_rows(axes, places, names, [f'{100 * row["share"]:.1f}' for row in rows], height)
    return figure


def clocks_figure(record: Row, title: str) -> Figure:
    """A run's training and held-out errors and its memorization ratio by kimg, and its clocks as vertical lines."""
    rows = record['rows']
    has_ratio = any(row['ratio'] is not None for row in rows)
    names = ['held-out error', 'training error', *(['memorization ratio (right)'] if has_ratio else [])]
    with new_figure(title, 3.6 + legend_height(names)) as (figure, axes):
        styles = curve_styles()
        handles = [_curve(axes, rows, 'kimg', f'{kind}_error', next(styles)) for kind in ('test', 'train')]
        _logarithmic(axes, 'x', 'y')
        if has_ratio:
            right = axes.twinx()
            known = [row for row in rows if row['ratio'] is not None]
            handles.append(_curve(right, known, 'kimg', 'ratio', next(styles)))
            right.set_ylim(-0.03, 1.04)
            right.set_ylabel('memorization ratio')
            right.spines['right'].set_visible(True)
        clocks = [
            (CLOCKS[name], clock['time']) for name, clock in record['clocks'].items() if clock['time'] is not None
        ]
        for place, (name, time) in enumerate(sorted(clocks, key=lambda pair: pair[1])):
            axes.axvline(time, color='#555555', linestyle=(0, (2, 2)), linewidth=1, zorder=1)
            axes.annotate(
                name, (time, 1), (3, -10 - 12 * place), ('data', 'axes fraction'), 'offset points', fontsize=8
            )
        axes.set_xlabel('training images seen, in thousands')
        axes.set_ylabel('weighted error')
        add_legend(figure, handles, names)
    return figure


def agreement_by_size(rows: Sequence[Row], title: str, interval: str) -> Figure:
    """The similarities in `AGREEMENT` by training-set size.

    rows: from `studies.report.diagnosis.mean_agreement`. interval: what the bands show, for the axis label.
    """
    names = [name for _, name in AGREEMENT.values()]
    with new_figure(title, 3.6 + legend_height(names)) as (figure, axes):
        handles = []
        for style, column in zip(curve_styles(), AGREEMENT, strict=False):
            handles.append(_curve(axes, rows, 'size', column, style))
            # Intervals are also drawn as lines, because the band of a single size has no width and is invisible.
            low, high = ([row[f'{column}_{end}'] for row in rows] for end in ('low', 'high'))
            axes.vlines([row['size'] for row in rows], low, high, color=style['color'], linewidth=1)
        _size_axis(axes, [row['size'] for row in rows])
        axes.set_xlabel(f'training images |D| (bands: {interval})')
        axes.set_ylabel('cosine')
        add_legend(figure, handles, names)
    return figure


def clock_comparison(rows: Sequence[Row], title: str) -> Figure:
    """Clocks by training-set size: a marker and an interval for each training run.

    rows: from `studies.report.diagnosis.clock_rows`. An interval without an upper end is drawn from its lower end to
    the marker.
    """
    shown = {name: label for name, label in CLOCKS.items() if any(row.get(name) is not None for row in rows)}
    with new_figure(title, 3.6 + legend_height(list(shown.values()))) as (figure, axes):
        handles = []
        for shift, (style, name) in enumerate(zip(curve_styles(), shown, strict=False)):
            known = [row for row in rows if row.get(name) is not None]
            # Each clock has its own small shift, so that different clocks at the same size do not overlap.
            places = [row['size'] * 1.06 ** (shift - 1) for row in known]
            times = [row[name] for row in known]
            axes.vlines(
                places,
                [row[f'{name}_low'] for row in known],
                [row[name] if row[f'{name}_high'] is None else row[f'{name}_high'] for row in known],
                color=style['color'],
                linewidth=1,
            )
            handles += axes.plot(places, times, markersize=5, markeredgewidth=1, **style | {'linestyle': 'none'})
        _size_axis(axes, [row['size'] for row in rows])
        axes.set_ylim(bottom=0)
        axes.set_xlabel('training images |D|')
        axes.set_ylabel('training images seen, in thousands')
        add_legend(figure, handles, list(shown.values()))
    return figure


def collapse_figure(records: Sequence[Row], title: str) -> Figure:
    """Held-out minus training error over normalized time, one curve per run.

    The curves coincide if the normalization accounts for all differences between the runs.
    """
    names = [f'{record["run"]}, |D| = {record["dataset_size"]:,}' for record in records]
    with new_figure(title, 3.6 + legend_height(names)) as (figure, axes):
        handles = []
        for style, record in zip(curve_styles(), records, strict=False):
            rows = [{**row, 'time': normalized_time(record, row['kimg'], records)} for row in record['rows']]
            handles.append(_curve(axes, rows, 'time', 'gap', style))
        _logarithmic(axes, 'x')
        axes.set_xlabel('training steps, normalized for |D|, batch size and learning rate')
        axes.set_ylabel('held-out minus training error (weighted)')
        add_legend(figure, handles, names)
    return figure


def _curve(axes: Axes, rows: Sequence[Row], x: str, column: str, style: dict) -> Line2D:
    """Plot one column of the rows against the column `x`, with its confidence interval as a band."""
    known = [row for row in rows if row.get(column) is not None]
    places, values = [row[x] for row in known], [row[column] for row in known]
    low, high = ([row.get(f'{column}_{end}', math.nan) for row in known] for end in ('low', 'high'))
    axes.fill_between(places, low, high, color=style['color'], alpha=0.18, linewidth=0)
    return axes.plot(places, values, markersize=4, markeredgewidth=1, **style)[0]


def _size_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Set a logarithmic axis of training-set sizes, with a tick at each size whose label fits."""
    low, high = min(sizes), max(sizes)
    axes.set_xscale('log')
    axes.xaxis.set_major_locator(FixedLocator(apart(sorted(set(sizes)), share=0.07)))
    axes.xaxis.set_major_formatter(lambda value, _: f'{value:,.0f}')
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(low / 1.5, high * 1.5)


def _logarithmic(axes: Axes, *names: str) -> None:
    """Make the named axes logarithmic. Powers of ten are labelled; on an axis of less than two decades, also 2 and 5
    times each power of ten."""
    for name in names:
        axis = {'x': axes.xaxis, 'y': axes.yaxis}[name]
        axes.set(**{f'{name}scale': 'log'})
        low, high = axis.get_data_interval()
        few = low > 0 and math.log10(high / low) < 2
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        axis.set_major_formatter(lambda value, _: f'{value:,.10g}')
        axis.set_minor_formatter(NullFormatter())


def _two_lines(name: str) -> str:
    words = name.split()
    middle = (len(words) + 1) // 2
    return f'{" ".join(words[:middle])}\n{" ".join(words[middle:])}'
