"""Training images in memory, and the order in which they are drawn.

`load_dataset` reads any source into one uint8 tensor. `ImageOrder` is EDM's endless sequence of indices, which is
reshuffled gradually.
"""

import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

import numpy as np
import torch
from torch import Tensor

from dataset_utils import Source, content_sha256, open_source
from dataset_utils.sources.base import require_square, streamed_sha256, with_channels
from dnnlib.util import UserError, counted
from torch_utils.misc import free_bytes

# A training set is kept on disk unless this many copies of it fit in memory.
COPIES = 3
# Largest share of a GPU's free memory that the training set may take; the network and its activations need the rest.
MOST_OF_GPU = 0.4


@dataclass(frozen=True)
class DatasetInfo:
    """The properties of a training set that a configuration depends on; see `describe_dataset`."""

    path: str
    name: str
    size: int
    resolution: int
    channels: int
    num_classes: int  # 0 without labels


@dataclass(frozen=True)
class Dataset:
    """A training set.

    images: uint8 [N, C, R, R]. labels: int64 [N] or None. sha256: hash of pixels and labels.
    on_disk: whether the images are a memory-mapped file, which is read from disk as it is used.
    original_names: see `Source.original_names`.
    """

    name: str
    images: Tensor
    labels: Tensor | None
    sha256: str
    on_disk: bool = False
    original_names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def image(self, place: int) -> np.ndarray:
        """The image at an index, uint8 [C, R, R]."""
        return self.images[place].numpy()

    @property
    def class_sizes(self) -> dict[int, int] | None:
        """See `count_labels`."""
        return count_labels(self.labels)

    def batches(
        self, indices: Iterator[np.ndarray], device: torch.device, xflip: bool
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """For each array of indices, yield images (uint8 [B, C, R, R]) and labels (int64 [B] or None) on the device.

        The training set is copied to the device once. If it does not fit there, it stays in host memory and batches are
        copied one by one. xflip: whether indices N to 2 N - 1 denote the mirrored images.
        """
        size, home = len(self.images), device if fits(self.images, device) else self.images.device
        pixels = self.images.to(home)
        labels = None if self.labels is None else self.labels.to(home)
        for index in indices:
            place = on_device(torch.from_numpy(index), home)
            images = pixels[place % size]
            if xflip:
                images = mirrored(images, place >= size)
            own = None if labels is None else labels[place % size]
            if home != device:
                images, own = on_device(images, device), None if own is None else on_device(own, device)
            yield images, own


@dataclass(frozen=True)
class StreamedDataset:
    """Like `Dataset`, but images are decoded only when they are drawn; threads decode one batch in advance."""

    name: str
    source: Source
    labels: Tensor | None
    sha256: str
    workers: int

    def __len__(self) -> int:
        return len(self.source)

    def image(self, place: int) -> np.ndarray:
        """The image at an index, uint8 [C, R, R]."""
        return np.ascontiguousarray(self.source.read(place).transpose(2, 0, 1))

    @property
    def class_sizes(self) -> dict[int, int] | None:
        """See `count_labels`."""
        return count_labels(self.labels)

    def batches(
        self, indices: Iterator[np.ndarray], device: torch.device, xflip: bool
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        size = len(self.source)

        def fetch(index: np.ndarray, pool: ThreadPoolExecutor) -> tuple[Tensor, Tensor | None]:
            decoded = np.stack(list(pool.map(self.source.read_alike, (index % size).tolist())))
            images = torch.from_numpy(np.ascontiguousarray(decoded.transpose(0, 3, 1, 2)))
            if xflip:
                images = mirrored(images, torch.from_numpy(index >= size))
            return images, None if self.labels is None else self.labels[torch.from_numpy(index % size)]

        with ThreadPoolExecutor(self.workers) as pool, ThreadPoolExecutor(1) as ahead:
            upcoming = ahead.submit(fetch, next(indices), pool)
            for index in indices:
                images, labels = upcoming.result()
                upcoming = ahead.submit(fetch, index, pool)
                yield on_device(images, device), None if labels is None else on_device(labels, device)


def fits(images: Tensor, device: torch.device) -> bool:
    """Whether images take at most the share MOST_OF_GPU of a GPU's free memory; always true on other devices."""
    return device.type != 'cuda' or images.nbytes < MOST_OF_GPU * torch.cuda.mem_get_info(device)[0]


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """Move a CPU tensor to a device. Copies to a GPU go through pinned memory, so that the CPU does not wait."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == 'cuda' else values.to(device)


def mirrored(images: Tensor, flags: Tensor) -> Tensor:
    """Mirror the flagged images left to right. images: [B, C, H, W]. flags: bool [B]."""
    return torch.where(flags[:, None, None, None], images.flip(3), images)


def describe_dataset(path: str) -> DatasetInfo:
    """Describe a training set after reading only its list of images and its first image.

    Raises UserError if the training set is missing, damaged or empty, or if its images are not square.
    """
    source = open_source(path, 'data')
    require_square(source.where, source.shape)
    num_classes = 0 if source.labels is None else max(source.labels) + 1
    return DatasetInfo(path, source.name, len(source), source.shape[0], source.channels, num_classes)


def load_dataset(path: str, progress: bool = False, argument: str = 'data', channels: int | None = None) -> Dataset:
    """Read a complete training set.

    A training set that is large compared with this machine's memory is not read into memory but stays on disk. An .npy
    file is then used directly; other sources are decoded into an unnamed temporary file.
    argument: name of the argument that gave the path, for messages.
    channels: number of channels of the returned images, 1 or 3; None keeps the original channels. The hash is always
    computed from the original images.
    Raises UserError if a file is missing, damaged or unsafe, if images are not square or differ in size, or if the
    temporary file does not fit on disk.
    """
    source = open_source(path, argument)
    require_square(source.where, source.shape)
    channels = channels or source.channels
    shape = len(source), *source.shape[:2], channels
    on_disk = math.prod(shape) > free_bytes(torch.device('cpu')) // COPIES
    stored = getattr(source, 'images', None)
    images: np.ndarray
    if on_disk and isinstance(stored, np.memmap) and stored.shape[3] == channels:
        images, sha256 = stored, source.content_sha256(progress)
    elif on_disk:
        images, sha256 = decoded_on_disk(source, shape, progress)
    else:
        loaded = source.load(progress=progress)
        images, sha256 = with_channels(loaded, channels), content_sha256(loaded, source.labels)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
    pixels = pixels if on_disk else pixels.contiguous()
    return Dataset(source.name, pixels, labels_of(source), sha256, on_disk, source.original_names)


def decoded_on_disk(source: Source, shape: tuple[int, ...], progress: bool) -> tuple[np.ndarray, str]:
    """Decode all images into a temporary file; returns a memory map of the file, and the hash.

    shape: shape of the memory map, [N, H, W, C]; its dtype is uint8.
    The file's disk space is freed together with the memory map.
    Raises UserError if the folder for temporary files has too little space.
    """

    def written(file: IO[bytes]) -> Iterator[np.ndarray]:
        for image in source.images_in_order(progress):
            file.write(with_channels(image, shape[3]).tobytes())
            yield image

    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile() as file:
            sha256 = streamed_sha256((len(source), *source.shape), written(file), source.labels)
            file.flush()
            return np.memmap(file, np.uint8, 'c', shape=shape), sha256
    except OSError as error:
        raise UserError(
            f'{source.where}: its images do not fit in memory and need {math.prod(shape):,} bytes in {folder} '
            f'({error.strerror}); set the environment variable TMPDIR to another folder'
        ) from error


def stream_dataset(path: str, workers: int, progress: bool = False) -> StreamedDataset:
    """Open a training set that does not fit in memory, and read every image once to check it.

    workers: number of threads that decode images during training. Raises UserError if a file is missing, damaged or
    unsafe, if images are not square, or if they differ in size.
    """
    source = open_source(path, 'data')
    require_square(source.where, source.shape)
    return StreamedDataset(source.name, source, labels_of(source), source.content_sha256(progress), workers)


def require_shape(shape: Sequence[int], wanted: Sequence[int], where: str, owner: str) -> None:
    """Raise UserError if `shape`, the shape (C, H, W) of images, differs from `wanted`.

    where: name of the source of the images, for the message. owner: words that precede the wanted shape in the message,
    such as 'the network makes'.
    """
    if tuple(shape) != tuple(wanted):
        raise UserError(
            f'{where}: its images are {shape[2]}x{shape[1]} with {counted(shape[0], "channel")}, but {owner} '
            f'{wanted[2]}x{wanted[1]} with {wanted[0]}; give images of the same shape'
        )


def pixels_of(images: Tensor | np.ndarray, argument: str) -> Tensor:
    """Images as a tensor. Raises UserError unless they are uint8 [N, C, H, W] with N >= 1 and C = 1 or 3."""
    if not isinstance(images, Tensor | np.ndarray):
        raise UserError(f'`{argument}` must be an array of images, uint8 [N, C, H, W], not {type(images).__name__}')
    dtype = str(images.dtype).removeprefix('torch.')
    if dtype != 'uint8' or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise UserError(
            f'`{argument}` must be uint8 [N, C, H, W] with N >= 1 and C = 1 or 3, not {dtype} {list(images.shape)}'
        )
    # A copy if torch does not accept the array: a mirrored view, or a read-only memory map.
    return images if isinstance(images, Tensor) else torch.from_numpy(np.require(images, requirements=['C', 'W']))


def checked_labels(labels: Tensor | np.ndarray | Sequence[int] | None, count: int) -> Tensor | None:
    """Labels as int64 [count], or None. Raises UserError unless they are one integer of at least 0 for each image."""
    if labels is None:
        return None
    try:
        array = labels if isinstance(labels, Tensor) else np.asarray(labels)
    except ValueError:  # a list of lists of different lengths
        array = np.array(labels, dtype=object)
    dtype = str(getattr(array.dtype, 'name', array.dtype)).removeprefix('torch.')
    if not re.fullmatch(r'u?int\d+|bool', dtype) or array.shape != (count,):
        found = f'{dtype} {list(array.shape)}' if array.ndim else type(labels).__name__
        raise UserError(f'`labels` must be one integer for each of the {count} images, not {found}')
    # A copy of an array, because torch does not accept mirrored views or all types of integers.
    classes = array.to(torch.int64) if isinstance(array, Tensor) else torch.from_numpy(array.astype(np.int64))
    if count and (lowest := int(classes.min())) < 0:
        raise UserError(f'`labels` contains the label {lowest}; labels must be at least 0')
    return classes


def labels_of(source: Source) -> Tensor | None:
    """The labels of a source, int64 [N], or None if it has none."""
    return None if source.labels is None else torch.tensor(source.labels, dtype=torch.int64)


def count_labels(labels: Tensor | None) -> dict[int, int] | None:
    """The number of images in each class that has images, in ascending order of classes; None without labels."""
    if labels is None:
        return None
    classes, sizes = labels.unique(return_counts=True)
    return dict(zip(classes.tolist(), sizes.tolist(), strict=True))


class ImageOrder:
    """The endless sequence in which images are drawn: a shuffled order that is repeated and reshuffled gradually.

    size: number of images. seed: seed of the shuffle, taken modulo 2^31.
    window_size: length of the window for reshuffling, as a fraction of the order, in [0, 1]. Each drawn image swaps
        places with a random image from the window that precedes it; with window_size 0, the order is fixed.
    The sequence depends only on these three arguments; to resume at a position, `skip` to it.
    Source: EDM's sampler, see tests/data/sampler_order.json.
    """

    def __init__(self, size: int, seed: int, window_size: float):
        self.random = np.random.RandomState(seed % (1 << 31))
        self.order = np.arange(size)
        self.random.shuffle(self.order)
        self.window = int(np.rint(size * window_size))
        self.position = 0

    def take(self, count: int) -> np.ndarray:
        """The next `count` image indices, for all ranks combined, int64 [count]."""
        places = (self.position + np.arange(count)) % len(self.order)
        self.position += count
        if self.window < 2:
            return self.order[places]
        drawn = np.empty(count, dtype=np.int64)
        order, distances = self.order, self.random.randint(self.window, size=count)
        for k, (i, j) in enumerate(zip(places.tolist(), ((places - distances) % len(order)).tolist(), strict=True)):
            drawn[k] = order[i]
            order[i], order[j] = order[j], order[i]
        return drawn

    def skip(self, count: int) -> None:
        """Advance by `count` indices."""
        if self.window < 2:
            self.position += count
            return
        chunk = 1 << 16
        for start in range(0, count, chunk):
            self.take(min(chunk, count - start))


def to_float(images: Tensor) -> Tensor:
    """Convert 8-bit pixels to float32 in [-1, 1]."""
    return images.to(torch.float32) / 127.5 - 1
