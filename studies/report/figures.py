"""A study's figures: memorization ratios, the EMM, image quality, and diagnostic measurements."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dnnlib.typed import read_json
from evaluation.effective_memorization import Ratios
from evaluation.printing import is_far
from evaluation.records import changed_settings, evaluations
from studies.folder import open_results
from studies.points import slug
from studies.report.diagnosis import clock_rows, level_rows, mean_agreement
from studies.report.diagnosis_plots import agreement_by_size, clock_comparison, error_figure
from studies.report.drawing import save_figure
from studies.report.emm_plots import emm_figure
from studies.report.quality_plots import quality_figures
from studies.report.ratio_plots import (
    Curve,
    RatioPoint,
    TrainingCurve,
    ratio_figure,
    run_figure,
    skip_figure,
    training_figure,
    value_figure,
)
from studies.report.run_files import point_records, run_records
from studies.report.run_history import run_history
from studies.results import Outcome, PointResult, StudyResults
from studies.study import Study
from training.config import OPTIONS_FILE

FOLDER = 'figures'


@dataclasses.dataclass(frozen=True)
class StudyFigure:
    """A figure, its file name without extension, and a caption."""

    name: str
    caption: str
    figure: Figure


def study_figures(results: StudyResults) -> Iterator[StudyFigure]:
    """Yield all figures for which there are finished points, the most informative figure first."""
    outcomes = [outcome for outcome in results.outcomes if outcome.ratios]
    if not outcomes:
        return
    study = results.study
    kinds = sorted({ratios.interval.kind for outcome in outcomes for ratios in outcome.ratios})
    interval = f'95 % interval, {" or ".join(kinds)}'
    if len({ratios.size for outcome in outcomes for ratios in outcome.ratios}) > 1:
        curves = [
            Curve(name_of(outcome), [ratio_point(outcome, ratios) for ratios in outcome.ratios]) for outcome in outcomes
        ]
        figure = ratio_figure(curves, study.title, interval, study.threshold, label_of(study))
        yield StudyFigure('ratios', f'Memorization ratio by training-set size. Bands: {interval}.', figure)
    elif not sets_skips(results):
        points = [(name_of(outcome), ratio_point(outcome, outcome.ratios[0])) for outcome in outcomes]
        title = f'{study.title}: {outcomes[0].ratios[0].size:,} training images'
        figure = value_figure(points, title, interval, study.threshold, label_of(study))
        yield StudyFigure('values', f'Memorization ratio by factor value. Lines: {interval}.', figure)
    bars = [(name_of(outcome), outcome.emm) for outcome in outcomes if outcome.emm is not None]
    caption = (
        'EMM, with 95 % intervals over images, repeats and interpolation. Arrows and triangles point beyond the '
        'measured sizes.'
    )
    if bars and study.factors:
        yield StudyFigure('emm', caption, emm_figure(bars, study.title, label_of(study)))
    yield from skip_figures(results, outcomes)
    yield from training_figures(results, outcomes)
    yield from (StudyFigure(*parts) for parts in quality_figures(results))
    yield from level_figures(results)
    yield from agreement_figures(results)
    yield from clock_figures(results)


def write_folder_figures(folder: Path) -> list[Path]:
    """Write all figures of a study or run, as PNG and SVG, into its subfolder `figures`; returns their paths."""
    if (folder / OPTIONS_FILE).is_file():
        figures = list(run_figures(folder))
    else:
        figures = [(item.name, item.figure) for item in study_figures(open_results(folder))]
    paths = [folder / FOLDER / f'{name}.{suffix}' for name, _ in figures for suffix in ('png', 'svg')]
    for path, figure in zip(paths, [figure for _, figure in figures for _ in range(2)], strict=True):
        save_figure(path, figure)
    return paths


def run_figures(run: Path) -> Iterator[tuple[str, Figure]]:
    """The loss and ratios of a run, as pairs of a file name without extension and a figure.

    A run that was evaluated with several settings has one figure for each evaluation, and the settings are printed.
    """
    name, found = run.resolve().name, evaluations(run_records(run))
    for number, records in enumerate(found or [[]], start=1):
        of_several = f'evaluation {number}' if len(found) > 1 else ''
        figure = run_figure(run_history(run, records), f'{name}, {of_several}' if of_several else name)
        if number > 1:
            print(f'{of_several.capitalize()}: {changed_settings(found[0][0], records[0])}')
        if figure is not None:
            yield (f'run-{number}' if of_several else 'run'), figure


def level_figures(results: StudyResults) -> Iterator[StudyFigure]:
    """Denoising errors of the last snapshot by noise level: one figure for each combination and size, from the first
    measured repeat."""
    rows = level_rows(results)
    for outcome in results.outcomes:
        for size in sorted({result.point.size for result in outcome.points}):
            own = [row for row in rows if outcome.combination.values.items() <= row.items() and row['size'] == size]
            own = [row for row in own if row['repeat'] == own[0]['repeat']]
            if own and any('error' in row for row in own):
                place = f'{name_of(outcome)}, ' if outcome.combination.values else ''
                name = f'levels-{slug(outcome.combination)}-{size}'
                caption = f'Errors of the last snapshot by noise level: {place}{size:,} training images.'
                yield StudyFigure(name, caption, error_figure(own, f'{place}{size:,} training images'))


def agreement_figures(results: StudyResults) -> Iterator[StudyFigure]:
    """The agreement of two networks by training-set size, one figure per combination."""
    for outcome, own, place in _by_combination(results, mean_agreement(results)):
        kinds = {'repeats' if row['repeats'] > 1 else 'images' for row in own}
        interval = f'95 % intervals over {" or ".join(sorted(kinds, reverse=True))}'
        figure = agreement_by_size(own, f'Agreement of networks trained on disjoint halves{place}', interval)
        caption = f'Agreement of two networks trained on disjoint halves, by |D|{place}. Bands: {interval}.'
        yield StudyFigure(f'agreement-{slug(outcome.combination)}', caption, figure)


def clock_figures(results: StudyResults) -> Iterator[StudyFigure]:
    """The clocks of every training run by training-set size, one figure per combination."""
    for outcome, own, place in _by_combination(results, clock_rows(results)):
        figure = clock_comparison(own, f'Clocks{place}')
        caption = f'Clocks of each training run by training-set size{place}. Lines: 95 % intervals.'
        yield StudyFigure(f'clocks-{slug(outcome.combination)}', caption, figure)


def _by_combination(
    results: StudyResults, rows: list[dict[str, Any]]
) -> Iterator[tuple[Outcome, list[dict[str, Any]], str]]:
    """Yield each combination that has rows, its rows, and a suffix for titles that names the combination."""
    for outcome in results.outcomes:
        own = [row for row in rows if outcome.combination.values.items() <= row.items()]
        if own:
            yield outcome, own, f': {name_of(outcome)}' if outcome.combination.values else ''


def name_of(outcome: Outcome) -> str:
    """The name of a combination in figures. If the study has a single factor, this is the factor value without the
    factor's label."""
    names = list(outcome.combination.values.values())
    return names[0] if len(names) == 1 else outcome.combination.name


def label_of(study: Study) -> str:
    """The factor's label if the study has a single factor, because `name_of` then omits the label; otherwise ''."""
    return study.factors[0].label if len(study.factors) == 1 else ''


def ratio_point(outcome: Outcome, ratios: Ratios) -> RatioPoint:
    """The ratio to plot at one size; marked as far if at least one repeat's images are far from any data."""
    far = any(is_far(result.record) for result in outcome.at(ratios.size) if result.record is not None)
    return RatioPoint(ratios.size, ratios.mean, ratios.interval.low, ratios.interval.high, far)


def skip_figures(results: StudyResults, outcomes: list[Outcome]) -> Iterator[StudyFigure]:
    """Yield a figure for each size: ratios by the skip connections that are kept. Without a factor that sets skip
    connections, yield nothing."""
    if not sets_skips(results):
        return
    for size in sorted({ratios.size for outcome in outcomes for ratios in outcome.ratios}):
        placements, levels = [], []
        for outcome in outcomes:
            ratios = next((r for r in outcome.ratios if r.size == size), None)
            network = network_of(outcome.at(size)) if ratios is not None else None
            if ratios is None or network is None:
                continue
            levels = [network['img_resolution'] >> level for level in range(len(network['channel_mult']))]
            per_level = network['num_blocks'] + 1
            mask = network.get('skip_connections') or [1] * (per_level * len(levels))
            placements.append((mask, ratio_point(outcome, ratios)))
        if len(placements) > 1 and len({len(mask) for mask, _ in placements}) == 1:
            figure = skip_figure(placements, levels, f'{results.study.title}: {size:,} training images')
            caption = f'Memorization ratio at {size:,} training images by the skip connections that are kept.'
            yield StudyFigure(f'skip-connections-{size}', caption, figure)


def sets_skips(results: StudyResults) -> bool:
    """Whether a factor of the study sets the skip connections."""
    changes = (value.changes.get('train', {}) for factor in results.study.factors for value in factor.values)
    return any('skip-connections' in options for options in changes)


def network_of(points: list[PointResult]) -> dict[str, Any] | None:
    """The constructor arguments of the network that these points train; None if none has started training."""
    for result in points:
        options = read_json(result.point.folder / 'run' / OPTIONS_FILE, dict[str, Any])
        if options is not None:
            return options['network']['arguments']
    return None


def training_figures(results: StudyResults, outcomes: list[Outcome]) -> Iterator[StudyFigure]:
    """Ratios during training: one figure for each size, with one curve for each combination.

    Each curve shows the first finished repeat; combinations in which this repeat has a single record are omitted.
    """
    for size in sorted({ratios.size for outcome in outcomes for ratios in outcome.ratios}):
        curves = []
        for outcome in outcomes:
            records = training_records(outcome.at(size))
            if len(records) > 1:
                series = [[record[key] for record in records] for key in ('epochs', 'ratio', 'ratio_low', 'ratio_high')]
                epochs, ratios, low, high = series
                far = [is_far(record) for record in records]
                curves.append(TrainingCurve(name_of(outcome), epochs, ratios, low, high, far))
        if curves:
            title = f'{results.study.title}: {size:,} training images'
            first = results.study.repeats.count > 1
            interval = '95 % interval, Wilson over images' + '; only the first repeat' * first
            figure = training_figure(curves, title, interval, results.study.threshold, label_of(results.study))
            caption = f'Memorization ratio during training on {size:,} images{" (only the first repeat)" * first}.'
            yield StudyFigure(f'epochs-{size}', caption, figure)


def training_records(points: list[PointResult]) -> list[dict[str, Any]]:
    """The records of all snapshots of the first finished point, ordered by kimg."""
    for result in points:
        if result.record is not None:
            return point_records(result.point.folder)
    return []
