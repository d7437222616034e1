"""Time reading and writing of data sets, next to a plain loop over zipfile and Pillow in the same run.

    python -m benchmarks.dataset_making
    python -m benchmarks.dataset_making --source=datasets/cifar10/cifar-10-python.tar.gz

Prints seconds, and the speed-up over the plain loop.
"""

import io
import json
import os
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import PIL.Image

from dataset_utils import open_source
from dataset_utils.archive import Destination
from dataset_utils.building import write_datasets
from dataset_utils.rules import plan_convert, plan_size, plan_unique_labels
from dataset_utils.sources import Source
from dnnlib.util import report_errors

CLASSES = 10


@click.command()
@click.option('--source', metavar='ZIP|DIR|FILE', help='Images to use instead of random ones.')
@click.option(
    '--num-images', metavar='INT', type=click.IntRange(min=CLASSES), default=50_000, show_default=True, help='Images.'
)
@report_errors
def main(source: str | None, num_images: int) -> None:
    """Measure how fast data sets are read and written, next to a plain loop over zipfile and Pillow."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = open_source(source, 'source') if source else random_source(folder / 'random.zip', num_images)
        measure(images, folder)


def measure(source: Source, folder: Path) -> None:
    """Print one line per measurement."""
    ours, plain = folder / 'ours.zip', folder / 'plain.zip'
    print(f'{len(source)} images of {source.read(0).shape}, {os.cpu_count()} cores')
    writing = seconds(lambda: plain_write(source, plain))
    report('write all', seconds(lambda: write_datasets((plan_convert(source), Destination(str(ours), False)))), writing)
    report('read what this project wrote', seconds(lambda: open_source(ours).load()), seconds(lambda: plain_read(ours)))
    report('read what Pillow wrote', seconds(lambda: open_source(plain).load()), seconds(lambda: plain_read(plain)))
    half = len(source) // 2 // CLASSES * CLASSES
    for name, plan in (
        (f'size --max-images={half}', lambda: plan_size(open_source(ours), max_images=half)),
        (f'unique-labels --max-images={2 * half}', lambda: plan_unique_labels(open_source(ours), max_images=2 * half)),
    ):
        dest = Destination(str(folder / f'{name.split()[0]}.zip'), False)
        report(name, seconds(lambda: write_datasets((plan(), dest))), None)  # noqa: B023 - called in this round only


def plain_write(source: Source, path: Path) -> None:
    """The plain way: zipfile, and Pillow without compression."""
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
    """The plain way."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith('.png'))
        return np.stack([np.asarray(PIL.Image.open(archive.open(name))) for name in names])


def random_source(path: Path, num_images: int) -> Source:
    """Write random 32x32 images of ten classes, which no PNG can compress."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, 'w') as archive:
        labels = []
        for number in range(num_images):
            name = f'{number:08d}.ppm'
            archive.writestr(name, b'P6 32 32 255\n' + rng.bytes(3 * 32 * 32))
            labels.append([name, number % CLASSES])
        archive.writestr('dataset.json', json.dumps({'labels': labels}))
    return open_source(path)


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def report(name: str, measured: float, plain: float | None) -> None:
    comparison = f'plain loop {plain:6.2f} s, {plain / measured:4.1f} times faster' if plain is not None else ''
    print(f'{name:<40} {measured:6.2f} s   {comparison}'.rstrip())


if __name__ == '__main__':
    main()
