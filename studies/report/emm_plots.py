"""Draws the figure of EMMs by factor value."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from evaluation.effective_memorization import EMM
from studies.report.drawing import EDGE, apart, label_rows, label_text, new_figure, row_places


def emm_figure(bars: Sequence[tuple[str, EMM]], title: str, label: str = '') -> Figure:
    """The EMM by factor value, on a logarithmic scale, with the first value on top.

    An EMM within the measured sizes is a dot. For an EMM outside the measured sizes, an open triangle at the nearest
    measured size points towards the EMM. An interval end outside the measured sizes is an arrow.
    bars: pairs of factor value and EMM. label: the factor's name.
    """
    names = [label_text(name, width=18) for name, _ in bars]
    places, height = row_places(names)
    with new_figure(title, 1.1 + 0.2 * height) as (figure, axes):
        ends = [bound.value for _, emm in bars for bound in (emm.estimate, emm.low, emm.high)]
        low, high = max(min(ends), 0.5), max(max(ends), 0.5)
        margin = max((high / low) ** 0.08, 1.15 if high > 1.2 * low else 1.5)
        axes.set_xscale('log')
        axes.set_xlim(low / margin**1.5, high * margin**1.5)
        for y, (_, emm) in zip(places, bars, strict=True):
            _emm_mark(axes, y, emm, margin)
        ticks = _round_numbers(*axes.get_xlim())
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FixedFormatter([f'{tick:,}' for tick in ticks]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel('EMM in training images (95 % interval)')
        label_rows(axes, places, names, [str(emm.estimate) for _, emm in bars], height, label)
    return figure


def _emm_mark(axes: Axes, y: float, emm: EMM, margin: float) -> None:
    low, value, high = (max(bound.value, 0.5) for bound in (emm.low, emm.estimate, emm.high))
    axes.plot([low, high], [y, y], color=EDGE, linewidth=1.6, solid_capstyle='butt')
    for end, bound in ((low, emm.low), (high, emm.high)):
        if bound.relation == '=':
            axes.plot([end], [y], marker='|', markersize=8, color=EDGE)
        else:
            beyond = end / margin if bound.relation == '<' else end * margin
            axes.annotate('', (beyond, y), (end, y), arrowprops={'arrowstyle': '->', 'color': EDGE, 'shrinkA': 0})
    marker = {'=': 'o', '≥': '>', '<': '<'}[emm.estimate.relation]
    face = EDGE if marker == 'o' else 'white'
    axes.plot([value], [y], marker=marker, markersize=8, color=EDGE, markerfacecolor=face, markeredgewidth=1.4)


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
