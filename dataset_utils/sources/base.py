"""What every source of images offers, and the hash that tells two sets of images apart whatever holds them."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset_utils.parallel import ordered_map
from dnnlib.util import UserError


class Source(ABC):
    """Images in a fixed order, with a label each or none at all.

    path: as the user gave it. option: the command line's option that gave it, for messages; '' for none.
    labels: int of each image, in order, or None. class_names: of label 0, 1, ..., or None. Neither decodes an image.
    name: file name without folder and extension. file_name: with the extension.
    padded_size: the edge to which data sets pad these images with zeros unless another size is asked for, or None.
    """

    labels: list[int] | None = None
    class_names: list[str] | None = None
    padded_size: int | None = None

    def __init__(self, path: str | os.PathLike, option: str = ''):
        self.path = os.fspath(path)
        self.option = option
        self.where = f'{option}={self.path}' if option else self.path
        self.file_name = Path(os.path.abspath(self.path)).name
        self.name = strip_extension(self.file_name)

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images, at least 1."""

    @abstractmethod
    def read(self, index: int) -> np.ndarray:
        """Decode one image: uint8 [H, W, C], C being 1 or 3. Safe to call from several threads and after a fork.

        Raises UserError, with the name of the image, when it cannot be read.
        """

    @abstractmethod
    def sha256(self, indices: Sequence[int] | None = None) -> str:
        """Return the hexadecimal hash of the source's file or files.

        Of a folder: of all names and labels, and of the bytes of the images in `indices`, by default all.
        """

    def describe(self, index: int) -> str:
        """Name one image for a message."""
        return f'image {index}'

    def __getitem__(self, index: int) -> tuple[np.ndarray, int | None]:
        if not -len(self) <= index < len(self):
            raise IndexError(f'{self.where} has {len(self)} images, there is no image {index}')
        return self.read(index), self.labels[index] if self.labels is not None else None

    def __iter__(self) -> Iterator[tuple[np.ndarray, int | None]]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self):
        # Workers that are spawned get the path and open the source themselves.
        from dataset_utils.sources import open_source

        return open_source, (self.path, self.option)

    def load(self, progress: bool = False) -> np.ndarray:
        """Decode every image into one array, uint8 [N, H, W, C].

        progress: show a bar on stderr where that is a terminal.
        Raises UserError that names the first image whose size or channels differ from image 0's; a grey image among
        colour ones is repeated over the channels.
        """
        shape = self.read(0).shape
        images = self._allocate(shape)

        def decode(index: int) -> None:
            name = f'{self.where}: {self.describe(index)}'
            images[index] = match(self.read(index), name, shape, self.describe(0))

        tasks = ordered_map(decode, range(len(self)))
        for _ in tqdm(tasks, f'Reading {self.file_name}', len(self), unit='img', disable=None if progress else True):
            pass
        return images

    def _allocate(self, shape: tuple[int, ...]) -> np.ndarray:
        try:
            return np.empty((len(self), *shape), np.uint8)
        except (MemoryError, ValueError) as error:
            raise UserError(
                f'{self.where}: {len(self)} images of {words_of(shape)} do not fit into memory; '
                f'make them smaller with dataset_tool.py --resolution, or fewer with --max-images'
            ) from error


class ArraySource(Source):
    """A source whose images lie in one array, uint8 [N, H, W, C]."""

    images: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> np.ndarray:
        return self.images[index].copy()

    def load(self, progress: bool = False) -> np.ndarray:
        return self.images.copy()


def match(image: np.ndarray, name: str, shape: tuple[int, ...], reference: str) -> np.ndarray:
    """Return an image with the shape [H, W, C] of the first one; a grey image among colour ones is repeated over C.

    name, reference: what to call this image and the first one in the UserError when they cannot be alike.
    """
    if image.shape[2] == 1 and shape[2] == 3:
        image = np.repeat(image, 3, axis=2)
    if image.shape == shape:
        return image
    if image.shape[2] != shape[2]:
        mend = f'keep grey and colour images apart, or store {reference} as RGB'
    else:
        mend = 'bring all images to one size with dataset_tool.py --transform=center-crop --resolution=WxH'
    raise UserError(f'{name} is {words_of(image.shape)}, but {reference} is {words_of(shape)}; {mend}')


def copies_of(images: Iterable[np.ndarray]) -> list[int]:
    """Return for each image, or row of numbers, the lowest index of one with the same bytes; compared by SHA-256."""
    first: dict[bytes, int] = {}
    return [first.setdefault(hashlib.sha256(image.tobytes()).digest(), index) for index, image in enumerate(images)]


def check_shape(where: str, shape: Sequence[int]) -> None:
    """Raise UserError unless images of shape [H, W, C] are square, and grey or RGB. where: what has them."""
    height, width, channels = shape
    if height != width:
        raise UserError(
            f'{where}: its images are {width}x{height} and must be square; '
            f'make it again with dataset_tool.py --transform=center-crop --resolution=WxH'
        )
    if channels not in (1, 3):
        raise UserError(f'{where}: its images have {channels} channels, and must have 1 (grey) or 3 (RGB)')


def content_sha256(images: np.ndarray, labels: Sequence[int] | None) -> str:
    """Hash a set of images by its content: shape, pixels and labels, in order, whatever file or folder holds them.

    images: uint8 [N, H, W, C]. labels: N integers, or None, which differs from any labels.
    """
    digest = hashlib.sha256(np.array(images.shape, '<i8').tobytes())
    digest.update(np.ascontiguousarray(images).data)
    if labels is not None:
        digest.update(b'labels')
        digest.update(np.array(labels, '<i8').tobytes())
    return digest.hexdigest()


def strip_extension(file_name: str) -> str:
    """Return a file's name without its extension: 'cifar10-train' of 'cifar10-train.zip'."""
    for extension in ('.tar.gz', '.tgz', '.gz', '.zip', '.npz', '.npy'):
        if file_name.lower().endswith(extension):
            return file_name[: -len(extension)]
    return file_name


def words_of(shape: Sequence[int]) -> str:
    """Say the shape [H, W, C] of an image as users do: '32x16 RGB'."""
    height, width, channels = shape
    return f'{width}x{height} {"grey" if channels == 1 else "RGB"}'


def shown(text: str) -> str:
    """Make a name out of a stranger's file fit for a terminal: no control characters, no endless lines."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 200 else f'{text[:200]}...'
