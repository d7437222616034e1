"""The page of a study: its contents, and how it is written as one self-contained HTML file.

`study_page` makes a `Page` of a study's results; `write_page` writes any. The file has no scripts, styles, fonts or
images outside of itself, and its policy forbids browsers to load any.
"""

import base64
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import PIL.Image

from dnnlib.util import atomic_file, format_time, read_json
from evaluation.diagnosis.clocks_table import CLOCKS
from evaluation.effective_memorization import EMM
from studies.commands import Resources, shell_line
from studies.folder import PAGE
from studies.points import LEFT
from studies.report.charts import Chart, loss_chart, ratio_chart
from studies.report.diagnosis import clock_rows
from studies.report.figures import study_figures
from studies.report.gallery import GalleryItem, read_gallery, run_records
from studies.report.plots import figure_bytes
from studies.report.tables import ratio_rows
from studies.results import Outcome, PointResult, StudyResults
from training.config import OPTIONS_FILE
from training.training_loop import STATS_FILE

TEMPLATES = Path(__file__).resolve().parent / 'templates'
# Images in all galleries of a page, and in the gallery of one point; more make a file that is slow to open.
MOST_IMAGES, MOST_OF_POINT, FEWEST_OF_POINT = 1200, 36, 4
MOST_PIXEL_BYTES = 6_000_000
_MOST_LOSSES = 200
_MOST_SENTENCES = 12  # EMMs that the summary lists
_LONGEST_LIST = 24  # entries of a list in a configuration; those beyond are counted


@dataclass(frozen=True)
class Cell:
    """A cell of a table. share: in [0, 1], drawn as a bar behind the text. anchor: of the point that it links to."""

    text: str
    share: float | None = None
    anchor: str | None = None


@dataclass(frozen=True)
class PageTable:
    """A table. left: number of leading text columns, aligned to the left; the others hold numbers."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left: int = 1
    note: str = ''


@dataclass(frozen=True)
class PageFigure:
    """A figure. alt: what it shows, in words. data: the bytes of a PNG or SVG file."""

    caption: str
    alt: str
    data: bytes


@dataclass(frozen=True)
class PagePoint:
    """One training and its evaluation. Unknown fields are empty, and omitted from the page.

    anchor: its identifier on the page, letters, digits and dashes. group: of the points that share its factor values.
    state: 'left', 'running', 'stopped', 'failed' or 'done'. ratio: of memorized images, in [0, 1]. headline: the ratio
    in words. facts: further numbers with their names. message: of a point that is not done, the last line of its log.
    gallery: closest to the threshold first. gallery_note: how many of all images it shows.
    """

    anchor: str
    name: str
    group: str = ''
    size: int = 0
    state: str = 'done'
    ratio: float | None = None
    headline: str = ''
    facts: Sequence[tuple[str, str]] = ()
    message: str = ''
    charts: Sequence[Chart] = ()
    configuration: dict[str, Any] = field(default_factory=dict)
    commands: Sequence[str] = ()
    gallery: Sequence[GalleryItem] = ()
    gallery_note: str = ''


@dataclass(frozen=True)
class Page:
    """Everything that a page shows, in this order. Texts are plain, without markup."""

    title: str
    description: str = ''
    summary: Sequence[str] = ()
    warnings: Sequence[str] = ()
    tables: Sequence[PageTable] = ()
    figures: Sequence[PageFigure] = ()
    points: Sequence[PagePoint] = ()

    @property
    def groups(self) -> list[tuple[str, list[PagePoint]]]:
        """Points by group, in the order in which the groups first appear."""
        groups: dict[str, list[PagePoint]] = {}
        for point in self.points:
            groups.setdefault(point.group, []).append(point)
        return list(groups.items())

    @property
    def gallery(self) -> list[GalleryItem]:
        """The items of all galleries."""
        return [item for point in self.points for item in point.gallery]


def study_page(results: StudyResults) -> Page:
    """The page of the results of a study so far."""
    begun = [
        (outcome, result) for outcome in results.outcomes for result in outcome.points if result.status.state != LEFT
    ]
    anchors = {result.point.folder: f'point-{number}' for number, (_, result) in enumerate(begun, start=1)}
    gallery_size = images_of_point([result for _, result in begun])
    return Page(
        title=results.study.title,
        description=results.study.description,
        summary=summary(results),
        warnings=results.warnings,
        tables=study_tables(results, anchors),
        figures=[
            PageFigure(
                figure.caption, f'{figure.caption} The tables have the numbers.', figure_bytes(figure.figure, 'svg')
            )
            for figure in study_figures(results)
        ],
        points=[page_point(outcome, result, anchors[result.point.folder], gallery_size) for outcome, result in begun],
    )


def images_of_point(results: Sequence[PointResult]) -> int:
    """Number of images in the gallery of each point, limited so that the page opens quickly."""
    done = max(1, sum(result.record is not None for result in results))
    # Three images each, and base64 takes four characters for three bytes.
    pixels = max((4 * image_bytes(result) for result in results), default=0)
    fitting = min(MOST_OF_POINT, MOST_IMAGES // done, MOST_PIXEL_BYTES // max(1, pixels * done))
    return max(FEWEST_OF_POINT, fitting)


def image_bytes(result: PointResult) -> int:
    """Bytes of one training image before compression; 0 if the point has no resolved configuration yet."""
    options = read_json(result.point.folder / 'run' / OPTIONS_FILE)
    return options['dataset']['channels'] * options['dataset']['resolution'] ** 2 if options else 0


def summary(results: StudyResults) -> list[str]:
    """The first sentences of the page: the EMM of each combination, and the progress of the study."""
    sentences = [
        f'{outcome.combination.name + ": " if outcome.combination.values else ""}EMM {outcome.emm.estimate}, '
        f'95 % interval {interval_text(outcome.emm)}.'
        for outcome in results.outcomes
        if outcome.emm is not None
    ]
    if len(sentences) > _MOST_SENTENCES:
        sentences = [f'The EMM of {len(sentences)} combinations is known; the table lists them.']
    counts = ', '.join(f'{number} {state}' for state, number in results.counts().items() if number)
    sentences.append(f'Trainings: {counts or "none yet"}.')
    sentences += [
        f'The search of {outcome.combination.name} measures {outcome.next_size:,} training images next.'
        for outcome in results.outcomes
        if outcome.next_size is not None
    ]
    if results.set_aside:
        sentences.append(f'{len(results.set_aside)} earlier trainings with other settings were set aside.')
    return sentences


def study_tables(results: StudyResults, anchors: dict[Path, str]) -> list[PageTable]:
    """EMM by combination and ratio by combination and size; a size links to the first of its trainings."""
    factors = [factor.name for factor in results.study.factors]
    labels = [factor.label for factor in results.study.factors]
    threshold = f'{100 * results.study.threshold:.3g} %'
    emm = PageTable(
        'EMM, in training images',
        [*labels, 'EMM', '95 % interval'],
        [
            [
                *map(Cell, outcome.combination.values.values()),
                Cell(str(outcome.emm.estimate)),
                Cell(interval_text(outcome.emm)),
            ]
            for outcome in results.outcomes
            if outcome.emm is not None
        ],
        left=len(factors),
        note=f'The largest |D| with a ratio of at least {threshold}. Interval: resampled images and repeats.',
    )
    leads = {
        (tuple(outcome.combination.values.values()), result.point.size): anchors[result.point.folder]
        for outcome in results.outcomes
        for result in reversed(outcome.points)
        if result.point.folder in anchors
    }
    rows = ratio_rows(results)
    ratios = PageTable(
        'Memorization ratio by |D|',
        [*labels, '|D|', 'repeats', 'copies', 'ratio', '95 % interval', 'mean distance'],
        [
            [
                *(Cell(str(row[name])) for name in factors),
                Cell(f'{row["size"]:,}', anchor=leads.get((tuple(row[name] for name in factors), row['size']))),
                Cell(str(row['repeats'])),
                Cell(f'{row["memorized"]:,} / {row["images"]:,}'),
                Cell(percent(row['ratio']), share=row['ratio']),
                Cell(f'{100 * row["ratio_low"]:.1f} to {100 * row["ratio_high"]:.1f}'),
                Cell(f'{row["mean_distance"]:.1f}'),
            ]
            for row in rows
        ],
        left=len(factors),
        note=f'Intervals: {" and ".join(sorted({row["interval"] for row in rows}))}. Mean distance: to the nearest '
        f'training image, in grey levels.',
    )
    measured = clock_rows(results)
    shown = {name: label for name, label in CLOCKS.items() if any(name in row for row in measured)}
    clocks = PageTable(
        'Clocks of each training, in kimg',
        [*labels, '|D|', 'repeat', *shown.values()],
        [
            [
                *(Cell(str(row[name])) for name in factors),
                Cell(f'{row["size"]:,}'),
                Cell(str(row['repeat'] + 1)),
                *(Cell(clock_text(row, name)) for name in shown),
            ]
            for row in measured
        ],
        left=len(factors),
        note='The first snapshot that shows it, with its 95 % interval; a dash if none does.',
    )
    return [table for table in (emm, ratios, clocks) if table.rows]


def clock_text(row: dict[str, Any], name: str) -> str:
    """A clock with its interval; one that may lie beyond the last snapshot ends with '…'."""
    if row.get(name) is None:
        return '–'
    high = row[f'{name}_high']
    return f'{row[name]:.4g} [{row[f"{name}_low"]:.4g}, {"…" if high is None else f"{high:.4g}"}]'


def interval_text(emm: EMM) -> str:
    """The ends of the interval, or the single bound if both lie outside the measured sizes."""
    return f'{emm.low} to {emm.high}' if emm.low != emm.high else str(emm.low)


def percent(share: float) -> str:
    return f'{100 * share:.1f} %'


def page_point(outcome: Outcome, result: PointResult, anchor: str, gallery_size: int) -> PagePoint:
    """A point with everything in its folder; missing parts are omitted."""
    point, status, record = result.point, result.status, result.record
    repeat = f', repeat {point.repeat + 1}' if len(outcome.at(point.size)) > 1 else ''
    gallery = read_gallery(point.folder, gallery_size)
    note = f'{len(gallery)} of {record["num_images"]:,} images, closest to the threshold first.' if record else ''
    return PagePoint(
        anchor=anchor,
        name=f'{point.size:,} training images{repeat}',
        group=outcome.combination.name if outcome.combination.values else '',
        state=status.state,
        ratio=record['ratio'] if record else None,
        headline=headline(record) if record else '',
        facts=facts(result),
        message='' if record else status.message,
        charts=point_charts(point.folder / 'run'),
        configuration=read_json(point.folder / 'run' / OPTIONS_FILE) or {},
        commands=[shell_line(command, Resources()) for command in point.commands().values()],
        gallery=gallery,
        gallery_note=note,
    )


def headline(record: dict[str, Any]) -> str:
    return f'{percent(record["ratio"])} copies [{100 * record["ratio_low"]:.1f}, {100 * record["ratio_high"]:.1f}]'


def facts(result: PointResult) -> list[tuple[str, str]]:
    """Numbers of a point in addition to its ratio."""
    seeds, select = result.point.seeds, result.point.seeds.get('select')
    known = [
        ('Seed of training', str(seeds['train'])),
        ('Seed of selection', 'none: the first images' if select is None else str(select)),
    ]
    if result.status.seconds:
        known.append(('Time', format_time(result.status.seconds)))
    if (record := result.record) is None:
        return known
    return [
        ('Copies', f'{record["num_memorized"]:,} of {record["num_images"]:,} images'),
        ('Mean distance to nearest', f'{record["mean_distance"]:.2f} grey levels'),
        ('Best snapshot', f'{record["kimg"]:,.6g} kimg, {record["epochs"]:,.6g} epochs'),
        ('Duplicates in training set', f'{record["num_duplicates"]:,}'),
        *known,
    ]


def point_charts(run: Path) -> list[Chart]:
    """The loss by kimg and the ratio by epochs, as far as a run folder has them."""
    losses = [pair for pair in map(loss_of, read_lines(run / STATS_FILE)) if pair is not None]
    losses = losses[:: -(-len(losses) // _MOST_LOSSES) or 1]
    records = newest_records(run_records(run))
    series = [[record[key] for record in records] for key in ('epochs', 'ratio', 'ratio_low', 'ratio_high')]
    charts = loss_chart([kimg for kimg, _ in losses], [loss for _, loss in losses]), ratio_chart(*series)
    return [chart for chart in charts if chart is not None]


def newest_records(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of the newest evaluation, by epochs: one for each snapshot, all with the same seeds and sampler."""
    if not records:
        return []
    same = [r for r in records if all(r.get(key) == records[-1].get(key) for key in ('seeds', 'sampler', 'precision'))]
    return sorted({record['snapshot']: record for record in same}.values(), key=lambda record: record['epochs'])


def loss_of(fields: dict[str, Any]) -> tuple[float, float] | None:
    """kimg and mean loss of a line of stats.jsonl."""
    kimg, loss = fields.get('Progress/kimg'), fields.get('Loss/loss')
    mean = loss.get('mean') if isinstance(loss, dict) else None
    return (float(kimg), float(mean)) if isinstance(kimg, int | float) and isinstance(mean, int | float) else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; missing, truncated or other lines are omitted."""
    found = []
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    for line in lines:
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict):
            found.append(fields)
    return found


def write_study_page(results: StudyResults) -> Path:
    """Write the page of a study into its folder; returns its path."""
    path = results.root / PAGE
    write_page(path, study_page(results))
    return path


def write_page(path: Path, page: Page) -> None:
    """Write the page as one HTML file, completely or not at all."""
    html = render_page(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(html.encode())


def render_page(page: Page) -> str:
    """The page as HTML. The same page gives the same text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {'data_uri': data_uri, 'pixels_uri': pixels_uri, 'entries': entries}
    script = (TEMPLATES / 'page.js').read_text(encoding='utf-8')
    return environment.get_template('page.html.j2').render(
        page=page,
        style=(TEMPLATES / 'page.css').read_text(encoding='utf-8'),
        script=script,
        # The only script that a browser runs here: a name in a study file cannot add another.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def data_uri(data: bytes) -> str:
    """A PNG or SVG file as a data URI."""
    kind = 'image/png' if data.startswith(b'\x89PNG') else 'image/svg+xml'
    return f'data:{kind};base64,{base64.b64encode(data).decode()}'


def pixels_uri(image: np.ndarray) -> str:
    """uint8 [C, H, W], grey or RGB, as the data URI of a PNG."""
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    picture = PIL.Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    data = io.BytesIO()
    picture.save(data, format='PNG', optimize=True)
    return data_uri(data.getvalue())


def entries(configuration: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Keys of a configuration, each with a text or a nested configuration."""
    for key, value in configuration.items():
        yield str(key), value if isinstance(value, dict) and value else _setting(value)


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        more = f', … ({len(value)} in all)' if len(value) > _LONGEST_LIST else ''
        return ', '.join(map(_setting, value[:_LONGEST_LIST])) + more or 'none'
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    return 'none' if value is None or value == {} else str(value)
