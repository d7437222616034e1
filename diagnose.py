"""Diagnose denoisers and training sets; parses the options and prints the results."""

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
    """Diagnose denoisers and training sets: errors by noise level, geometry, agreement between networks, and clocks.

    Each command writes its tables as JSON and CSV. Run the same command again to resume an interrupted measurement. Results do
    not depend on the number of ranks. Squared errors and distances refer to images in [-1, 1].

    \b
    # Noise levels below which the 1,797 digits are separate
    python diagnose.py geometry --data=digits --plot
    """


@main.command()
@report_errors
@with_options(LevelsOptions)
def levels(options: LevelsOptions) -> None:
    """Measure the denoising error, and the distances to the optimum and to the Gaussian, by noise level.

    Noisy images come from four sources: training images, held-out images and generated images, each with added noise,
    and states on the denoiser's own sampling trajectories. All denoisers get the same noise.

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
    """Find the window at each noise level with which a closed form is most similar to a network.

    At each noise level of the network's own sampling trajectories, the window with the highest cosine between the
    outputs of the closed form and the network (after subtracting their means) is found for each image; the result is the
    median over images. Writes windows.json, which
    closed forms accept as a parameter: local:window=windows.json.

    \b
    python diagnose.py calibrate --network=network-snapshot-000500.safetensors --data=train.zip
    """
    measure(options)


@main.command()
@report_errors
@with_options(GeometryOptions)
def geometry(options: GeometryOptions) -> None:
    """Find the noise levels at which training images separate, and at which memorization is decided. This needs no network.

    \b
    # The first 1,000 images of a set, compared with held-out images
    python diagnose.py geometry --data=datasets/cifar10-1000.zip --test=datasets/cifar10-test.zip --plot
    """
    measure(options)


@main.command()
@report_errors
@with_options(AgreementOptions)
def agreement(options: AgreementOptions) -> None:
    """Compare the images that two networks generate from the same seeds, with the nearest training images as a baseline.

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
    """Find when training runs generalize and when they start to memorize, and how these times scale over several runs.

    The time at which the memorization ratio exceeds 0 needs records written by mem_ratio.py --expdir.

    \b
    python diagnose.py clocks --expdir=runs/00000-digits --test=datasets/digits-test.zip --plot
    """
    measure(options)


if __name__ == '__main__':
    main()
