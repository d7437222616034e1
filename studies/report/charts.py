"""Small line charts for the page, as numbers of an inline SVG in the page's colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 296, 14, 152  # edges of the drawn area
_MOST_DOTS = 40


@dataclass(frozen=True)
class Tick:
    """A number on an axis, and its position in the chart's units."""

    place: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A curve. line, band: paths of an SVG of WIDTH × HEIGHT, '' for no band. alt: what it shows, in words."""

    title: str
    x_label: str
    alt: str
    line: str
    band: str
    dots: Sequence[tuple[float, float]]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]


def loss_chart(kimg: Sequence[float], losses: Sequence[float]) -> Chart | None:
    """Training loss by thousands of images, on a logarithmic scale; None if fewer than two losses are positive."""
    pairs = [(x, y) for x, y in zip(kimg, losses, strict=True) if math.isfinite(x) and math.isfinite(y) and y > 0]
    if len(pairs) < 2:
        return None
    x, y = zip(*pairs, strict=True)
    low, high = min(y), max(y) if max(y) > min(y) else 1.1 * min(y)
    ticks = [Tick(_y(math.log(v), math.log(low), math.log(high)), f'{v:.2g}') for v in _log_ticks(low, high)]
    alt = f'Loss from {y[0]:.3g} at {x[0]:,.4g} kimg to {y[-1]:.3g} at {x[-1]:,.4g} kimg'
    return _chart('Loss', 'kimg', alt, x, [_y(math.log(v), math.log(low), math.log(high)) for v in y], ticks)


def ratio_chart(
    epochs: Sequence[float], ratios: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> Chart | None:
    """Share of memorized images, in [0, 1], by epochs with its interval as a band; None without any."""
    rows = sorted(row for row in zip(epochs, ratios, low, high, strict=True) if all(map(math.isfinite, row)))
    if not rows:
        return None
    x, ratios, low, high = zip(*rows, strict=True)
    ticks = [Tick(_y(share, 0, 1), f'{100 * share:.0f} %') for share in (0, 0.5, 1)]
    top = max(rows, key=lambda row: row[1])
    alt = f'Memorized images by epochs; the highest of {len(rows)} is {100 * top[1]:.1f} % at {top[0]:,.0f} epochs'
    chart = _chart('Memorized images', 'epochs', alt, x, [_y(v, 0, 1) for v in ratios], ticks)
    places = [_x(v, x) for v in x]
    edge = [*zip(places, [_y(v, 0, 1) for v in high], strict=True)]
    edge += reversed([*zip(places, [_y(v, 0, 1) for v in low], strict=True)])
    return Chart(**{**vars(chart), 'band': _path(edge) + 'Z'})


def _chart(title: str, x_label: str, alt: str, x: Sequence[float], y: Sequence[float], y_ticks: list[Tick]) -> Chart:
    """x: in data. y: in the chart's units."""
    places = list(zip([_x(value, x) for value in x], y, strict=True))
    dots = [(round(a, 1), round(b, 1)) for a, b in places] if len(places) <= _MOST_DOTS else []
    low, high = _ends(x)
    inside = [v for v in MaxNLocator(nbins=4, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= v <= high]
    x_ticks = [Tick(round(_x(value, x), 1), f'{value:,.6g}') for value in inside]
    return Chart(title, x_label, alt, _path(places), '', dots, x_ticks, y_ticks)


def _path(places: Sequence[tuple[float, float]]) -> str:
    return 'M' + 'L'.join(f'{x:.1f} {y:.1f}' for x, y in places)


def _ends(x: Sequence[float]) -> tuple[float, float]:
    """The ends of the x axis, which begins at 0."""
    return min(0.0, min(x)), max(x) if max(x) > 0 else 1.0


def _x(value: float, x: Sequence[float]) -> float:
    low, high = _ends(x)
    return LEFT + (RIGHT - LEFT) * (value - low) / (high - low)


def _y(value: float, low: float, high: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low), 1)


def _log_ticks(low: float, high: float) -> list[float]:
    """Two to about six numbers from low to high: powers of ten, with 2 and 5 if there are few, or the ends."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ([1], [1, 3], [1, 2, 5]):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits if low <= digit * 10.0**decade <= high]
        if len(ticks) >= 2:
            return ticks[:: -(-len(ticks) // 6)]
    return [low, high]
