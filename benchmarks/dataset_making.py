"""Time reading and writing of data sets, compared with a plain loop that uses zipfile and Pillow.

python -m benchmarks.dataset_making
python -m benchmarks.dataset_making --source=datasets/cifar10/cifar-10-python.tar.gz
"""

import contextlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
import PIL.Image
import torch

from benchmarks.timing import TimingOptions, Way, compare
from cli.command import with_options
from dataset_utils import open_source
from dataset_utils.archive import Destination
from dataset_utils.building import Plan, write_datasets
from dataset_utils.rules import plan_convert, plan_size, plan_unique_labels
from dataset_utils.sources import Source
from dnnlib.options import option
from dnnlib.util import report_errors

CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(TimingOptions):
    """Images to read and write, and how long to measure."""

    # fmt: off
    source: str | None = option(None, 'Images to use. [default: random ones]', unit='ZIP|DIR|FILE')
    num_images: int = option(50_000, 'Number of random images.', unit='INT', least=CLASSES)
    # fmt: on


@click.command()
@report_errors
@with_options(DatasetOptions)
def main(options: DatasetOptions) -> None:
    """Time reading and writing of data sets."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = options.source
        source = open_source(given, 'source') if given else random_source(folder / 'random.zip', options.num_images)
        measure(source, folder, options)


def measure(source: Source, folder: Path, options: TimingOptions) -> None:
    """Compare the implementations of each task, all on the CPU."""
    ours, plain = folder / 'ours.zip', folder / 'plain.zip'
    half = len(source) // 2 // CLASSES * CLASSES

    def compare_ways(task: str, **ways: Callable[[], object]) -> None:
        found = [Way(name, len(source), run, plain=name == 'plain') for name, run in ways.items()]
        compare(task, 'images', found, torch.device('cpu'), options)

    def writes(plan: Callable[[], Plan], name: str) -> Callable[[], object]:
        def write() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                write_datasets((plan(), Destination(str(folder / name), True)))

        return write

    compare_ways(
        'writing a data set',
        plain=lambda: plain_write(source, plain),
        ours=writes(lambda: plan_convert(source), ours.name),
    )
    for task, path in (('reading what this project wrote', ours), ('reading what Pillow wrote', plain)):
        compare_ways(task, plain=partial(plain_read, path), ours=partial(read, path))
    compare_ways(
        'selecting images',
        size=writes(lambda: plan_size(open_source(ours), max_images=half), 'size.zip'),
        unique_labels=writes(lambda: plan_unique_labels(open_source(ours), max_images=2 * half), 'unique.zip'),
    )


def read(path: Path) -> np.ndarray:
    return open_source(path).load()


def plain_write(source: Source, path: Path) -> None:
    """Baseline: write with zipfile and Pillow, without compression."""
    with zipfile.ZipFile(path, 'w') as archive:
        labels = []
        for number, (image, label) in enumerate(source):
            name = f'{number // 1000:05d}/img{number:08d}.png'
            buffer = io.BytesIO()
            PIL.Image.fromarray(image.squeeze()).save(buffer, 'PNG', compress_level=0)
            archive.writestr(name, buffer.getvalue())
            labels.append([name, label])
        archive.writestr('dataset.json', json.dumps({'labels': labels}))


def plain_read(path: Path) -> np.ndarray:
    """Baseline: read with zipfile and Pillow."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith('.png'))
        return np.stack([np.asarray(PIL.Image.open(archive.open(name))) for name in names])


def random_source(path: Path, num_images: int) -> Source:
    """Write random 32x32 images of ten classes (random pixels do not compress)."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, 'w') as archive:
        labels = []
        for number in range(num_images):
            name = f'{number:08d}.ppm'
            archive.writestr(name, b'P6 32 32 255\n' + rng.bytes(3 * 32 * 32))
            labels.append([name, number % CLASSES])
        archive.writestr('dataset.json', json.dumps({'labels': labels}))
    return open_source(path)


if __name__ == '__main__':
    main()
