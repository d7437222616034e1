"""The only reader of images in the project: `open_source` gives every kind of source one face, `Source`."""

import os
from pathlib import Path

from dataset_utils.sources.arrays import NumpySource, is_numpy_name
from dataset_utils.sources.base import Source, content_sha256
from dataset_utils.sources.cifar import CifarSource
from dataset_utils.sources.digits import DigitsSource
from dataset_utils.sources.files import ArchiveSource, FolderSource
from dataset_utils.sources.idx import IMAGES_NAME, IdxSource
from dnnlib.util import UserError

__all__ = ['Source', 'content_sha256', 'open_source']


def open_source(path: str | os.PathLike, option: str = '') -> Source:
    """Open images of any kind for reading: iterating gives (uint8 [H, W, C], int label or None) of each.

    path: 'digits' for the built-in digits; a folder of images, such as ImageNet's train/; a .zip archive of images;
    cifar-10-python.tar.gz; MNIST's *-images-idx3-ubyte, with or without .gz, its labels beside it; or numpy's .npz or
    .npy, see `NumpySource`.
    option: name of the command line's option that gave the path, such as '--data', for messages.
    Raises UserError when there is no such source, or it is broken or empty.
    """
    path = os.fspath(path)
    where = f'{option}={path}' if option else path
    if path == 'digits':
        return DigitsSource(path, option)
    if not os.path.exists(path):
        raise UserError(f"{where}: no such file or folder; give one of images, or 'digits'")
    if os.path.isdir(path):
        return FolderSource(path, option)
    if not os.path.isfile(path):
        raise UserError(f'{where} is a pipe or a device, which cannot be read twice; give a file or a folder')
    if Path(path).suffix.lower() == '.zip':
        return ArchiveSource(path, option)
    if path.lower().endswith(('.tar.gz', '.tgz')):
        return CifarSource(path, option)
    if IMAGES_NAME.fullmatch(Path(path).name):
        return IdxSource(path, option)
    if is_numpy_name(path):
        return NumpySource(path, option)
    raise UserError(
        f'{where} is no known source; give a .zip archive or a folder of images, cifar-10-python.tar.gz, '
        f"*-images-idx3-ubyte.gz, an .npz or .npy of images, or 'digits'"
    )
