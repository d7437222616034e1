"""Options that several commands for data sets share."""

import functools
from collections.abc import Callable

import click

from cli.command import parsed
from dnnlib.options import resolution, square_resolution

RESOLUTION = parsed(resolution)
SQUARE_RESOLUTION = parsed(square_resolution)
SEED = click.IntRange(0, 2**32 - 1)

# fmt: off
max_images = click.option('--max-images', metavar='INT', type=click.IntRange(min=1), required=True, help='Images to take.')
num_classes = click.option('--num-classes', metavar='INT', type=click.IntRange(min=1), required=True, help='Classes.')
seed = click.option('--seed', metavar='INT', type=SEED, help='Draw the images by this seed instead of taking the first of each class.')
skip_unreadable = click.option('--skip-unreadable', is_flag=True, help='Leave broken images out, and list them in the manifest.')
source = click.option('--source', metavar='ZIP|DIR|FILE', required=True, help='Images to read: everything that dataset_tool.py reads.')
dest = click.option('--dest', metavar='ZIP|DIR', required=True, help='Data set to write.')
overwrite = click.option('--overwrite', is_flag=True, help='Replace the data set at --dest.')
# fmt: on


def source_and_dest(command: Callable) -> Callable:
    """Add the options of every command that writes a data set from a source."""
    return functools.reduce(lambda wrapped, option: option(wrapped), (overwrite, dest, source), command)
