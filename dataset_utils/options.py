"""Options that several command lines share."""

import functools
import re
from collections.abc import Callable
from typing import Any

import click


class Resolution(click.ParamType):
    """A width and height in pixels, written 32x32."""

    name = 'resolution'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r'([1-9]\d{0,4})x([1-9]\d{0,4})', value)
        if not match:
            self.fail(f'{value!r} is no width and height in pixels; write it like 32x32', param, ctx)
        return int(match[1]), int(match[2])


class SquareResolution(Resolution):
    """A width and height in pixels that are equal."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        width, height = super().convert(value, param, ctx)
        if width != height:
            self.fail(f'{width}x{height} is not square; write it like {width}x{width}', param, ctx)
        return width, height


SEED = click.IntRange(0, 2**32 - 1)

max_images = click.option(
    '--max-images', metavar='INT', type=click.IntRange(min=1), required=True, help='Images to take.'
)
num_classes = click.option('--num-classes', metavar='INT', type=click.IntRange(min=1), required=True, help='Classes.')
seed = click.option(
    '--seed', metavar='INT', type=SEED, help='Draw the images by this seed instead of taking the first of each class.'
)
skip_unreadable = click.option(
    '--skip-unreadable', is_flag=True, help='Leave broken images out, and list them in the manifest.'
)


def source_and_dest(command: Callable) -> Callable:
    """Add the options of every command that writes a data set from a source."""
    options = [
        click.option(
            '--source', metavar='ZIP|DIR|FILE', required=True, help='Images to read: all that dataset_tool.py reads.'
        ),
        click.option('--dest', metavar='ZIP|DIR', required=True, help='Data set to write.'),
        click.option('--overwrite', is_flag=True, help='Replace the data set at --dest.'),
    ]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)
