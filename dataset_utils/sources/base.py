"""The interface of all image sources, and the hash that identifies a set of images by its content."""

import contextlib
import hashlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dataset_utils.manifest import Manifest
from dataset_utils.parallel import ordered_map
from dnnlib.util import UserError, file_sha256

# A network has weights for every class, so a larger label is a mistake or an attempt to exhaust the memory.
MAX_LABEL = 2**21 - 1

ONE_SIZE = 'bring all images to one square size with dataset_tool.py --transform=center-crop --resolution=WxH'


@dataclass(frozen=True)
class Reading:
    """How a source is read.

    channels: 1 (grey) or 3 (RGB) for all images; None means 3 if any image has colour, otherwise 1.
    exif_transpose: whether to rotate images by their EXIF orientation. follow_links: whether to follow links to targets
    outside a folder. split: 'train' or 'test' for a source that contains both; None means 'train'. no_labels: whether
    to ignore all labels.
    """

    channels: int | None = None
    exif_transpose: bool = False
    follow_links: bool = False
    split: str | None = None
    no_labels: bool = False

    def changes(self) -> dict[str, Any]:
        """Return the values that differ from the defaults, to store them in a manifest."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Reading, name)}

    @staticmethod
    def from_changes(values: dict[str, Any]) -> 'Reading':
        """Return the `Reading` for values from `changes`, ignoring other keys. Raises UserError for invalid values."""
        chosen = {field.name: values[field.name] for field in fields(Reading) if field.name in values}
        allowed = {'channels': (1, 3), 'split': ('train', 'test')}
        for name, value in chosen.items():
            if value not in allowed.get(name, (True, False)) or isinstance(value, bool) == (name in allowed):
                raise UserError(
                    f'the manifest has an invalid {name}, {printable(repr(value))}; make the data set again'
                )
        return Reading(**chosen)


class Source(ABC):
    """Images in a fixed order; either all of them have labels, or none. Subclasses find the images in `_open`.

    path: the path as the user gave it. argument: name of the argument that gave the path, for messages, or ''.
    file_name: file name with its extension. name: file name without its extension.
    padded_size: size to which images are zero-padded in a data set if no other size is chosen; None means no padding.
    manifest: record of how a data set was made, or None. skipped: names of the files that are not read as images.
    splits: names of the splits that the source contains. files: paths of the files that `sha256` covers.
    """

    padded_size: int | None = None
    manifest: Manifest | None = None
    skipped: Sequence[str] = ()
    splits: tuple[str, ...] = ()

    def __init__(self, path: str | os.PathLike, argument: str = '', reading: Reading | None = None):
        self.path = os.fspath(path)
        self.argument = argument
        self.reading = reading or Reading()
        self.where = named(argument, self.path)
        self.file_name = Path(os.path.abspath(self.path)).name
        self.name = strip_extension(self.file_name)
        if self.reading.split is not None and self.reading.split not in self.splits:
            raise UserError(f'{self.where} is not divided into training and test images; remove `split`')
        self.files = [self.path]
        self._open()
        if self.reading.no_labels:
            self.labels = self.class_names = None

    @cached_property
    def labels(self) -> list[int] | None:
        """The labels of the images in order, or None. No image is decoded.

        Raises UserError if the labels are inconsistent.
        """
        return None

    @cached_property
    def class_names(self) -> list[str] | None:
        """Names of the labels, starting with label 0, or None."""
        return None

    @cached_property
    def original_names(self) -> Sequence[str] | None:
        """For each image, the printable name of the file that it originally came from, or '' if unknown.

        None if the images do not come from image files.
        """
        return None

    @cached_property
    def channels(self) -> int:
        """Number of channels (1 or 3) of every image that `read` returns; see `Reading`."""
        return self.reading.channels or self._stored_channels()

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape [H, W, C] of the first image; all other images should have the same shape."""
        return self.read(0).shape

    @abstractmethod
    def _open(self) -> None:
        """Find the images; raises UserError if there are none or the source is damaged."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images, at least 1."""

    @abstractmethod
    def _decode(self, index: int) -> np.ndarray:
        """Decode one image; `channels` has no effect. Returns uint8 [H, W, C] with C = 1 or 3."""

    @abstractmethod
    def _stored_channels(self) -> int:
        """Return 3 if any image has colour, otherwise 1."""

    def sha256(self, indices: Sequence[int] | None = None) -> str:
        """Return the hexadecimal SHA-256 of the source's concatenated files.

        For a folder, the hash covers all names and labels, and the bytes of the images in `indices` (default: all).
        """
        return file_sha256(*self.files)

    def describe(self, index: int) -> str:
        """Return how messages name an image."""
        return f'image {index}'

    def remarks(self) -> list[str]:
        """Return a sentence about each unexpected property of the images read so far."""
        return []

    def read(self, index: int) -> np.ndarray:
        """Decode one image to uint8 [H, W, C] with C = `channels`. Raises UserError if the image is unreadable.

        This method can be called from several threads and in forked processes.
        """
        return with_channels(self._decode(index), self.channels)

    def read_intact(self, index: int) -> np.ndarray:
        """Like `read`, but the error also suggests making a data set without the damaged image."""
        try:
            return self.read(index)
        except UserError as error:
            raise UserError(f'{error}, or make a data set without it with dataset_tool.py --skip-unreadable') from error

    def read_alike(self, index: int) -> np.ndarray:
        """Like `read_intact`, but also raises UserError if the image does not have the shape of image 0."""
        return match(self.read_intact(index), f'{self.where}: {self.describe(index)}', self.shape, self.describe(0))

    def __getitem__(self, index: int) -> tuple[np.ndarray, int | None]:
        if not -len(self) <= index < len(self):
            raise IndexError(f'{self.where} has {len(self)} images, so there is no image {index}')
        return self.read(index), self.labels[index] if self.labels is not None else None

    def __iter__(self) -> Iterator[tuple[np.ndarray, int | None]]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self):
        # Spawned workers receive the path and open the source themselves.
        return type(self), (self.path, self.argument, self.reading)

    def images_in_order(self, progress: bool = False, alike: bool = True) -> Iterator[np.ndarray]:
        """Decode all images in order; yields uint8 [H, W, C].

        progress: whether to show a progress bar if stderr is a terminal, and to print `remarks` on stderr at the end.
        alike: whether all images must have the same shape.
        Raises UserError, naming the first image that is unreadable or (if `alike`) differs in shape from image 0.
        """
        tasks = ordered_map(self.read_alike if alike else self.read_intact, range(len(self)))
        disable = None if progress else True
        yield from tqdm(tasks, f'Reading {self.file_name}', len(self), unit='img', disable=disable)
        if progress:
            print_remarks([self])

    def load(self, progress: bool = False) -> np.ndarray:
        """Decode all images into one array, uint8 [N, H, W, C]; see `images_in_order`."""
        try:
            images = np.empty((len(self), *self.shape), np.uint8)
        except (MemoryError, ValueError) as error:
            raise UserError(
                f'{self.where}: {len(self)} images of {words_of(self.shape)} do not fit in memory; '
                f'make a set of fewer or smaller images with dataset_tool.py'
            ) from error

        for index, image in enumerate(self.images_in_order(progress)):
            images[index] = image
        return images

    def content_sha256(self, progress: bool = False) -> str:
        """Return the `content_sha256` of all images and labels, decoding one image at a time."""
        return streamed_sha256((len(self), *self.shape), self.images_in_order(progress), self.labels)


class ArraySource(Source):
    """A source whose images are in one array, uint8 [N, H, W, C]."""

    images: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def _decode(self, index: int) -> np.ndarray:
        return self.images[index].copy()

    def _stored_channels(self) -> int:
        return self.images.shape[3]

    def load(self, progress: bool = False) -> np.ndarray:
        return with_channels(self.images.copy(), self.channels)


def with_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Convert images to 1 or 3 channels. Grey is repeated, and RGB is reduced to its luma (ITU-R BT.601).

    images: uint8 [..., C].
    """
    if images.shape[-1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    weights = np.array([19595, 38470, 7471], np.uint32)  # Pillow's 16-bit weights, which leave grey unchanged
    return ((images @ weights + 0x8000) >> 16).astype(np.uint8)[..., np.newaxis]


def match(image: np.ndarray, name: str, shape: tuple[int, ...], reference: str, remedy: str = ONE_SIZE) -> np.ndarray:
    """Return the image if its shape [H, W, C] is `shape`; otherwise raises UserError with the remedy.

    name: name of the image, for the message. reference: name of the image whose shape is `shape`, for the message.
    """
    if image.shape != shape:
        raise UserError(f'{name} is {words_of(image.shape)}, but {reference} is {words_of(shape)}; {remedy}')
    return image


def digest(image: np.ndarray) -> bytes:
    """Return the SHA-256 of an image's pixels; images with the same digest and shape count as identical."""
    return hashlib.sha256(image.tobytes()).digest()


def copies_of(images: Iterable[np.ndarray]) -> list[int]:
    """For each image, or each row of an array, return the index of the first identical one."""
    first: dict[bytes, int] = {}
    return [first.setdefault(digest(image), index) for index, image in enumerate(images)]


def require_square(where: str, shape: Sequence[int]) -> None:
    """Raise UserError unless images of shape [H, W, C] are square. where: how the message names their source."""
    height, width, _ = shape
    if height != width:
        raise UserError(f'{where}: its images are {width}x{height} but must be square; {ONE_SIZE}')


def content_sha256(images: np.ndarray, labels: Sequence[int] | None) -> str:
    """Return a SHA-256 that identifies a set of images by its shape, pixels and labels, whatever the file format.

    images: uint8 [N, H, W, C]. labels: N integers, or None; the same images with and without labels have
    different hashes.
    """
    return streamed_sha256(images.shape, [images], labels)


def streamed_sha256(shape: tuple[int, ...], images: Iterable[np.ndarray], labels: Sequence[int] | None) -> str:
    """Return the `content_sha256` of images that are given in order, one or several at a time.

    shape: [N, H, W, C] of all images together. images: uint8 [H, W, C] or [n, H, W, C].
    """
    digest = hashlib.sha256(np.array(shape, '<i8').tobytes())
    for pixels in images:
        digest.update(np.ascontiguousarray(pixels).data)
    if labels is not None:
        digest.update(b'labels')
        digest.update(np.array(labels, '<i8').tobytes())
    return digest.hexdigest()


def print_remarks(sources: Sequence[Source]) -> None:
    """Print each source's remarks on stderr."""
    for source in sources:
        for remark in source.remarks():
            print(f'{source.file_name}: {remark}', file=sys.stderr)


def range_warning(path: str, highest: int) -> list[str]:
    """A list with a warning if the highest pixel value of a set of images is 1, otherwise an empty list."""
    if highest != 1:
        return []
    return [
        f'Warning: the pixel values in {path} are only 0 and 1, of 0 to 255. If the images were floats from 0 to 1, '
        f'multiply them by 255 before saving them as uint8.'
    ]


@contextlib.contextmanager
def unreadable(claim: str, remedy: str) -> Iterator[None]:
    """Turn any exception into a UserError with the message 'claim (reason); remedy'.

    All exceptions are caught, because a damaged file can cause nearly any of them.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = getattr(error, 'strerror', None) or str(error).split('\n')[0] or type(error).__name__
        raise UserError(f'{claim} ({printable(reason)}); {remedy}') from error


def named(argument: str, path: str) -> str:
    """Return how messages name a path, including the argument that gave it: '`data`=path'."""
    return f'`{argument}`={path}' if argument else path


def strip_extension(file_name: str) -> str:
    """Return a file name without its extension: 'cifar10-train' for 'cifar10-train.zip'."""
    for extension in ('.tar.gz', '.tgz', '.tar', '.gz', '.zip', '.npz', '.npy'):
        if file_name.lower().endswith(extension):
            return file_name[: -len(extension)]
    return file_name


def words_of(shape: Sequence[int]) -> str:
    """Format an image shape [H, W, C] for a message: '32x16 RGB'."""
    height, width, channels = shape
    return f'{width}x{height} {"grey" if channels == 1 else "RGB"}'


def some(names: Sequence[str], limit: int = 5) -> str:
    """List the first few names for a message, made safe for a terminal."""
    return ', '.join([*map(printable, names[:limit]), *(['...'] if len(names) > limit else [])])


def escaped(text: str) -> str:
    """Replace characters that are not printable, or not valid Unicode, by escape sequences."""
    return text if text.isprintable() else ascii(text)[1:-1]


def printable(text: str) -> str:
    """Make text from an untrusted file safe for a terminal: no control characters and no very long lines."""
    text = escaped(text)
    return text if len(text) <= 200 else f'{text[:200]}...'
