"""The project's only image reader: `open_source` opens every kind of source as a `Source`."""

import os
from pathlib import Path

from dataset_utils.sources.archives import TarSource, ZipSource
from dataset_utils.sources.arrays import NumpySource
from dataset_utils.sources.base import Reading, Source, content_sha256, named
from dataset_utils.sources.cifar import CifarSource, is_cifar_folder
from dataset_utils.sources.digits import DigitsSource
from dataset_utils.sources.folders import FolderSource
from dataset_utils.sources.idx import IMAGES_NAME, IdxSource
from dnnlib.util import UserError

__all__ = ['Reading', 'Source', 'content_sha256', 'open_source']

KINDS: dict[str | tuple[str, ...], type[Source]] = {
    '.zip': ZipSource,
    '.tar': TarSource,
    ('.tar.gz', '.tgz'): CifarSource,
    ('.npz', '.npy'): NumpySource,
}


def open_source(path: str | os.PathLike, argument: str = '', reading: Reading | None = None) -> Source:
    """Open any kind of image source.

    Iterating over a source yields pairs (image, label). An image is uint8 [H, W, C]; a label is an integer or None.
    path: one of
        'digits' for the built-in digits;
        a folder of images, such as ImageNet's train/, or a .zip or .tar archive of images;
        cifar-10-python.tar.gz or cifar-100-python.tar.gz, or the folder unpacked from it;
        MNIST's *-images-idx3-ubyte, with or without .gz, next to its labels file;
        a NumPy .npz or .npy file, see `NumpySource`.
    argument: name of the argument that gave the path, such as 'data', for messages. reading: see `Reading`.
    Raises UserError if the source is missing, damaged or empty.
    """
    path = os.fspath(path)
    where = named(argument, path)
    if path == 'digits':
        return DigitsSource(path, argument, reading)
    if not os.path.exists(path):
        raise UserError(f"{where}: no such file or folder; give a folder or file of images, or 'digits'")
    if not os.path.isfile(path) and not os.path.isdir(path):
        raise UserError(f'{where} is a pipe or device, which cannot be read twice; give a file or folder')
    kind = _kind_of(path)
    if kind is None:
        raise UserError(
            f'{where} is not a known kind of source; give a folder or a .zip or .tar archive of images, '
            f"cifar-10-python.tar.gz, *-images-idx3-ubyte.gz, an .npz or .npy file of images, or 'digits'"
        )
    return kind(path, argument, reading)


def _kind_of(path: str) -> type[Source] | None:
    if os.path.isdir(path):
        return CifarSource if is_cifar_folder(path) else FolderSource
    if IMAGES_NAME.fullmatch(Path(path).name):
        return IdxSource
    return next((kind for ending, kind in KINDS.items() if path.lower().endswith(ending)), None)
