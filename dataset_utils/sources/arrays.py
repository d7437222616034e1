"""Images in a NumPy array: an `.npz` file (like OpenAI's samples) or an `.npy` file (which stays on disk)."""

import math
import os
import zipfile

import numpy as np
import psutil

from dataset_utils.sources.base import MAX_LABEL, ArraySource, Reading, unreadable, with_channels
from dnnlib.util import UserError, has_argument

IMAGES_NAMES = ('images', 'arr_0')
LABELS_NAMES = ('labels', 'arr_1')
CHANNELS = (1, 3)
PART = 256  # number of float images that are converted to 8 bits at a time

FloatRange = tuple[float, float]


class NumpySource(ArraySource):
    """An array of images: uint8 [N, H, W, C] or uint8 [N, C, H, W]. If both are possible, the first is assumed.

    An .npy file is memory-mapped, so only the images that are used are read. In an .npz file, the images are the array
    `images` or `arr_0`. The labels are the array `labels` or `arr_1` if it contains N whole numbers.
    float_range: the values of black and white in an array of floats, such as (-1, 1); None refuses arrays of floats.
    is_float: whether the array has floats, which are converted to 8-bit values.
    Raises UserError if the file is damaged or the array is unsuitable.
    """

    def __init__(
        self,
        path: str,
        argument: str = '',
        reading: Reading | None = None,
        float_range: FloatRange | None = None,
    ):
        self.float_range = float_range
        super().__init__(path, argument, reading)

    def _open(self) -> None:
        kind = '.npz' if is_npz(self.path) else '.npy'
        with unreadable(f'{self.where} is not a readable {kind} file', 'save the images again with NumPy'):
            name, array, labels = self._read_npz() if is_npz(self.path) else ('the array is ', self._map_npy(), None)
        self._check(name, array)
        self.labels = labels if labels is not None and len(labels) == len(array) else None
        self.is_float = array.dtype.kind == 'f'
        array = array if array.shape[3] in CHANNELS else array.transpose(0, 2, 3, 1)  # [N, H, W, C]
        self.images = self._to_uint8(array) if self.is_float else array

    def load(self, progress: bool = False) -> np.ndarray:
        # The array is not copied, because a mapped file can be larger than memory. Changes are not written to the file.
        return with_channels(self.images, self.channels)

    def __reduce__(self):
        return NumpySource, (self.path, self.argument, self.reading, self.float_range)

    def _map_npy(self) -> np.ndarray:
        try:
            return np.load(self.path, mmap_mode='c', allow_pickle=False)
        except OSError:  # Linux refuses a writable mapping that is larger than memory
            return np.load(self.path, mmap_mode='r', allow_pickle=False)

    def _read_npz(self) -> tuple[str, np.ndarray, list[int] | None]:
        with zipfile.ZipFile(self.path) as archive:  # a few megabytes can unpack to several gigabytes
            claimed = max((info.file_size for info in archive.infolist()), default=0)
        if claimed > psutil.virtual_memory().available:
            raise UserError(
                f'{self.where} unpacks to {claimed >> 20} MiB, which is more than the free memory; '
                f'save the images as an .npy file, which is read piece by piece'
            )
        with np.load(self.path, allow_pickle=False) as data:
            name = next((name for name in IMAGES_NAMES if name in data), None)
            if name is None:
                raise UserError(
                    f'{self.where} has no array named {" or ".join(IMAGES_NAMES)}; give the images one of these names'
                )
            labels = next((data[name] for name in LABELS_NAMES if name in data), None)
            return f'{name} is ', data[name], _whole_numbers(labels)

    def _check(self, name: str, array: np.ndarray) -> None:
        is_float = array.dtype.kind == 'f'
        fits = array.ndim == 4 and len(array) and math.prod(array.shape) and {array.shape[1], array.shape[3]} & {1, 3}
        if not fits or not (array.dtype == np.uint8 or is_float):
            raise UserError(
                f'{self.where}: {name}{array.dtype} {list(array.shape)}, but must be uint8 [N, H, W, C] or '
                f'[N, C, H, W] with 1 or 3 channels'
            )
        if is_float and self.float_range is None:
            can_convert = self.argument in ('', 'images') and has_argument('float_range')
            remedy = ', or give the values of black and white in `float_range`' * can_convert
            raise UserError(f'{self.where}: {name}{array.dtype}, but must be uint8; save the images as uint8{remedy}')

    def _to_uint8(self, array: np.ndarray) -> np.ndarray:
        """Map floats in `float_range` linearly to 8-bit values from 0 to 255; halves are rounded up."""
        assert self.float_range is not None
        low, high = self.float_range
        images = np.empty(array.shape, np.uint8)
        for start in range(0, len(array), PART):
            part = array[start : start + PART].astype(np.float64)
            outside = ~((part >= low) & (part <= high))
            if outside.any():
                place = tuple(np.argwhere(outside)[0])
                raise UserError(
                    f'{self.where}: image {start + int(place[0])} has the value {part[place]:g}, outside '
                    f"`float_range`={low:g},{high:g}; give the images' actual range"
                )
            images[start : start + PART] = (part - low) * (255 / (high - low)) + 0.5
        return images


def is_npz(path: str | os.PathLike) -> bool:
    return os.fspath(path).lower().endswith('.npz')


def is_numpy_name(path: str | os.PathLike) -> bool:
    return os.fspath(path).lower().endswith(('.npz', '.npy'))


def _whole_numbers(labels: np.ndarray | None) -> list[int] | None:
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in 'iu' or not len(labels):
        return None
    return labels.tolist() if labels.min() >= 0 and labels.max() <= MAX_LABEL else None
