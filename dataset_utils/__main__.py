"""The command line `python -m dataset_utils`: a sub-command per factor, each a rule of `rules`."""

from collections.abc import Callable

import click

from dataset_utils import rules
from dataset_utils.archive import Destination
from dataset_utils.building import write_dataset
from dataset_utils.sources import open_source
from dnnlib.util import report_errors

SEED = click.IntRange(0, 2**32 - 1)


@click.group()
def main() -> None:
    """Make the training set that a study of memorization needs: one factor changed, all else as it was.

    \b
    # The paper's basic set of 1,000 images of CIFAR-10, 100 of each class
    python -m dataset_utils size --source=datasets/cifar10/cifar-10-python.tar.gz \\
        --dest=datasets/cifar10/cifar10-1000.zip --max-images=1000
    """


def source_and_dest(command: Callable) -> Callable:
    """Add the options that every sub-command which writes a data set has."""
    options = [
        click.option('--source', metavar='ZIP|DIR|FILE', required=True, help="Images to select from, or 'digits'."),
        click.option('--dest', metavar='ZIP|DIR', required=True, help='Data set to write.'),
        click.option('--overwrite', is_flag=True, help='Replace the data set at --dest.'),
    ]
    for option in reversed(options):
        command = option(command)
    return command


max_images = click.option(
    '--max-images', metavar='INT', type=click.IntRange(min=1), required=True, help='Images to take.'
)
seed = click.option('--seed', metavar='INT', type=SEED, help='Draw the images instead of taking the first.')


@main.command()
@source_and_dest
@max_images
@seed
@report_errors
def size(source: str, dest: str, overwrite: bool, max_images: int, seed: int | None) -> None:
    """Take the same number of images of each class, class after class.

    \b
    # The paper's rule: the first 200 of each of CIFAR-10's ten classes
    python -m dataset_utils size --source=cifar-10-python.tar.gz --dest=cifar10-2000.zip --max-images=2000
    \b
    # Drawn at random; for one seed, smaller sets are contained in larger ones
    python -m dataset_utils size --source=cifar-10-python.tar.gz --dest=drawn.zip --max-images=2000 --seed=1
    """
    destination = Destination(dest, overwrite, [source])
    write_dataset(rules.plan_size(open_source(source, '--source'), max_images=max_images, seed=seed), destination)


if __name__ == '__main__':
    main(prog_name='python -m dataset_utils')
