"""Convert images of any kind into a data set for training: a ZIP archive or a folder of square PNGs of one size."""

from pathlib import Path

import click

from cli import dataset_options as options
from dataset_utils.archive import Destination
from dataset_utils.building import write_dataset
from dataset_utils.downloads import open_downloaded
from dataset_utils.rules import plan_convert
from dataset_utils.transforms import TRANSFORMS, make_transform
from dnnlib.util import report_errors


@click.command()
@click.option('--source', metavar='ZIP|DIR|FILE|URL', required=True, help='Images to read, see above.')
@click.option('--dest', metavar='ZIP|DIR', required=True, help='Data set to write.')
@click.option('--max-images', metavar='INT', type=click.IntRange(min=1), help='Take only the first images.')
@click.option('--transform', type=click.Choice(TRANSFORMS), help='How to make images square; needs --resolution.')
@click.option('--resolution', metavar='WxH', type=options.RESOLUTION, help='Size to resize to, in pixels.')
@options.skip_unreadable
@click.option('--overwrite', is_flag=True, help='Replace the data set at --dest.')
@click.option('--cache-dir', metavar='DIR', type=click.Path(path_type=Path), help="Folder for downloads. [default: the user's cache folder]")  # fmt: skip
@click.option('--sha256', metavar='HEX', type=str, help='SHA-256 that the file of --source must have.')
@report_errors
def main(
    source: str,
    dest: str,
    max_images: int | None,
    transform: str | None,
    resolution: tuple[int, int] | None,
    skip_unreadable: bool,
    overwrite: bool,
    cache_dir: Path | None,
    sha256: str | None,
) -> None:
    """Convert images into a data set for training.

    \b
    --source is one of
      cifar-10-python.tar.gz             CIFAR-10's 50,000 training images
      train-images-idx3-ubyte.gz         MNIST and its like, padded to 32x32 unless --resolution says otherwise
      a folder or .zip archive           of images: labels from its dataset.json, else from its folders
      ILSVRC/Data/CLS-LOC/train          ImageNet: one label for each synset's folder
      an .npz or .npy file               of pixels, uint8 [N, H, W, C] or [N, C, H, W]
      digits                             scikit-learn's 1,797 handwritten digits, 8x8, built in
      a URL                              of one of these files, downloaded into --cache-dir, whole or not at all

    \b
    --transform is one of
      center-crop                        the largest central square, resized (Lanczos)
      center-crop-wide                   the largest central WxH box, resized (Lanczos), in a black WxW square;
                                         images smaller than --resolution are left out
      center-crop-dhariwal               ADM's way: halve by averaging, resize bicubically, crop the center

    Without --transform, images must be square already. The first image decides between grey and RGB: grey images among
    colour ones become RGB. Pixels of 16 bits become 8, palettes and CMYK become RGB, transparency is dropped.

    \b
    # CIFAR-10 at 32x32
    python dataset_tool.py --source=datasets/cifar10/cifar-10-python.tar.gz \\
        --dest=datasets/cifar10/cifar10-train.zip

    \b
    # ImageNet at 64x64, as ADM crops it
    python dataset_tool.py --source=datasets/imagenet/ILSVRC/Data/CLS-LOC/train \\
        --dest=datasets/imagenet-64x64.zip --resolution=64x64 --transform=center-crop-dhariwal
    """
    check_resolution(transform, resolution)
    destination = Destination(dest, overwrite, [source])
    plan = plan_convert(
        open_downloaded(source, '--source', cache_dir, sha256),
        max_images=max_images,
        transform=transform,
        resolution=resolution,
        skip_unreadable=skip_unreadable,
    )
    write_dataset(plan, destination)


def check_resolution(transform: str | None, resolution: tuple[int, int] | None) -> None:
    """Raise click.UsageError unless --transform and --resolution go together."""
    if transform is not None and resolution is None:
        raise click.UsageError(f'--transform={transform} needs --resolution=WxH, the size to crop to.')
    if resolution is not None:
        try:
            make_transform(transform, resolution)
        except ValueError as error:
            raise click.UsageError(f'{error}.') from error


if __name__ == '__main__':
    main()
