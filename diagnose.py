"""Measure denoisers at noise levels, training sets, agreement and clocks: parses the options, and reports."""

import click

from cli.command import RankedGroup, with_options
from dnnlib.util import report_errors
from evaluation.diagnosis_options import (
    AgreementOptions,
    CalibrateOptions,
    ClocksOptions,
    GeometryOptions,
    LevelsOptions,
)


def measure(options: object) -> None:
    from studies.report.diagnosis_figures import diagnose

    diagnose(options)


@click.group(cls=RankedGroup)
def main() -> None:
    """Measure denoisers at noise levels, the geometry of training sets, agreement, and the clocks of trainings.

    Each command writes its tables as JSON and CSV. The same command resumes an interrupted measurement, and gives the
    same results on any number of ranks. Squared errors and distances refer to images in [-1, 1].

    \b
    # Noise levels below which 1,797 digits are separate
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

    \b
    # Which closed form explains a network best, by noise level
    python diagnose.py levels --network=network-snapshot-000500.safetensors --data=train.zip --from=train,trajectory \\
        --denoiser=local --denoiser=patch --denoiser=pca-locality
    """
    measure(options)


@main.command()
@report_errors
@with_options(CalibrateOptions)
def calibrate(options: CalibrateOptions) -> None:
    """The window at each noise level at which a closed form resembles a network most.

    On states of the network's own trajectories: the median over images of the window with the highest cosine of
    mean-removed outputs. Writes windows.json, which closed forms accept as a parameter: local:window=windows.json.

    \b
    python diagnose.py calibrate --network=network-snapshot-000500.safetensors --data=train.zip
    """
    measure(options)


@main.command()
@report_errors
@with_options(GeometryOptions)
def geometry(options: GeometryOptions) -> None:
    """Noise levels at which a training set stands apart, and at which its memorization is decided. No network.

    \b
    # The first 1,000 images of a set, next to held-out images
    python diagnose.py geometry --data=datasets/cifar10-1000.zip --test=datasets/cifar10-test.zip --plot
    """
    measure(options)


@main.command()
@report_errors
@with_options(AgreementOptions)
def agreement(options: AgreementOptions) -> None:
    """Similarity of the images that two networks make from the same seeds, next to the nearest training images.

    \b
    # The last snapshots of two runs on disjoint halves of a set
    python diagnose.py agreement --expdir=runs/00000-half-a --expdir=runs/00001-half-b --plot

    \b
    # Two snapshots, with the training set of each
    python diagnose.py agreement --network=a/network-snapshot-000500.safetensors --data=half-a.zip \\
        --network=b/network-snapshot-000500.safetensors --data=half-b.zip --plot

    \b
    # A network and the optimum of its training set
    python diagnose.py agreement --network=network-snapshot-000500.safetensors --denoiser=optimal --data=train.zip
    """
    measure(options)


@main.command()
@report_errors
@with_options(ClocksOptions)
def clocks(options: ClocksOptions) -> None:
    """When trainings have generalized and when they start to memorize, and how that scales over several runs.

    The ratio's clock needs records of mem_ratio.py --expdir.

    \b
    python diagnose.py clocks --expdir=runs/00000-digits --test=datasets/digits-test.zip --plot
    """
    measure(options)


if __name__ == '__main__':
    main()
