"""The command `python -m dataset_utils`, with sub-commands `split`, `info`, and one for each selection in `rules`."""

import inspect
import textwrap
from pathlib import Path
from typing import Any

import click

from cli.dataset_options import option
from dataset_utils import inspection, verification
from dataset_utils.archive import Destination
from dataset_utils.building import write_datasets
from dataset_utils.downloads import open_downloaded
from dataset_utils.rules import EXAMPLES, RULES, plan_held_out, plan_split
from dataset_utils.sources import Reading, open_source
from dnnlib.plugins import load_plugins
from dnnlib.util import ArgumentError, UserError, report_errors

WIDTH = 110  # maximum width of the lines of an example in a help text, excluding the final backslash


class Selections(click.Group):
    """A group that has a sub-command for each registered selection, in addition to the group's own commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        load_plugins()
        return sorted([*super().list_commands(ctx), *EXAMPLES])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        load_plugins()
        return selection_command(name) if name in EXAMPLES else super().get_command(ctx, name)


@click.group(cls=Selections)
def main() -> None:
    """Make training sets that differ in one factor, for studies of memorization.

    The sub-commands read the same sources as dataset_tool.py, and write a ZIP archive or a folder that contains a manifest.
    `info --verify` uses the manifest to check a set against its source. The same command always writes the same bytes.
    Without --seed, the first images are taken; with --seed, images are drawn at random. In both cases, larger sets contain
    the smaller ones.

    \b
    # The paper's basic set: 1,000 images of CIFAR-10, 100 of each class
    python -m dataset_utils size --source=datasets/cifar10/cifar-10-python.tar.gz \\
        --dest=datasets/cifar10/cifar10-1000.zip --max-images=1000

    \b
    # Describe this set, and check it against its manifest and its source
    python -m dataset_utils info datasets/cifar10/cifar10-1000.zip \\
        --verify=datasets/cifar10/cifar-10-python.tar.gz
    """


def selection_command(name: str) -> click.Command:
    """Return the sub-command for a selection; its options are the rule's arguments."""
    plan = RULES[name]
    arguments = inspect.signature(plan).parameters
    sources = [key for key, argument in arguments.items() if argument.kind is argument.POSITIONAL_OR_KEYWORD]
    first = [option('source'), option('dest'), option('overwrite')]

    @report_errors
    def run(dest: str, overwrite: bool, **choices: Any) -> None:
        paths = {key: choices.pop(key) for key in sources}
        destination = Destination(dest, overwrite, list(paths.values()))
        opened = [open_downloaded(path, key) for key, path in paths.items()]
        write_datasets((plan(*opened, **choices), destination))

    options = [option(key, argument.default) for key, argument in arguments.items() if key != 'source']
    text = inspect.getdoc(plan) or ''
    for key in arguments:
        text = text.replace(f'`{key}`', f'--{key.replace("_", "-")}')
    text = '\n\n'.join([text, *(_example(name, example) for example in EXAMPLES[name])])
    return click.Command(name, callback=run, params=[*first, *options], help=text)


def _example(name: str, example: str) -> str:
    purpose, _, options = example.partition(': --')
    command = f'python -m dataset_utils {name} --{options}'
    lines = textwrap.wrap(command, WIDTH, subsequent_indent='    ', break_on_hyphens=False)
    return f'\b\n# {purpose}\n' + ' \\\n'.join(lines)


@main.command(
    params=[
        *(option(name) for name in ('source', 'dest', 'overwrite')),
        *(option(name, None) for name in ('max_images', 'held_out', 'seed')),
    ]
)
@report_errors
def split(source: str, dest: str, overwrite: bool, **choices: Any) -> None:
    """Take two disjoint sets: two of the same size, or a training set and a held-out set.

    --dest=half.zip writes half-a.zip and half-b.zip. With --max-images alone, each set gets this many images, with the same
    number from each class; half-a.zip gets the images that `size` takes. With --held-out, half-b.zip gets this many held-out
    images, with the same share of each class; half-a.zip gets all other images, or --max-images of them.

    \b
    # Two sets of 1,000 images of CIFAR-10
    python -m dataset_utils split --source=cifar-10-python.tar.gz --dest=half.zip --max-images=1000

    \b
    # Two sets of 500 digits, drawn at random
    python -m dataset_utils split --source=digits --dest=digits-half.zip --max-images=500 --seed=3

    \b
    # 100 held-out images, and a training set of all other images
    python -m dataset_utils split --source=photos.zip --dest=photos-set.zip --held-out=100
    """
    if choices['max_images'] is None and choices['held_out'] is None:
        raise ArgumentError('give `max_images` (the size of each set) or `held_out` (the size of the second set)')
    plan = plan_held_out if choices['held_out'] is not None else plan_split
    if plan is plan_split:
        del choices['held_out']
    path = Path(dest)
    if path.name.lower() in ('', '..', '.zip'):
        raise UserError(f'`dest`={dest} has no file name, but both sets are named after it; add one, such as half.zip')
    suffix = path.suffix if path.suffix.lower() == '.zip' else ''
    names = {half: str(path.with_name(f'{path.name.removesuffix(suffix)}-{half}{suffix}')) for half in 'ab'}
    destinations = {half: Destination(name, overwrite, [source]) for half, name in names.items()}
    opened = open_downloaded(source, 'source')
    write_datasets(*((plan(opened, half=half, **choices), destinations[half]) for half in 'ab'))


@main.command()
@click.argument('path', metavar='PATH')
@click.option('--near', metavar='FLOAT', type=click.FloatRange(min=0), default=inspection.NEAR, show_default=True, help='List pairs of images whose root mean square difference per pixel (0 to 255) is below this value.')  # fmt: skip
@click.option('--verify', metavar='ZIP|DIR|FILE', multiple=True, help='Make the data set again from this source, and compare the result with PATH. For a mixture, repeat the option: first the set given as --source, then the set given as --blend.')  # fmt: skip
@report_errors
def info(path: str, near: float, verify: tuple[str, ...]) -> None:
    """Describe a data set, and verify it if --verify is given.

    The description lists the number and size of the images, their labels, exact and near copies among them, and how the
    set was made according to its manifest.

    \b
    # Does CIFAR-10 have near copies?
    python -m dataset_utils info cifar10-train.zip --near=20

    \b
    # Is this the paper's set?
    python -m dataset_utils info cifar10-1000.zip --verify=cifar-10-python.tar.gz
    """
    dataset = open_source(path)
    reading = Reading.from_changes(dataset.manifest.arguments if dataset.manifest else {})
    opened = [open_downloaded(source, 'verify', reading=reading) for source in verify]
    click.echo(inspection.describe(dataset, near))
    if not opened:
        return
    findings = verification.verify(dataset, opened)
    if findings:
        raise UserError(f'{path} does not match its manifest. {" ".join(findings)}')
    click.echo(
        f'Verified: every image, every label and the manifest are the same when the set is made again from {" and ".join(verify)}.'
    )
