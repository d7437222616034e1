"""Sets of generated images: read from any source, and resized to the images of the training set.

An `.npy` stays on disk and is read block by block.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from dataset_utils import Reading, Source, open_source
from dataset_utils.sources.arrays import FloatRange, NumpySource, is_numpy_name
from dataset_utils.sources.base import words_of
from dataset_utils.transforms import resize
from dnnlib.util import UserError
from evaluation.evaluation_options import FILTERS
from training.sampling import GeneratedBatch

RESAMPLING = {name: PIL.Image.Resampling[name.upper()] for name in FILTERS}


@dataclass(frozen=True)
class ImageSet:
    """A generated set. pixels: uint8 [N, C, H, W], possibly a memory map.

    name: as in records. where: the argument and path that named it, for messages. name_of: the file, seed or position
    of each image. seeds: of all images, or None if they were not generated here. classes: int64 [N], the class that
    each image was generated for, -1 without one; or None. resized: the filter and both sizes if the images were
    resized, or None.
    """

    name: str
    where: str
    pixels: np.ndarray
    name_of: Callable[[int], str] = str
    seeds: list[int] | None = None
    classes: torch.Tensor | None = None
    resized: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, batches: Sequence[Sequence[int]]) -> Iterator[GeneratedBatch]:
        """Yield the images of each batch of positions, as a generator yields the images of seeds."""
        for places in batches:
            yield GeneratedBatch(list(places), torch.from_numpy(self.pixels[list(places)]))


def generated_set(
    name: str, where: str, seeds: list[int], images: torch.Tensor, classes: torch.Tensor | None = None
) -> ImageSet:
    """The images of seeds, uint8 [N, C, H, W]; each is named after its seed."""
    return ImageSet(name, where, images.numpy(), lambda place: str(seeds[place]), seeds, classes)


def read_images(
    path: str,
    argument: str,
    float_range: FloatRange | None = None,
    reading: Reading | None = None,
    progress: bool = False,
) -> ImageSet:
    """Read a folder, an archive, an .npz or .npy, or any other source of images.

    float_range: the values of black and white in an array of floats, such as (-1, 1); None refuses floats.
    reading: the channels to convert the images to. Raises UserError if images cannot be read or differ in size.
    """
    source = open_images(path, argument, float_range, reading)
    pixels = source.load(progress=progress).transpose(0, 3, 1, 2)
    name_of = str if isinstance(source, NumpySource) else source.describe
    return ImageSet(Path(path).name or source.file_name, source.where, pixels, name_of)


def open_images(
    path: str, argument: str, float_range: FloatRange | None = None, reading: Reading | None = None
) -> Source:
    """Like `open_source`, but opens arrays of floats as well."""
    if float_range is not None and is_numpy_name(path) and Path(path).is_file():
        return NumpySource(path, argument, reading, float_range)
    return open_source(path, argument, reading)


def fitted(images: ImageSet, shape: Sequence[int], training_set: str, filter_name: str | None) -> ImageSet:
    """The images in the shape (C, H, W) of the training images, resized by one of `FILTERS` if necessary.

    training_set: the argument and path of the training set, for messages. filter_name: None accepts no other size.
    Raises UserError for another size without a filter, and for another aspect ratio.
    """
    own, wanted = _words(images.pixels.shape[1:]), _words(shape)
    both = f'{images.where}: its images are {own}, but images of {training_set} are {wanted}'
    if images.pixels.shape[2:] == tuple(shape[1:]):
        return images
    if filter_name is None:
        raise UserError(f'{both}; choose a filter to resize them with: `resize`={"|".join(FILTERS)}')
    height, width = images.pixels.shape[2:]
    if height * shape[2] != width * shape[1]:
        raise UserError(f'{both}; resizing would distort them, crop them first with dataset_tool.py')
    small = np.empty((len(images), *shape), np.uint8)
    for place, image in enumerate(images.pixels):
        hwc = np.ascontiguousarray(image.transpose(1, 2, 0))
        small[place] = resize(hwc, shape[2], shape[1], RESAMPLING[filter_name]).transpose(2, 0, 1)
    resized = {'filter': filter_name, 'from': [height, width], 'to': list(shape[1:])}
    return replace(images, pixels=small, resized=resized)


def _words(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return words_of((height, width, channels))
