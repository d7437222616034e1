"""Sets of generated images, read from any source and resized to match the training images.

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
from dataset_utils.sources.base import ArraySource, words_of
from dataset_utils.transforms import resize
from dnnlib.util import UserError
from evaluation.evaluation_options import FILTERS
from training.sampling import GeneratedBatch

RESAMPLING = {name: PIL.Image.Resampling[name.upper()] for name in FILTERS}


@dataclass(frozen=True)
class ImageSet:
    """A generated set. pixels: uint8 [N, C, H, W], possibly a memory map.

    name: the set's name in records. where: the argument and path that gave the set, for messages. name_of: maps an
    image's position to its name (a file, a seed, or the position). seeds: the seeds of all images, or None if they were
    generated elsewhere. classes: the class each image was generated for (-1 if none), int64 [N], or None. resized: the
    filter, and the image sizes before and after resizing; None if the images were not resized. was_float: whether the
    images were read from an array of floats.
    """

    name: str
    where: str
    pixels: np.ndarray
    name_of: Callable[[int], str] = str
    seeds: list[int] | None = None
    classes: torch.Tensor | None = None
    resized: dict[str, Any] | None = None
    was_float: bool = False

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, batches: Sequence[Sequence[int]]) -> Iterator[GeneratedBatch]:
        """Yield the images at each batch of positions (`Generator.generate` takes seeds instead)."""
        for places in batches:
            yield GeneratedBatch(list(places), torch.from_numpy(self.pixels[list(places)]))


def generated_set(
    name: str, where: str, seeds: list[int], images: torch.Tensor, classes: torch.Tensor | None = None
) -> ImageSet:
    """Make a set from images, uint8 [N, C, H, W]; each image is named after its seed."""
    return ImageSet(name, where, images.numpy(), lambda place: str(seeds[place]), seeds, classes)


def read_images(
    path: str,
    argument: str,
    float_range: FloatRange | None = None,
    reading: Reading | None = None,
    progress: bool = False,
) -> ImageSet:
    """Read a folder, an archive, an .npz or .npy, or any other source of images.

    float_range: the values for black and white in a floating-point array, such as (-1, 1); if None, such arrays are
    refused. reading: how to read images, such as the channels to convert them to. Raises UserError if images cannot be
    read or differ in size.
    """
    source = open_images(path, argument, float_range, reading)
    return _named(path, source, source.load(progress=progress).transpose(0, 3, 1, 2))


def open_images(
    path: str, argument: str, float_range: FloatRange | None = None, reading: Reading | None = None
) -> Source:
    """Like `open_source`, but also opens floating-point arrays."""
    if float_range is not None and is_numpy_name(path) and Path(path).is_file():
        return NumpySource(path, argument, reading, float_range)
    return open_source(path, argument, reading)


def is_float(source: Source) -> bool:
    return isinstance(source, NumpySource) and source.is_float


def read_fitted(
    path: str,
    argument: str,
    shape: Sequence[int],
    training_set: str,
    filter_name: str | None,
    float_range: FloatRange | None = None,
    progress: bool = False,
) -> ImageSet:
    """Like `read_images`, but fit the images to the training images' shape (C, H, W), resizing them with a filter.

    training_set: the argument and path of the training set, for messages. filter_name: one of `FILTERS`, or None.
    Raises UserError if the size differs and no filter is given, or if the aspect ratio differs.
    """
    channels, height, width = shape
    reading, wanted = Reading(channels=channels), f'images of {training_set} are {words_of((height, width, channels))}'
    source = open_images(path, argument, float_range, reading)
    if isinstance(source, ArraySource) and source.shape[:2] == (height, width):
        return read_images(path, argument, float_range, reading, progress)
    pixels, sizes = np.empty((len(source), *shape), np.uint8), set()
    for place, image in enumerate(source.images_in_order(progress, alike=False)):
        if filter_name is None and image.shape[:2] != (height, width):
            raise UserError(
                f'{source.where}: {source.describe(place)} is {words_of(image.shape)}, but {wanted}; choose a filter '
                f'to resize them: `resize`={"|".join(FILTERS)}'
            )
        if image.shape[0] * width != image.shape[1] * height:
            raise UserError(
                f'{source.where}: {source.describe(place)} is {words_of(image.shape)}, but {wanted}; resizing would '
                f'distort it, so crop it first with dataset_tool.py'
            )
        sizes.add(image.shape[:2])
        if filter_name is not None:
            image = resize(image, width, height, RESAMPLING[filter_name])
        pixels[place] = image.transpose(2, 0, 1)
    former = sorted(map(list, sizes))
    resized = {'filter': filter_name, 'from': former if len(former) > 1 else former[0], 'to': [height, width]}
    return replace(_named(path, source, pixels), resized=None if sizes == {(height, width)} else resized)


def _named(path: str, source: Source, pixels: np.ndarray) -> ImageSet:
    name_of = str if isinstance(source, NumpySource) else source.describe
    name = Path(path).name or source.file_name
    return ImageSet(name, source.where, pixels, name_of, was_float=is_float(source))
