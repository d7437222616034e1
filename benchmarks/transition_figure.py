"""Draw the README's figures of the transition from copying to generating, from studies of training-set sizes.

python -m benchmarks.transition_figure studies-out/photographs/transition docs/figures/photographs.png --sizes=10,50,200
python -m benchmarks.transition_figure demo-out docs/figures/demo.png
"""

from pathlib import Path

import click
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dataset_utils import open_source
from dnnlib.util import UserError, atomic_file, report_errors
from evaluation.best_images import BEST_NAME, read_best
from evaluation.memorization import memorized
from evaluation.records import best_record, read_records
from studies.folder import open_results
from studies.report.drawing import ratio_axis

COLUMNS = 8
COPY_COLOR = '#c81e1e'
WIDTH, BLOCK, CURVE = 7.6, 2.3, 2.9  # inches: width of the figure, height of the images of one size, height of the plot


@click.command()
@click.argument('study', metavar='DIR', type=click.Path(path_type=Path))
@click.argument('dest', metavar='PNG', type=click.Path(path_type=Path))
@click.option('--sizes', default='20,50,400', show_default=True, help='Training-set sizes whose images are shown.')
@report_errors
def main(study: Path, dest: Path, sizes: str) -> None:
    """For each size, draw images of the best snapshot above their nearest training images; below all sizes, plot the
    memorization ratio against size."""
    points = [study / 'points' / 'all' / f'{int(size):06d}-r0' for size in sizes.split(',')]
    total = BLOCK * len(points) + CURVE
    figure = Figure(figsize=(WIDTH, total))
    for place, point in enumerate(points):
        draw_block(figure, point, 1 - place * BLOCK / total, BLOCK / total)
    draw_curve(figure, study, CURVE / total)
    with atomic_file(dest) as file:
        figure.savefig(file, format='png', dpi=100)


def draw_block(figure: Figure, point: Path, top: float, height: float) -> None:
    """Draw the images of one training run into a band of the figure.

    top, height: top and height of the band, as fractions of the figure's height.
    """
    record = best_record(read_records(point / 'run' / 'mem_traj.jsonl'))
    best = read_best(point / 'run' / BEST_NAME, record)
    if best is None:
        raise UserError(f'{point} lacks the images of its best snapshot; run the study first')
    training = open_source(str(point / 'data.zip'))
    copies = memorized(best.squared_distances[:, 0], best.squared_distances[:, 1])
    ratio = f'{100 * record["ratio"]:.1f} % of {record["num_images"]} generated images are copies'
    figure.text(0.02, top - 0.12 * height, f'{len(training)} training images: {ratio}', fontsize=13, weight='bold')
    rows = torch.linspace(0, len(copies) - 1, COLUMNS).round().long().tolist()
    for column, row in enumerate(rows):
        pictures = best.images[row].permute(1, 2, 0).numpy(), training.read(int(best.indices[row, 0]))
        for line, (label, picture) in enumerate(zip(('generated', 'nearest'), pictures, strict=True)):
            bottom = top - height * (0.57 + 0.41 * line)
            axes = figure.add_axes((0.13 + column * 0.108, bottom, 0.1, 0.38 * height))
            axes.imshow(picture, cmap='gray', vmin=0, vmax=255)
            axes.set_axis_off()
            if copies[row]:
                frame = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=COPY_COLOR, linewidth=5)
                axes.add_patch(frame)
            if column == 0:
                figure.text(0.015, bottom + 0.19 * height, label, fontsize=11, va='center')


def draw_curve(figure: Figure, study: Path, height: float) -> None:
    """Plot the ratio against size in the lowest part of the figure.

    height: height of this part, as a fraction of the figure's height.
    """
    (outcome,) = open_results(study).outcomes
    axes = figure.add_axes((0.13, 0.22 * height, 0.84, 0.68 * height))
    sizes = [ratios.size for ratios in outcome.ratios]
    axes.fill_between(
        sizes,
        [100 * ratios.interval.low for ratios in outcome.ratios],
        [100 * ratios.interval.high for ratios in outcome.ratios],
        color=COPY_COLOR,
        alpha=0.2,
        linewidth=0,
    )
    axes.plot(sizes, [100 * ratios.mean for ratios in outcome.ratios], color=COPY_COLOR, marker='o')
    axes.set_xscale('log')
    axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    axes.set_xticks([], minor=True)
    ratio_axis(axes)
    axes.grid(alpha=0.25)
    axes.set_xlabel('training images (band: 95 % interval)', fontsize=13)
    axes.set_ylabel('copies (red), %', fontsize=13)
    axes.tick_params(labelsize=12)
    axes.spines[['top', 'right']].set_visible(False)


if __name__ == '__main__':
    main()
