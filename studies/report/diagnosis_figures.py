"""Runs the measurements of diagnose.py, and draws their figures."""

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from evaluation.diagnosis.clocks_table import summary_row
from evaluation.diagnosis.result_files import Row
from evaluation.diagnosis.run import (
    Results,
    network_files,
    run_agreement,
    run_calibrate,
    run_clocks,
    run_geometry,
    run_levels,
)
from evaluation.diagnosis_options import (
    AgreementOptions,
    CalibrateOptions,
    ClocksOptions,
    GeometryOptions,
    LevelsOptions,
)
from studies.report.diagnosis_plots import (
    NAMES,
    agreement_figure,
    clock_comparison,
    clocks_figure,
    collapse_figure,
    distance_figure,
    error_figure,
    explained_figure,
    geometry_figure,
    windows_figure,
)
from studies.report.drawing import save_figure
from torch_utils import distributed


def diagnose(options: Any) -> None:
    """Run the measurement that the options describe, and draw its figures if the options request them.

    If the options request only a download, download the networks and print the paths of their files.
    """
    run, figures = MEASUREMENTS[type(options)]
    device = distributed.choose_device(options.output.device)
    with distributed.process_group(device):
        if isinstance(options, LevelsOptions | AgreementOptions) and options.download.download_only:
            for path in network_files(options):
                distributed.print0(str(path))
            return
        records, path = run(options, device)
        if options.output.plot and distributed.is_main():
            for ending, figure in figures(records).items():
                for file_format in ('png', 'svg'):
                    save_figure(path.with_name(f'{path.name}{ending}.{file_format}'), figure)
                print(f'Figure: {path}{ending}.png')
        distributed.barrier()


def levels_figures(records: list[Row]) -> dict[str, Figure]:
    """The figures of the last record. Each key is the ending of a figure's file name."""
    rows, name = records[-1]['rows'], records[-1]['settings']['denoiser']
    figures = {'_distances': distance_figure(rows, f'Distance to the closed forms: {name}')}
    if any('error' in row for row in rows):
        figures[''] = error_figure(rows, f'Denoising error: {name}')
    compared = [column.partition('_')[2] for column in rows[0] if column.startswith('explained_')]
    compared = [name for name in compared if not name.endswith(('_low', '_high'))]
    shown = 'trajectory' if any(row['source'] == 'trajectory' for row in rows) else rows[0]['source']
    if compared:
        own = [row for row in rows if row['source'] == shown]
        figures['_explained'] = explained_figure(
            own, compared, f'Share explained by closed forms ({NAMES[shown]}): {name}'
        )
    return figures


def calibration_figures(records: list[Row]) -> dict[str, Figure]:
    name, network = (records[0]['settings'][key] for key in ('closed_form', 'name'))
    return {'': windows_figure(records[0]['rows'], f'Windows at which {name} best resembles {network}')}


def geometry_figures(records: list[Row]) -> dict[str, Figure]:
    return {'': geometry_figure(records[0]['rows'], 'Geometry of the training set')}


def agreement_figures(records: list[Row]) -> dict[str, Figure]:
    title = 'Agreement of A and B'
    return {'': agreement_figure(records[0]['rows'], records[0]['threshold'], title)}


def clocks_figures(records: list[Row]) -> dict[str, Figure]:
    """A figure for each run; if there are several runs, also two figures that compare the runs."""
    endings = [''] if len(records) == 1 else [f'_{place}' for place in range(len(records))]
    figures = {
        ending: clocks_figure(record, f'Clocks of {record["run"]}, |D| = {record["dataset_size"]:,}')
        for ending, record in zip(endings, records, strict=True)
    }
    if len(records) > 1:
        rows = [{**summary_row(record), 'size': record['dataset_size']} for record in records]
        figures['_comparison'] = clock_comparison(rows, 'Clocks by training-set size')
        figures['_collapse'] = collapse_figure(records, 'Gap between held-out and training error')
    return figures


# For each options class: a function that measures, and a function that returns a dict with the figures of the results.
# The keys of this dict are the endings of the figures' file names.
MEASUREMENTS: dict[type, tuple[Callable[..., Results], Callable[[list[Row]], dict[str, Figure]]]] = {
    LevelsOptions: (run_levels, levels_figures),
    CalibrateOptions: (run_calibrate, calibration_figures),
    GeometryOptions: (run_geometry, geometry_figures),
    AgreementOptions: (run_agreement, agreement_figures),
    ClocksOptions: (run_clocks, clocks_figures),
}
