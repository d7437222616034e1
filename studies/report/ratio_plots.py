"""Draws figures of memorization ratios; each `..._figure` function makes one figure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, NullFormatter

from evaluation.effective_memorization import EMM_RATIO
from studies.report.drawing import (
    EDGE,
    FILL,
    STYLE,
    WIDTH,
    add_legend,
    add_title,
    apart,
    band_curve,
    cross_out,
    crosses_text,
    curve_styles,
    label_rows,
    label_text,
    legend_height,
    new_figure,
    new_panels,
    ratio_axis,
    row_places,
    threshold_line,
)

PIECES = 20  # number of straight pieces between two sizes, so that a curve crosses the threshold at the EMM


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
    """The ratios at one factor value, by training-set size. name: the factor value, shown in the legend."""

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
    """One run: its losses during training, and its snapshots' ratios with their 95 % intervals.

    losses: pairs (kimg, loss), without losses that are not positive numbers. ratios: tuples (kimg, ratio, low, high).
    far: kimg of the snapshots whose images are far from any data.
    """

    losses: Sequence[tuple[float, float]]
    ratios: Sequence[tuple[float, float, float, float]]
    far: Sequence[float] = ()


def ratio_figure(
    curves: Sequence[Curve],
    title: str,
    interval: str = '95 % interval',
    threshold: float = EMM_RATIO,
    label: str = '',
) -> Figure:
    """Ratio against size: one curve per factor value, with intervals as bands and the EMM's threshold as a dashed line.

    interval: what the bands show, for the axis label. threshold: the ratio that defines the EMM. label: the factor's
    name, shown above the legend.
    """
    with new_figure(title, 3.2 + legend_height([curve.name for curve in curves], label)) as (figure, axes):
        handles = []
        for place, (style, curve) in enumerate(zip(curve_styles(len(curves)), curves, strict=False)):
            points = sorted(curve.points, key=lambda point: point.dataset_size)
            # Each curve is shifted horizontally by up to 3 %, so that curves that coincide do not hide each other.
            shift = 1.03 ** (2 * place / max(len(curves) - 1, 1) - (len(curves) > 1))
            sizes = [point.dataset_size * shift for point in points]
            ends = [point.ratio_low for point in points], [point.ratio_high for point in points]
            handles.append(band_curve(axes, sizes, [point.ratio for point in points], *ends, style, PIECES))
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
        threshold_line(axes, threshold)
        add_legend(figure, handles, [curve.name for curve in curves], label)
    return figure


def training_figure(
    curves: Sequence[TrainingCurve],
    title: str,
    interval: str = '95 % interval',
    threshold: float = EMM_RATIO,
    label: str = '',
) -> Figure:
    """Ratio against epochs: one curve per run, with intervals as bands and the EMM's threshold as a dashed line.

    interval, threshold, label: as in `ratio_figure`.
    """
    with new_figure(title, 3.2 + legend_height([curve.name for curve in curves], label)) as (figure, axes):
        handles = [
            band_curve(axes, curve.epochs, curve.ratios, curve.low, curve.high, style)
            for style, curve in zip(curve_styles(len(curves)), curves, strict=False)
        ]
        for curve in curves:
            rows = zip(curve.epochs, curve.ratios, curve.far, strict=True)
            cross_out(axes, [(epochs, 100 * ratio) for epochs, ratio, far in rows if far])
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(lambda epochs, _: f'{epochs:,.2f}'.rstrip('0').rstrip('.'))
        crosses = crosses_text(far for curve in curves for far in curve.far)
        axes.set_xlabel(f'epochs of training\n(bands: {interval}){crosses}')
        ratio_axis(axes)
        threshold_line(axes, threshold)
        add_legend(figure, handles, [curve.name for curve in curves], label)
    return figure


def run_figure(history: RunHistory, title: str, threshold: float = EMM_RATIO) -> Figure | None:
    """A run's loss above its snapshots' ratios, both by kimg; None if there is no ratio and fewer than two losses."""
    losses = [(kimg, loss) for kimg, loss in history.losses if math.isfinite(loss) and loss > 0]
    ratios = sorted(row for row in history.ratios if all(map(math.isfinite, row)))
    has_losses, has_ratios = len(losses) > 1, bool(ratios)
    panels = has_losses + has_ratios
    if not panels:
        return None
    crosses = ''
    with new_panels(title, 0.6 + 1.7 * panels, panels) as (figure, all_axes):
        if has_losses:
            all_axes[0].plot(*zip(*losses, strict=True), color=EDGE, linewidth=1.2)
            _loss_axis(all_axes[0], [loss for _, loss in losses])
            all_axes[0].set_ylabel('loss')
        if has_ratios:
            kimg, shares, low, high = zip(*ratios, strict=True)
            band_curve(all_axes[-1], kimg, shares, low, high, next(curve_styles()))
            far = [(row[0], 100 * row[1]) for row in ratios if row[0] in history.far]
            cross_out(all_axes[-1], far)
            crosses = crosses_text(far)
            ratio_axis(all_axes[-1])
            threshold_line(all_axes[-1], threshold)
        all_axes[-1].set_xlim(left=0)
        all_axes[-1].set_xlabel(f'training images seen, in thousands{crosses}')
    return figure


def _loss_axis(axes: Axes, losses: Sequence[float]) -> None:
    """Make the axis of the losses logarithmic, unless the losses differ by less than a factor of three."""
    spread = max(losses) / min(losses)
    if spread < 3:
        return
    axes.set_yscale('log')
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if spread < 100 else (1,)))
    axes.yaxis.set_major_formatter(lambda value, _: f'{value:,.10g}')
    axes.yaxis.set_minor_formatter(NullFormatter())


def value_figure(
    values: Sequence[tuple[str, RatioPoint]],
    title: str,
    interval: str = '95 % interval',
    threshold: float = EMM_RATIO,
    label: str = '',
) -> Figure:
    """Ratio at one size by factor value, with the first value on top. Each ratio is a dot within its interval, and the
    EMM's threshold is a dashed line.

    values: pairs of factor value and ratio. interval: what the intervals are, for the axis label. label: the factor's
    name.
    """
    names = [label_text(name, width=18) for name, _ in values]
    places, height = row_places(names)
    with new_figure(title, 1.1 + 0.2 * height) as (figure, axes):
        for y, (_, point) in zip(places, values, strict=True):
            low, ratio, high = (100 * share for share in (point.ratio_low, point.ratio, point.ratio_high))
            axes.plot([low, high], [y, y], color=EDGE, linewidth=1.6, marker='|', markersize=8)
            axes.plot([ratio], [y], marker='o', markersize=8, color=EDGE)
            cross_out(axes, [(ratio, y)] if point.far else [])
        axes.axvline(100 * threshold, color='#555555', linestyle=(0, (6, 4)), linewidth=1, zorder=1)
        axes.set_xlim(-2, 102)
        crosses = crosses_text(point.far for _, point in values)
        axes.set_xlabel(f'memorized images in % (dashed: EMM threshold, {100 * threshold:.3g} %)\n{interval}{crosses}')
        label_rows(axes, places, names, [f'{100 * point.ratio:.1f}' for _, point in values], height, label)
    return figure


def skip_figure(
    placements: Sequence[tuple[Sequence[int], RatioPoint]], resolutions: Sequence[int], title: str
) -> Figure:
    """Ratio by the skip connections that are kept: one column per mask.

    The column's bar shows the ratio. Below the bar is a square for each skip connection, filled if the connection is
    kept.
    placements: pairs of a mask and its ratio. A mask has a 1 for each connection that is kept, in encoder order from
    the highest resolution to the lowest.
    resolutions: the encoder's resolutions, highest first; all have the same number of skip connections.
    Raises ValueError if masks differ in length, or if the number of resolutions does not divide their length.
    """
    lengths = {len(mask) for mask, _ in placements}
    if len(lengths) != 1 or max(lengths) % len(resolutions):
        raise ValueError(f'masks of length {sorted(lengths)} do not fit {len(resolutions)} resolutions')
    num_places = lengths.pop()
    per_resolution = num_places // len(resolutions)
    with matplotlib.rc_context(STYLE):
        heights = [2.3, 0.17 * num_places + 0.08 * len(resolutions)]
        figure = Figure(figsize=(WIDTH, sum(heights) + 0.7), layout='constrained')
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=heights)
        add_title(figure, title)
        _skip_bars(above, [point for _, point in placements])
        for column, (mask, _) in enumerate(placements):
            for place, kept in enumerate(mask):
                y = place + 0.5 * (place // per_resolution)
                color = EDGE if kept else 'white'
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
        crosses = crosses_text(point.far for _, point in placements)
        below.set_xlabel(f'skip connections kept (filled), in encoder order{crosses}')
    return figure


def _skip_bars(axes: Axes, points: Sequence[RatioPoint]) -> None:
    ratios = [100 * point.ratio for point in points]
    errors = [
        [100 * max(0.0, p.ratio - p.ratio_low) for p in points],
        [100 * max(0.0, p.ratio_high - p.ratio) for p in points],
    ]
    columns = range(len(points))
    axes.bar(columns, ratios, width=0.62, color=FILL, edgecolor=EDGE, linewidth=0.8)
    axes.errorbar(columns, ratios, yerr=errors, fmt='none', ecolor=EDGE, elinewidth=1, capsize=2.5)
    for column, point in enumerate(points):
        top = 100 * max(point.ratio_high, point.ratio)
        text, size = f'{100 * point.ratio:.1f}', 8 if len(points) <= 13 else 6.5
        cross_out(axes, [(column, ratios[column])] if point.far else [])
        axes.annotate(
            text, (column, top), (0, 9 if point.far else 2), textcoords='offset points', ha='center', fontsize=size
        )
    middle, half = (len(points) - 1) / 2, max(len(points) + 0.4, 6) / 2  # keeps bars narrow if there are few
    axes.set_xlim(middle - half, middle + half)
    ratio_axis(axes)
    axes.set_ylim(0, 112)
    axes.grid(axis='y', alpha=0.25)
    axes.tick_params(axis='x', length=0)
