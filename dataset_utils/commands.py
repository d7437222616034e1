"""The command line `python -m dataset_utils`: a sub-command per factor, each a rule of `rules`, and `info`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli import dataset_options as options
from dataset_utils import inspection, rules, verification
from dataset_utils.archive import Destination
from dataset_utils.building import Plan, write_dataset, write_datasets
from dataset_utils.downloads import open_downloaded
from dataset_utils.imagenet import superclasses
from dataset_utils.labelling import PAPER_SEED
from dataset_utils.sources import open_source
from dnnlib.util import UserError, report_errors


@click.group()
def main() -> None:
    """Make the training set that a study of memorization needs: one factor changed, all else as it was.

    Every sub-command reads all that dataset_tool.py reads, and writes a ZIP archive or a folder with a manifest, from
    which `info --verify` can tell that it is what it claims to be. The same command gives the same bytes. Without
    --seed the first images are taken; with it they are drawn, and smaller sets are contained in larger ones.

    \b
    # The paper's basic set: 1,000 images of CIFAR-10, 100 of each class
    python -m dataset_utils size --source=datasets/cifar10/cifar-10-python.tar.gz \\
        --dest=datasets/cifar10/cifar10-1000.zip --max-images=1000

    \b
    # What is in it, and whether it is what it claims
    python -m dataset_utils info datasets/cifar10/cifar10-1000.zip \\
        --verify=datasets/cifar10/cifar-10-python.tar.gz
    """


def write(rule: Callable[..., Plan], source: str, dest: str, overwrite: bool, choices: dict[str, Any]) -> None:
    """Write the data set that a rule with these choices makes of a source; refuse the destination before reading."""
    destination = Destination(dest, overwrite, [source])
    write_dataset(rule(open_downloaded(source, '--source'), **choices), destination)


@main.command()
@options.source_and_dest
@options.max_images
@options.seed
@report_errors
def size(source: str, dest: str, overwrite: bool, **choices: Any) -> None:
    """Take the same number of images of each class.

    The set is class after class, and keeps the labels; --max-images must be a multiple of the number of classes.

    \b
    # The first 200 of each of CIFAR-10's ten classes
    python -m dataset_utils size --source=cifar-10-python.tar.gz --dest=cifar10-2000.zip --max-images=2000

    \b
    # 200 of each, drawn at random
    python -m dataset_utils size --source=cifar-10-python.tar.gz --dest=drawn.zip --max-images=2000 --seed=1
    """
    write(rules.plan_size, source, dest, overwrite, choices)


@main.command()
@options.source_and_dest
@options.num_classes
@options.max_images
@options.seed
@report_errors
def classes(source: str, dest: str, overwrite: bool, **choices: Any) -> None:
    """Take images of the first classes only (inter-diversity).

    Each of the first --num-classes classes gives the same number of images, and the last the remainder as well.

    \b
    # 1,000 airplanes and 1,000 automobiles
    python -m dataset_utils classes --source=cifar-10-python.tar.gz --dest=c2.zip --num-classes=2 --max-images=2000

    \b
    # 166 zeros, 166 ones and 168 twos
    python -m dataset_utils classes --source=digits --dest=c3.zip --num-classes=3 --max-images=500
    """
    write(rules.plan_classes, source, dest, overwrite, choices)


@main.command()
@options.source_and_dest
@click.option('--resolution', metavar='WxH', type=options.SQUARE_RESOLUTION, required=True, help='Size to resize to.')
@options.max_images
@options.seed
@report_errors
def resolution(source: str, dest: str, overwrite: bool, **choices: Any) -> None:
    """Take what `size` takes, and resize it (data dimension).

    The filter is Lanczos, as in dataset_tool.py.

    \b
    # 2,000 images of CIFAR-10 at 16x16
    python -m dataset_utils resolution --source=cifar-10-python.tar.gz --dest=r16.zip \\
        --resolution=16x16 --max-images=2000

    \b
    # And at 8x8
    python -m dataset_utils resolution --source=cifar-10-python.tar.gz --dest=r8.zip --resolution=8x8 --max-images=2000
    """
    write(rules.plan_resolution, source, dest, overwrite, choices)


@main.command('random-labels')
@options.source_and_dest
@options.num_classes
@options.max_images
@options.seed
@click.option(
    '--label-seed', metavar='INT', type=options.SEED, default=PAPER_SEED, show_default=True, help='Seed of the labels.'
)
@report_errors
def random_labels(source: str, dest: str, overwrite: bool, **choices: Any) -> None:
    """Take what `size` takes, and label it at random (conditioning).

    Labels are independent and uniform, drawn for the images in order.

    \b
    # 2,000 images of CIFAR-10 with 20 random labels
    python -m dataset_utils random-labels --source=cifar-10-python.tar.gz --dest=r20.zip \\
        --num-classes=20 --max-images=2000

    \b
    # Other labels for the same images
    python -m dataset_utils random-labels --source=digits --dest=r5.zip --num-classes=5 --max-images=500 --label-seed=1
    """
    write(rules.plan_random_labels, source, dest, overwrite, choices)


@main.command('unique-labels')
@options.source_and_dest
@options.max_images
@options.seed
@report_errors
def unique_labels(source: str, dest: str, overwrite: bool, **choices: Any) -> None:
    """Take what `size` takes, and make each image its own class (conditioning).

    The label is the image's position in the data set.

    \b
    # All of CIFAR-10 with 50,000 labels
    python -m dataset_utils unique-labels --source=cifar-10-python.tar.gz --dest=u50000.zip --max-images=50000

    \b
    # 500 digits with 500 labels
    python -m dataset_utils unique-labels --source=digits --dest=u500.zip --max-images=500
    """
    write(rules.plan_unique_labels, source, dest, overwrite, choices)


@main.command('one-class')
@options.source_and_dest
@click.option('--class-name', metavar='NAME|INT', required=True, help='Name or label of the class.')
@click.option('--max-images', metavar='INT', type=click.IntRange(min=1), help='Images to take. [default: all]')
@options.seed
@report_errors
def one_class(source: str, dest: str, overwrite: bool, **choices: Any) -> None:
    """Take images of one class.

    They keep the label that the class has in the source.

    \b
    # The first 2,000 dogs of CIFAR-10
    python -m dataset_utils one-class --source=cifar-10-python.tar.gz --dest=dog.zip --class-name=dog --max-images=2000

    \b
    # Every digit that is a seven
    python -m dataset_utils one-class --source=digits --dest=seven.zip --class-name=7
    """
    write(rules.plan_one_class, source, dest, overwrite, choices)


@main.command('imagenet-class')
@options.source_and_dest
@click.option('--superclass', metavar='|'.join(sorted(superclasses())), required=True, help="CIFAR-10's class.")
@options.max_images
@click.option(
    '--resolution',
    metavar='WxH',
    type=options.SQUARE_RESOLUTION,
    default='32x32',
    show_default=True,
    help='Size to resize to, after cropping the central square.',
)
@click.option(
    '--seed', metavar='INT', type=options.SEED, default=0, show_default=True, help='Draws the images of each synset.'
)
@options.skip_unreadable
@report_errors
def imagenet_class(source: str, dest: str, overwrite: bool, **choices: Any) -> None:
    """Draw images of one of CIFAR-10's classes from ImageNet.

    They are spread evenly over the synsets of the class, whose folders must all be there, and get CIFAR-10's label.
    --source is ImageNet's train folder, or the part of it that holds those synsets.

    \b
    # 2,000 dogs of 123 synsets, 32x32 as in CIFAR-10
    python -m dataset_utils imagenet-class --source=imagenet/ILSVRC/Data/CLS-LOC/train --dest=dog-imagenet.zip \\
        --superclass=dog --max-images=2000

    \b
    # Cats at 64x64, going on after broken files
    python -m dataset_utils imagenet-class --source=imagenet/ILSVRC/Data/CLS-LOC/train --dest=cat-imagenet.zip \\
        --superclass=cat --max-images=1000 --resolution=64x64 --skip-unreadable
    """
    write(rules.plan_imagenet_class, source, dest, overwrite, choices)


@main.command()
@options.source_and_dest
@click.option('--blend', metavar='ZIP|DIR|FILE', required=True, help='Images to mix in.')
@click.option(
    '--blend-rate', metavar='FLOAT', type=click.FloatRange(0, 1), required=True, help='Share of images from --blend.'
)
@options.max_images
@report_errors
def mixture(source: str, dest: str, overwrite: bool, blend: str, **choices: Any) -> None:
    """Mix two data sets (intra-diversity).

    The first int(N * (1 - rate)) of --max-images=N images are the first of --source, the others the first of --blend.

    \b
    # 1,600 dogs of CIFAR-10 and 400 of ImageNet
    python -m dataset_utils mixture --source=dog.zip --blend=dog-imagenet.zip --dest=dog-0.2.zip \\
        --blend-rate=0.2 --max-images=2000

    \b
    # Half and half
    python -m dataset_utils mixture --source=dog.zip --blend=dog-imagenet.zip --dest=dog-0.5.zip \\
        --blend-rate=0.5 --max-images=2000
    """
    destination = Destination(dest, overwrite, [source, blend])
    plan = rules.plan_mixture(open_downloaded(source, '--source'), open_downloaded(blend, '--blend'), **choices)
    write_dataset(plan, destination)


@main.command()
@options.source_and_dest
@click.option('--copies', metavar='INT', type=click.IntRange(min=2), required=True, help='How often they are there.')
@click.option(
    '--fraction', metavar='FLOAT', type=click.FloatRange(0, 1), required=True, help='Share of images to repeat.'
)
@options.seed
@report_errors
def duplicate(source: str, dest: str, overwrite: bool, **choices: Any) -> None:
    """Repeat a fraction of the images.

    All images stay in their places, and after them the fraction is repeated until each of its images is there --copies
    times. It is taken evenly from the classes: the first of each class, or drawn by --seed.

    \b
    # 1,000 images of which 100 are there ten times: 1,900 in all
    python -m dataset_utils duplicate --source=cifar10-1000.zip --dest=d10.zip --copies=10 --fraction=0.1

    \b
    # Every image twice
    python -m dataset_utils duplicate --source=cifar10-1000.zip --dest=d2.zip --copies=2 --fraction=1
    """
    write(rules.plan_duplicate, source, dest, overwrite, choices)


@main.command()
@options.source_and_dest
@options.max_images
@options.seed
@report_errors
def split(source: str, dest: str, overwrite: bool, **choices: Any) -> None:
    """Take two disjoint sets of --max-images images each.

    Both are class-balanced; the first is what `size` takes. --dest=half.zip writes half-a.zip and half-b.zip.

    \b
    # Two times 1,000 images of CIFAR-10
    python -m dataset_utils split --source=cifar-10-python.tar.gz --dest=half.zip --max-images=1000

    \b
    # Two times 500 digits, drawn at random
    python -m dataset_utils split --source=digits --dest=digits-half.zip --max-images=500 --seed=3
    """
    path = Path(dest)
    if path.name.lower() in ('', '..', '.zip'):
        raise UserError(f'--dest={dest} gives the halves no name; end it in one, such as half.zip')
    suffix = path.suffix if path.suffix.lower() == '.zip' else ''
    names = {half: str(path.with_name(f'{path.name.removesuffix(suffix)}-{half}{suffix}')) for half in 'ab'}
    destinations = {half: Destination(name, overwrite, [source]) for half, name in names.items()}
    opened = open_downloaded(source, '--source')
    write_datasets([(rules.plan_split(opened, half=half, **choices), destinations[half]) for half in 'ab'])


@main.command()
@click.argument('path', metavar='PATH')
@click.option(
    '--near',
    metavar='FLOAT',
    type=click.FloatRange(min=0),
    default=inspection.NEAR,
    show_default=True,
    help='List pairs whose root mean square difference per pixel, of 255, is below it.',
)
@click.option(
    '--verify',
    'sources',
    metavar='ZIP|DIR|FILE',
    multiple=True,
    help='Make the data set again from this source and compare; give it twice for a mixture, --source first.',
)
@report_errors
def info(path: str, near: float, sources: tuple[str, ...]) -> None:
    """Say what is in a data set, and whether it is what it claims.

    Prints counts, sizes and labels, exact copies, pairs that are nearly copies, and the manifest in words.

    \b
    # Does CIFAR-10 have near copies?
    python -m dataset_utils info cifar10-train.zip --near=20

    \b
    # Is this the paper's set?
    python -m dataset_utils info cifar10-1000.zip --verify=cifar-10-python.tar.gz
    """
    dataset = open_source(path)
    opened = [open_downloaded(source, '--verify') for source in sources]
    click.echo(inspection.describe(dataset, near))
    if not opened:
        return
    findings = verification.verify(dataset, opened)
    if findings:
        raise UserError(f'{path} is not what its manifest claims. {" ".join(findings)}')
    click.echo(
        f'Verified: every image, every label and the manifest are what the rule makes of {" and ".join(sources)}.'
    )
