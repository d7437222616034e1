"""Entry script: diagnose denoisers and training sets."""

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
    """Diagnose denoisers and training sets.

    Each command writes its tables as JSON and CSV. Run the same command again to resume an interrupted measurement. Results do
    not depend on the number of ranks. Squared errors and distances are for pixel values in [-1, 1].

    \b
    # The noise levels at which the 1,797 digits can be distinguished
    python diagnose.py geometry --data=digits --plot
    """


@main.command()
@report_errors
@with_options(LevelsOptions)
def levels(options: LevelsOptions) -> None:
    """At each noise level, measure the error of denoisers and their distances to the optimum and to the Gaussian denoiser.

    The inputs are training, held-out and generated images with added noise, and also states on the denoiser's own
    sampling trajectories. The same noise is added for all denoisers.

    \b
    # Every snapshot of a run at the 18 noise levels of the sampler
    python diagnose.py levels --expdir=runs/00000-digits --test=datasets/digits-test.zip --plot

    \b
    # The error of the Gaussian denoiser on held-out images at three noise levels
    python diagnose.py levels --denoiser=gaussian --data=train.zip --test=test.zip --levels=0.1,1.706,20 --from=test

    \b
    # Which closed-form denoiser explains a network best at each noise level
    python diagnose.py levels --network=network-snapshot-000500.safetensors --data=train.zip --from=train,trajectory \\
        --denoiser=local --denoiser=patch --denoiser=pca-locality
    """
    measure(options)


@main.command()
@report_errors
@with_options(CalibrateOptions)
def calibrate(options: CalibrateOptions) -> None:
    """Find the window size for which a closed-form denoiser is most similar to a network, at each noise level.

    For each state on the network's own sampling trajectories, the best window is the one with the highest cosine between
    the outputs of the closed-form denoiser and the network (after subtracting their means). The median window at each
    noise level is written to windows.json, which closed-form denoisers accept as a parameter: local:window=windows.json.

    \b
    python diagnose.py calibrate --network=network-snapshot-000500.safetensors --data=train.zip
    """
    measure(options)


@main.command()
@report_errors
@with_options(GeometryOptions)
def geometry(options: GeometryOptions) -> None:
    """Find the noise levels at which memorization is decided; this requires only the training images, not a network.

    \b
    # The geometry of 1,000 training images, compared with held-out images
    python diagnose.py geometry --data=datasets/cifar10-1000.zip --test=datasets/cifar10-test.zip --plot
    """
    measure(options)


@main.command()
@report_errors
@with_options(AgreementOptions)
def agreement(options: AgreementOptions) -> None:
    """Compare the images that two networks generate from the same seeds; the nearest training images are the baseline.

    \b
    # The last snapshots of two runs that were trained on disjoint halves of a set
    python diagnose.py agreement --expdir=runs/00000-half-a --expdir=runs/00001-half-b --plot

    \b
    # Two snapshots, each with its training set
    python diagnose.py agreement --network=a/network-snapshot-000500.safetensors --data=half-a.zip \\
        --network=b/network-snapshot-000500.safetensors --data=half-b.zip --plot

    \b
    # A network and the optimum for its training set
    python diagnose.py agreement --network=network-snapshot-000500.safetensors --denoiser=optimal --data=train.zip
    """
    measure(options)


@main.command()
@report_errors
@with_options(ClocksOptions)
def clocks(options: ClocksOptions) -> None:
    """Find when training runs generalize and start to memorize, and how these times scale with |D| across runs.

    The time at which the memorization ratio exceeds 0 is found only if mem_ratio.py --expdir has evaluated the run.

    \b
    python diagnose.py clocks --expdir=runs/00000-digits --test=datasets/digits-test.zip --plot
    """
    measure(options)


if __name__ == '__main__':
    main()
