"""Draw the figure of scripts/quality.md: quality and memorization during the training of several runs.

python -m benchmarks.quality_figure docs/figures/quality.png run50 run800
"""

from pathlib import Path

import click

from dnnlib.util import UserError, report_errors
from studies.report.drawing import save_figure
from studies.report.quality_plots import measured_records, quality_by


@click.command()
@click.argument('path', metavar='PNG', type=click.Path(path_type=Path))
@click.argument('runs', metavar='RUN...', nargs=-1, required=True, type=click.Path(path_type=Path))
@report_errors
def main(path: Path, runs: tuple[Path, ...]) -> None:
    """Plot memorization ratios above Fréchet distances, with one curve for each run."""
    curves = []
    for run in runs:
        records = measured_records(run)
        if not records:
            raise UserError(f'{run} has no record with a Fréchet distance; evaluate it with --metrics-for=all')
        label = f'{records[0]["dataset_size"]:,} training images'
        curves.append((label, [(record['kimg'], record) for record in records]))
    _, caption, figure = quality_by('Quality and memorization', '', curves, 'thousands of training images seen')
    save_figure(path, figure)
    print(caption)


if __name__ == '__main__':
    main()
