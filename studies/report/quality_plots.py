"""Draws memorization ratios above Fréchet distances (image quality), by training-set size and during training."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from evaluation.printing import is_far
from studies.points import slug
from studies.report.drawing import (
    add_legend,
    apart,
    cross_out,
    crosses_text,
    curve_styles,
    legend_height,
    new_panels,
    ratio_axis,
)
from studies.report.run_files import point_records
from studies.results import Outcome, PointResult, StudyResults

# The evaluations of one curve: pairs (position on the horizontal axis, record), ordered by position.
Rows = Sequence[tuple[float, dict[str, Any]]]


def quality_figures(results: StudyResults) -> Iterator[tuple[str, str, Figure]]:
    """Yield the name, caption and content of each figure.

    The first figure shows quality by |D|. It is followed by a figure of quality during training for each combination.
    """
    by_size = [
        (outcome.combination.name, [(result.point.size, result.record or {}) for result in first_repeats(outcome)])
        for outcome in results.outcomes
    ]
    if any(len(rows) > 1 for _, rows in by_size):
        yield quality_by(results.study.title, 'size', by_size, 'training images')
    for outcome in results.outcomes:
        over_training = []
        for result in first_repeats(outcome):
            records = measured_records(result.point.folder)
            over_training.append((f'{result.point.size:,} training images', [(r['epochs'], r) for r in records]))
        if any(len(rows) > 1 for _, rows in over_training):
            place = f': {outcome.combination.name}' if outcome.combination.values else ''
            name = f'epochs-{slug(outcome.combination)}'
            yield quality_by(f'{results.study.title}{place}', name, over_training, 'epochs of training')


def first_repeats(outcome: Outcome) -> list[PointResult]:
    """For each size, in ascending order, the first finished repeat whose record has a Fréchet distance."""
    found: dict[int, PointResult] = {}
    for result in outcome.points:
        if result.record is not None and 'frechet' in result.record.get('metrics', {}):
            found.setdefault(result.point.size, result)
    return [found[size] for size in sorted(found)]


def measured_records(folder: Path) -> list[dict[str, Any]]:
    """The records of a point's own evaluation that have a Fréchet distance, ordered by epochs."""
    records = point_records(folder)
    return [record for record in records if 'frechet' in record.get('metrics', {}) and record['epochs'] > 0]


def quality_by(title: str, name: str, curves: Sequence[tuple[str, Rows]], x_label: str) -> tuple[str, str, Figure]:
    """Return a figure's name, caption and content. curves: pairs of a curve's name and its evaluations."""
    records = [record for _, rows in curves for _, record in rows]
    frechets = [record['metrics']['frechet'] for record in records]
    held_out = all(frechet['to_test'] is not None for frechet in frechets)
    to, count = ('test', 'num_test') if held_out else ('training', 'num_training')
    words = 'held-out images' if held_out else 'training images'
    numbers = [sorted({frechet[key] for frechet in frechets}) for key in ('num_generated', count)]
    texts = [' or '.join(f'{number:,}' for number in some) for some in numbers]
    caption = f'Memorized images, and the Fréchet distance between {texts[0]} generated images and {texts[1]} {words}, '
    caption += f'by number of {x_label}.'
    if any(len(some) > 1 for some in numbers):
        caption += ' Distances computed from different numbers of images cannot be compared.'
    shown = [(label, rows) for label, rows in curves if rows]
    figure = quality_figure(shown, title, x_label, f'to_{to}', f'Fréchet distance\nto {words}')
    return f'quality-{name}', caption, figure


def quality_figure(curves: Sequence[tuple[str, Rows]], title: str, x_label: str, distance: str, y_label: str) -> Figure:
    """Draw memorization ratios above Fréchet distances, with a shared logarithmic horizontal axis.

    curves: as in `quality_by`. distance: which Fréchet distance to draw, 'to_test' or 'to_training'.
    """
    names = [name for name, _ in curves]
    with new_panels(title, 4.6 + legend_height(names), 2) as (figure, (above, below)):
        handles = []
        for style, (_, rows) in zip(curve_styles(len(curves)), curves, strict=False):
            places = [x for x, _ in rows]
            above.plot(places, [100 * record['ratio'] for _, record in rows], markersize=5, **style)
            cross_out(above, [(x, 100 * record['ratio']) for x, record in rows if is_far(record)])
            distances = [record['metrics']['frechet'][distance] for _, record in rows]
            handles += below.plot(places, distances, markersize=5, **style)
        ratio_axis(above)
        below.set_xscale('log')
        below.set_yscale('log')
        ticks = apart(sorted({round(x) for _, rows in curves for x, _ in rows}), 0.09)
        below.set_xticks(ticks, [f'{tick:,}' for tick in ticks])
        below.xaxis.set_minor_locator(NullLocator())
        below.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        below.yaxis.set_major_formatter(lambda value, _: f'{value:,.10g}')
        below.yaxis.set_minor_locator(NullLocator())
        below.set_xlabel(x_label + crosses_text(is_far(record) for _, rows in curves for _, record in rows))
        below.set_ylabel(y_label)
        add_legend(figure, handles, names)
    return figure
