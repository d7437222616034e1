"""Entry script: convert images from any source into a training set (square PNGs in a ZIP archive or a folder)."""

from pathlib import Path
from typing import Any

import click

from cli import dataset_options as options
from dnnlib.util import report_errors


@click.command()
@click.option('--source', metavar='ZIP|DIR|FILE|URL', required=True, help='Images to read; see above.')
@click.option('--dest', metavar='ZIP|DIR', required=True, help='Data set to write.')
@click.option('--max-images', metavar='INT', type=options.COUNT, help='Use at most the first INT images.')
@click.option('--split', metavar='train|test', type=click.Choice(['train', 'test']), help='Part of CIFAR to read. [default: train]')  # fmt: skip
@click.option('--transform', type=click.Choice(options.TRANSFORMS), help='How to make images square; requires --resolution.')  # fmt: skip
@click.option('--resolution', metavar='WxH', type=options.RESOLUTION, help='Size to which images are resized, in pixels.')  # fmt: skip
@click.option('--channels', metavar='auto|1|3', type=click.Choice(['auto', '1', '3']), default='auto', show_default=True, help='Grey (1) or RGB (3); auto uses RGB if any image has colour.')  # fmt: skip
@click.option('--exif-transpose', is_flag=True, help='Rotate images according to their EXIF orientation.')
@click.option('--follow-links', is_flag=True, help='Follow symbolic links in --source whose targets are outside that folder.')  # fmt: skip
@click.option('--no-labels', is_flag=True, help='Ignore labels and class folders.')
@click.option('--skip-unreadable', **options.OPTIONS['skip_unreadable'])
@click.option('--overwrite', **options.OPTIONS['overwrite'])
@click.option('--cache-dir', metavar='DIR', type=click.Path(path_type=Path), help="Folder for downloads. [default: the user's cache folder]")  # fmt: skip
@click.option('--sha256', metavar='HEX', type=str, help='Expected SHA-256 of the file given by --source.')
@report_errors
def main(
    source: str,
    dest: str,
    split: str | None,
    channels: str,
    exif_transpose: bool,
    follow_links: bool,
    no_labels: bool,
    overwrite: bool,
    cache_dir: Path | None,
    sha256: str | None,
    **choices: Any,
) -> None:
    """Convert images into a data set for training.

    \b
    --source is one of
      cifar-10-python.tar.gz             or cifar-100-python.tar.gz, or its unpacked folder; --split chooses train or test
      train-images-idx3-ubyte.gz         MNIST and similar sets, padded to 32x32 unless --resolution is given
      a folder, .zip or .tar archive     of images, labelled by dataset.json or subfolders unless --no-labels is given
      ILSVRC/Data/CLS-LOC/train          ImageNet, with one label per synset folder
      an .npz or .npy file               with an array of images, uint8 [N, H, W, C] or [N, C, H, W]
      digits                             the built-in source: scikit-learn's 1,797 handwritten digits, 8x8
      a URL                              of one of these files, which is downloaded to --cache-dir

    \b
    --transform is one of
      center-crop                        the largest central square, resized (Lanczos)
      center-crop-wide                   the largest central box with the aspect ratio W:H, resized to WxH (Lanczos)
                                         and placed in a black WxW square;
                                         images smaller than --resolution are skipped
      center-crop-dhariwal               as in ADM: halve repeatedly by averaging, resize bicubically, crop the center

    Without --transform, images must already be square. 16-bit pixels are reduced to 8 bits, palettes and CMYK are
    converted to RGB, and transparency is dropped. At the end, the command reports which files it skipped and which
    images might look different from what you expect.

    \b
    # CIFAR-10 at 32x32
    python dataset_tool.py --source=datasets/cifar10/cifar-10-python.tar.gz \\
        --dest=datasets/cifar10/cifar10-train.zip

    \b
    # ImageNet at 64x64, cropped as in ADM
    python dataset_tool.py --source=datasets/imagenet/ILSVRC/Data/CLS-LOC/train \\
        --dest=datasets/imagenet-64x64.zip --resolution=64x64 --transform=center-crop-dhariwal
    """
    from dataset_utils.archive import Destination
    from dataset_utils.building import write_datasets
    from dataset_utils.downloads import open_downloaded
    from dataset_utils.rules import plan_convert
    from dataset_utils.sources import Reading
    from dataset_utils.transforms import make_transform

    make_transform(choices['transform'], choices['resolution'])  # refuses invalid options before any image is read
    destination = Destination(dest, overwrite, [source])
    reading = Reading(None if channels == 'auto' else int(channels), exif_transpose, follow_links, split, no_labels)
    opened = open_downloaded(source, 'source', cache_dir, sha256, reading)
    write_datasets((plan_convert(opened, **choices), destination))


if __name__ == '__main__':
    main()
