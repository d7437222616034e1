"""Measure denoisers at noise levels, training sets, agreement and clocks: parses the options, and reports."""

from collections.abc import Callable
from typing import TypeVar

import click
import torch
from matplotlib.figure import Figure

from cli.command import with_options
from dnnlib.util import report_errors
from evaluation.diagnosis.run import Results, run_agreement, run_clocks, run_geometry, run_levels
from evaluation.diagnosis.tables import Row
from evaluation.diagnosis_options import AgreementOptions, ClocksOptions, GeometryOptions, LevelsOptions
from studies.report.diagnosis_plots import (
    agreement_figure,
    clocks_figure,
    distance_figure,
    error_figure,
    geometry_figure,
)
from studies.report.plots import save_figure
from torch_utils import distributed

Options = TypeVar('Options', LevelsOptions, GeometryOptions, AgreementOptions, ClocksOptions)


@click.group()
def main() -> None:
    """Measure denoisers at noise levels, the geometry of training sets, agreement, and the clocks of trainings.

    Each command writes its tables as JSON and CSV. The same command resumes an interrupted measurement, and gives the
    same results on any number of ranks. Squared errors and distances are those of images in [-1, 1].

    \b
    # Noise levels at which 1,797 digits stand apart
    python diagnose.py geometry --data=digits --plot
    """


@main.command()
@report_errors
@with_options(LevelsOptions)
def levels(options: LevelsOptions) -> None:
    """Denoising error, and distance to the optimum and the Gaussian, by noise level.

    Noisy images are noised training images, noised held-out images, states of the denoiser's own sampling trajectory,
    and images that it generated, noised again. All denoisers see the same noise.

    \b
    # Every snapshot of a run at the 18 noise levels of the sampler
    python diagnose.py levels --expdir=runs/00000-digits --test=datasets/digits-test.zip --plot

    \b
    # The held-out error of the Gaussian at three noise levels
    python diagnose.py levels --denoiser=gaussian --data=train.zip --test=test.zip --levels=0.1,1.706,20 --from=test
    """
    diagnose(options, run_levels, levels_figures)


@main.command()
@report_errors
@with_options(GeometryOptions)
def geometry(options: GeometryOptions) -> None:
    """Noise levels at which a training set stands apart, and at which its memorization is decided. No network.

    \b
    # The first 1,000 images of a set, next to held-out images
    python diagnose.py geometry --data=datasets/cifar10-1000.zip --test=datasets/cifar10-test.zip --plot
    """
    diagnose(options, run_geometry, geometry_figures)


@main.command()
@report_errors
@with_options(AgreementOptions)
def agreement(options: AgreementOptions) -> None:
    """Similarity of the images that two networks make from the same seeds, next to the nearest training images.

    \b
    # Two networks trained on disjoint halves of a set
    python diagnose.py agreement --network=a/network-snapshot-000500.safetensors --data=half-a.zip \\
        --network=b/network-snapshot-000500.safetensors --data=half-b.zip --plot

    \b
    # A network and the optimum of its training set
    python diagnose.py agreement --network=network-snapshot-000500.safetensors --denoiser=optimal --data=train.zip
    """
    diagnose(options, run_agreement, agreement_figures)


@main.command()
@report_errors
@with_options(ClocksOptions)
def clocks(options: ClocksOptions) -> None:
    """When trainings have generalized and when they start to memorize, and how that scales over several runs.

    The ratio's clock needs records of mem_ratio.py --expdir.

    \b
    python diagnose.py clocks --expdir=runs/00000-digits --test=datasets/digits-test.zip --plot
    """
    diagnose(options, run_clocks, clocks_figures)


def diagnose(
    options: Options,
    run: Callable[[Options, torch.device], Results],
    figures: Callable[[list[Row]], dict[str, Figure]],
) -> None:
    """Measure, and draw the figures if they are asked for."""
    device = distributed.choose_device(options.output.device)
    with distributed.process_group(device):
        records, path = run(options, device)
        if options.output.plot and distributed.is_main():
            for ending, figure in figures(records).items():
                for file_format in ('png', 'svg'):
                    save_figure(path.with_name(f'{path.name}{ending}.{file_format}'), figure)
                print(f'Figure: {path}{ending}.png')
        distributed.barrier()


def levels_figures(records: list[Row]) -> dict[str, Figure]:
    """The figures of the last denoiser, by the end of their names."""
    rows, name = records[-1]['rows'], records[-1]['settings']['denoiser']
    figures = {'_distances': distance_figure(rows, f'Distance to the closed forms: {name}')}
    if any('error' in row for row in rows):
        figures[''] = error_figure(rows, f'Denoising error: {name}')
    return figures


def geometry_figures(records: list[Row]) -> dict[str, Figure]:
    return {'': geometry_figure(records[0]['rows'], 'Geometry of the training set')}


def agreement_figures(records: list[Row]) -> dict[str, Figure]:
    names = [generator['name'] for generator in records[0]['settings']['generators']]
    title = f'Agreement of A, {names[0]}, and B, {names[1]}'
    return {'': agreement_figure(records[0]['rows'], records[0]['threshold'], title)}


def clocks_figures(records: list[Row]) -> dict[str, Figure]:
    """A figure for each run; with several, named after their places."""
    endings = [''] if len(records) == 1 else [f'_{place}' for place in range(len(records))]
    return {
        ending: clocks_figure(record, f'Clocks of {record["run"]}, |D| = {record["dataset_size"]:,}')
        for ending, record in zip(endings, records, strict=True)
    }


if __name__ == '__main__':
    main()
