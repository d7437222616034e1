"""The training runs on a study's page: numbers, figure, commands, configuration and gallery of each run."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dnnlib.typed import read_json
from dnnlib.util import counted, format_time, kimg_text
from evaluation.printing import FAR_TEXT, distance_text, far_share, is_far
from evaluation.records import best_record
from studies.commands import Resources, shell_line
from studies.points import FAILED
from studies.report.copied_facts import copied_parts
from studies.report.drawing import figure_bytes
from studies.report.finding import percent
from studies.report.gallery import read_gallery
from studies.report.page import PageFigure, PagePoint
from studies.report.ratio_plots import RunHistory, run_figure
from studies.report.run_files import point_records
from studies.report.run_history import run_history
from studies.results import Outcome, PointResult
from training.config import OPTIONS_FILE

# Limits that keep the page fast: the maximum number of images on the page, and the maximum and minimum in a gallery.
MOST_IMAGES, MOST_OF_POINT, FEWEST_OF_POINT = 1200, 36, 4
MOST_PIXEL_BYTES = 6_000_000


def images_of_point(results: Sequence[PointResult]) -> int:
    """The number of generated images in each point's gallery, limited so that the page opens quickly."""
    done = max(1, sum(result.record is not None for result in results))
    # A gallery item has three images, and base64 encodes three bytes as four. Each item therefore takes 3 · 4/3 = 4
    # times the bytes of one image.
    pixels = max((4 * image_bytes(result) for result in results), default=0)
    fitting = min(MOST_OF_POINT, MOST_IMAGES // done, MOST_PIXEL_BYTES // max(1, pixels * done))
    return max(FEWEST_OF_POINT, fitting)


def image_bytes(result: PointResult) -> int:
    """The uncompressed size of a training image in bytes; 0 if the run folder has no resolved configuration yet."""
    options = read_json(result.point.folder / 'run' / OPTIONS_FILE, dict[str, Any])
    return options['dataset']['channels'] * options['dataset']['resolution'] ** 2 if options else 0


def page_point(outcome: Outcome, result: PointResult, anchor: str, gallery_size: int) -> PagePoint:
    """Collect everything that the page shows about a point; parts that its folder does not contain are omitted."""
    point, status, record = result.point, result.status, result.record
    repeat = f', repeat {point.repeat + 1}' if len(outcome.at(point.size)) > 1 else ''
    who, copied = copied_parts(point.folder, record['num_duplicates']) if record else ([], None)
    gallery = read_gallery(point.folder, gallery_size)
    note = f'{len(gallery)} of {record["num_images"]:,} images, closest to the threshold first.' if record else ''
    return PagePoint(
        anchor=anchor,
        name=f'{point.size:,} training images{repeat}',
        group=outcome.combination.name if outcome.combination.values else '',
        state=status.state,
        ratio=record['ratio'] if record else None,
        headline=headline(record) if record else '',
        facts=[*who, *facts(result)],
        message='' if record and status.state != FAILED else status.message,
        figure=point_figure(point.folder),
        copied=copied,
        configuration=read_json(point.folder / 'run' / OPTIONS_FILE, dict[str, Any]) or {},
        commands=[shell_line(command, Resources()) for command in point.commands().values()],
        gallery=gallery,
        gallery_note=note,
    )


def headline(record: dict[str, Any]) -> str:
    share = far_share(record)
    far = f', {FAR_TEXT if share is None else f"{100 * share:.0f} % {FAR_TEXT}"}' if is_far(record) else ''
    return f'{percent(record["ratio"])} copies [{100 * record["ratio_low"]:.1f}, {100 * record["ratio_high"]:.1f}]{far}'


def facts(result: PointResult) -> list[tuple[str, str]]:
    """A point's numbers other than its ratio."""
    seeds, select = result.point.seeds, result.point.seeds.get('select')
    trained = result.point.combination.settings.denoiser is None
    known = [
        *[('Training seed', str(seeds['train']))] * trained,
        ('Selection seed', 'none: the first images' if select is None else str(select)),
    ]
    if result.status.seconds:
        known.append(('Time', format_time(result.status.seconds)))
    if (record := result.record) is None:
        return known
    return [
        ('Copies', f'{record["num_memorized"]:,} of {record["num_images"]:,} images'),
        ('Mean distance to nearest training image', f'{distance_text(record)} grey levels'),
        *[
            ('Best snapshot', f'{kimg_text(record["kimg"])}, {counted(record["epochs"], "epoch", digits=6)}')
            for _ in range(trained)
        ],
        ('Duplicates in training set', f'{record["num_duplicates"]:,}'),
        *known,
    ]


def point_figure(folder: Path) -> PageFigure | None:
    """A point's loss and ratio by kimg; None if it has neither."""
    records = point_records(folder)
    data = drawn(run_history(folder / 'run', records))
    if data is None:
        return None
    top = f'; highest ratio {percent(best_record(records)["ratio"])}' if records else ''
    alt = f'Loss and memorized images by thousands of images seen{top}' if top else 'Loss'
    return PageFigure('Loss, and memorized images for each snapshot', alt, data)


@functools.lru_cache(maxsize=4096)
def drawn(history: RunHistory) -> bytes | None:
    """The figure of a run. It is cached, so that the page of a running study redraws it only when it changes."""
    figure = run_figure(history, '')
    return None if figure is None else figure_bytes(figure, 'svg')
