"""The sections of a study's page; `SECTIONS` lists them in page order.

To add a section, write a function that takes results and returns the section's blocks, and add it to `SECTIONS`. The
section is omitted if the function returns no blocks.
"""

import datetime
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dnnlib.util import counted, significant
from evaluation.diagnosis.clocks_table import CLOCKS
from evaluation.effective_memorization import EMM, bracket
from evaluation.printing import metric_text
from studies.folder import PAGE
from studies.points import LEFT, RUNNING
from studies.report.diagnosis import AGREEMENT, clock_rows, mean_agreement
from studies.report.drawing import figure_bytes
from studies.report.figures import study_figures
from studies.report.finding import FAR_NOTE, advice, bracket_text, finding, of, percent
from studies.report.gallery import read_gallery
from studies.report.page import (
    Block,
    Cell,
    Page,
    PageFigure,
    PageTable,
    Section,
    Sentences,
    Strips,
    Trainings,
    write_page,
)
from studies.report.tables import far_text, ratio_rows
from studies.report.trainings import images_of_point, page_point
from studies.results import StudyResults
from studies.study import COLUMNS

STRIP_IMAGES = 8
MOST_SENTENCES = 6  # most EMMs listed on the first screen


def write_study_page(results: StudyResults) -> Path:
    """Write a study's page into its folder; returns the path."""
    path = results.root / PAGE
    write_page(path, study_page(results))
    return path


def study_page(results: StudyResults) -> Page:
    """The page for a study's current results."""
    now = datetime.datetime.now().astimezone()
    sections = [Section(name, title, blocks(results)) for name, (title, blocks) in SECTIONS.items()]
    return Page(
        title=results.study.title,
        description=results.study.description,
        updated=f'Updated {now:%-d %B %Y, %H:%M %Z}. Training runs: {results.counts_text() or "none yet"}.',
        refreshes=any(result.status.state == RUNNING for result in results.points),
        sections=[section for section in sections if section.blocks],
    )


def finding_section(results: StudyResults) -> Sequence[Block]:
    """The first screen of the page: the finding in words, the most informative figure, and typical images."""
    figure = next(page_figures(results), None)
    notes = advice(results) + [
        f'Next size to measure{of(outcome)}: {outcome.next_size:,} training images.'
        for outcome in results.outcomes
        if outcome.next_size is not None
    ]
    if results.set_aside:
        notes.append(
            f'Set aside because their settings differ: {counted(len(results.set_aside), "earlier training run")}.'
        )
    strips = typical_strips(results)
    blocks: list[Block] = [
        Sentences([finding(results)], 'lead'),
        Sentences(emm_sentences(results)),
        Sentences(results.warnings, 'warning'),
        *([figure] if figure else []),
        *([strips] if strips.rows else []),
        Sentences(notes),
    ]
    return [block for block in blocks if not (isinstance(block, Sentences) and not block.texts)]


def emm_sentences(results: StudyResults) -> list[str]:
    """A sentence about the EMM of each combination. The list is empty if more than `MOST_SENTENCES` EMMs are known."""
    known = [outcome for outcome in results.outcomes if outcome.emm is not None]
    if len(known) > MOST_SENTENCES:
        return []
    return [
        f'{outcome.combination.name + ": " if outcome.combination.values else ""}EMM {outcome.emm.estimate}, '
        f'95 % interval {interval_text(outcome.emm)}; nearest measured sizes: '
        f'{bracket_text(outcome, results.study.threshold)}.'
        for outcome in known
        if outcome.emm is not None
    ]


def page_figures(results: StudyResults) -> Iterator[PageFigure]:
    for item in study_figures(results):
        yield PageFigure(item.caption, f'{item.caption} The tables have the numbers.', figure_bytes(item.figure, 'svg'))


def typical_strips(results: StudyResults) -> Strips:
    """Typical images for the first combination that has results, at the measured sizes next to its EMM."""
    rows = []
    for outcome in [outcome for outcome in results.outcomes if outcome.ratios][:1]:
        for ratios in bracket(outcome.ratios, results.study.threshold):
            done = [] if ratios is None else [r for r in outcome.at(ratios.size) if r.record is not None]
            if ratios is not None and done:
                place = f'{outcome.combination.name}, ' if outcome.combination.values else ''
                caption = f'{place}{ratios.size:,} training images: {percent(ratios.mean)} copies'
                rows.append((caption, read_gallery(done[0].point.folder, STRIP_IMAGES, spread=True)))
    note = 'Generated images (spread evenly over the set) above their nearest training images; copies have a red frame.'
    return Strips([(caption, items) for caption, items in rows if items], note)


def figures_section(results: StudyResults) -> Sequence[Block]:
    """All figures except the one on the first screen."""
    return list(page_figures(results))[1:]


def tables_section(results: StudyResults) -> Sequence[Block]:
    makers = emm_table, ratio_table, metrics_table, agreement_table, clocks_table
    return [table for make in makers if (table := make(results)).rows]


def trainings_section(results: StudyResults) -> Sequence[Block]:
    anchors = anchors_of(results)
    begun = [
        (outcome, result) for outcome in results.outcomes for result in outcome.points if result.status.state != LEFT
    ]
    size = images_of_point([result for _, result in begun])
    points = [page_point(outcome, result, anchors[result.point.folder], size) for outcome, result in begun]
    return [Trainings(points)] if points else []


SECTIONS: dict[str, tuple[str, Callable[[StudyResults], Sequence[Block]]]] = {
    'finding': ('Finding', finding_section),
    'figures': ('Figures', figures_section),
    'tables': ('Tables', tables_section),
    'trainings': ('Training runs', trainings_section),
}


def anchors_of(results: StudyResults) -> dict[Path, str]:
    """For each started point, map its folder to its identifier on the page. Tables link to this identifier."""
    begun = [result.point.folder for result in results.points if result.status.state != LEFT]
    return {folder: f'point-{number}' for number, folder in enumerate(begun, start=1)}


def emm_table(results: StudyResults) -> PageTable:
    """EMM by combination, with its interval and the measured sizes on either side."""
    factors = results.study.factors
    return PageTable(
        'EMM, in training images',
        [*(factor.label for factor in factors), 'EMM', 'measured between'],
        [
            [
                *map(Cell, outcome.combination.values.values()),
                Cell(str(outcome.emm.estimate), unbroken(interval_text(outcome.emm))),
                Cell(bracket_text(outcome, results.study.threshold)),
            ]
            for outcome in results.outcomes
            if outcome.emm is not None
        ],
        left=len(factors),
        note=f'The EMM, with its 95 % interval, is the largest |D| at which the ratio is at least '
        f'{100 * results.study.threshold:.3g} %.',
    )


def ratio_table(results: StudyResults) -> PageTable:
    """Ratio by combination and size; each size links to the first repeat that has started."""
    factors = [factor.name for factor in results.study.factors]
    anchors = anchors_of(results)
    leads = {
        (tuple(outcome.combination.values.values()), result.point.size): anchors[result.point.folder]
        for outcome in results.outcomes
        for result in reversed(outcome.points)
        if result.point.folder in anchors
    }
    rows = ratio_rows(results)
    far = f' Far from data: {FAR_NOTE}' if any(row['far'] for row in rows) else ''
    times = '“× n” means n repeats. ' if any(row['repeats'] > 1 for row in rows) else ''
    return PageTable(
        'Memorization ratio by |D|',
        [*(factor.label for factor in results.study.factors), '|D|', 'ratio', 'copies', 'mean distance'],
        [
            [
                *(Cell(str(row[name])) for name in factors),
                Cell(
                    f'{row["size"]:,}',
                    f'× {row["repeats"]}' if row['repeats'] > 1 else '',
                    anchor=leads.get((tuple(row[name] for name in factors), row['size'])),
                ),
                Cell(
                    unbroken(percent(row['ratio'])),
                    unbroken(f'{100 * row["ratio_low"]:.1f} to {100 * row["ratio_high"]:.1f}'),
                    share=row['ratio'],
                ),
                Cell(f'{row["memorized"]:,}', f'of {row["images"]:,}'),
                Cell(f'{row["mean_distance"]:.1f}', f'far from data: {far_text(row)}' if row['far'] else ''),
            ]
            for row in rows
        ],
        left=len(factors),
        note=f'{times}95 % intervals: {" and ".join(sorted({row["interval"] for row in rows}))}. '
        f'The mean distance is the distance to the nearest training image, in grey levels.{far}',
    )


def metrics_table(results: StudyResults) -> PageTable:
    """The measured metrics by combination, with a column for each size."""
    factors = results.study.factors
    rows = ratio_rows(results)
    sizes = sorted({row['size'] for row in rows})
    values = {
        (tuple(row[factor.name] for factor in factors), name, row['size']): metric_text(value, 4)
        for row in rows
        for name, value in row.items()
        if name not in COLUMNS and name not in {factor.name for factor in factors}
    }
    return PageTable(
        'Metrics by |D|',
        [*(factor.label for factor in factors), 'metric', *(f'{size:,}' for size in sizes)],
        [
            [
                *map(Cell, place),
                Cell(f'{name.partition(".")[0]}: {name.partition(".")[2].replace("_", " ")}'),
                *(Cell(values.get((place, name, size), '–')) for size in sizes),
            ]
            for place, name in dict.fromkeys((place, name) for place, name, _ in values)
        ],
        left=len(factors) + 1,
        note='Means over repeats; each repeat is measured at its snapshot with the highest ratio. docs/metrics.md '
        'explains the metrics.',
    )


def agreement_table(results: StudyResults) -> PageTable:
    """The agreement of two networks by combination and size."""
    factors = [factor.name for factor in results.study.factors]
    return PageTable(
        'Agreement of two networks trained on disjoint halves',
        [*(factor.label for factor in results.study.factors), '|D|', *(label for _, label in AGREEMENT.values())],
        [
            [
                *(Cell(str(row[name])) for name in factors),
                Cell(f'{row["size"]:,}', f'× {row["repeats"]}' if row['repeats'] > 1 else ''),
                *(
                    Cell(f'{row[n]:.3f}', unbroken(f'{row[f"{n}_low"]:.3f} to {row[f"{n}_high"]:.3f}'))
                    for n in AGREEMENT
                ),
            ]
            for row in mean_agreement(results)
        ],
        left=len(factors),
        note='Cosines of pixel values (after subtracting the mean of each image), with 95 % intervals over repeats or, '
        'for a single repeat, over images.',
    )


def clocks_table(results: StudyResults) -> PageTable:
    """The measured clocks of each training run."""
    factors = [factor.name for factor in results.study.factors]
    measured = clock_rows(results)
    shown = {name: label for name, label in CLOCKS.items() if any(name in row for row in measured)}
    return PageTable(
        'Clocks of each training run, in kimg',
        [*(factor.label for factor in results.study.factors), '|D|', *shown.values()],
        [
            [
                *(Cell(str(row[name])) for name in factors),
                Cell(f'{row["size"]:,}', f'repeat {row["repeat"] + 1}'),
                *(clock_cell(row, name) for name in shown),
            ]
            for row in measured
        ],
        left=len(factors),
        note='A clock is the time of generalization (tau_gen) or of memorization (tau_mem), with its 95 % interval; a '
        'dash means that no snapshot shows it. docs/noise_levels.md defines the clocks.',
    )


def clock_cell(row: dict[str, Any], name: str) -> Cell:
    """A clock with its interval. If the interval may extend beyond the last snapshot, '…' replaces its upper end."""
    if row.get(name) is None:
        return Cell('–')
    low, high = row[f'{name}_low'], row[f'{name}_high']
    ends = f'{significant(low, 4)} to {"…" if high is None else significant(high, 4)}'
    return Cell(significant(row[name], 4), unbroken(ends))


def unbroken(text: str) -> str:
    """Replace the spaces in a text by no-break spaces."""
    return text.replace(' ', '\u00a0')


def interval_text(emm: EMM) -> str:
    """The interval as text, such as '23 to 27'; if both ends are equal, only one of them, such as '≥ 1,000'."""
    return f'{emm.low} to {emm.high}' if emm.low != emm.high else str(emm.low)
