"""Brings images to one square size by cropping, resizing and padding."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import PIL.Image

from cli.dataset_options import TRANSFORMS
from dataset_utils.sources.base import words_of
from dnnlib.util import ArgumentError

LANCZOS, BOX, BICUBIC = PIL.Image.Resampling.LANCZOS, PIL.Image.Resampling.BOX, PIL.Image.Resampling.BICUBIC
MAX_EDGE = 8192

# Maps an image (uint8 [H, W, C]) to another image; returns None to skip the image.
Transform = Callable[[np.ndarray], np.ndarray | None]


def make_transform(name: str | None, resolution: Sequence[int] | None) -> Transform | None:
    """Return the transform with this name and resolution; None if both are None.

    name: one of TRANSFORMS, or None to resize images that are already square. resolution: (width, height).
    For 'center-crop-wide', the height must be at most the width; otherwise, width and height must be equal.
    Raises ArgumentError if the name and the resolution do not fit together or are out of range.
    """
    if resolution is None:
        if name is not None:
            raise ArgumentError(f'`transform`={name} requires `resolution`=WxH, the size after cropping')
        return None
    width, height = resolution
    size = f'`resolution`={width}x{height}'
    if not all(type(edge) is int and 1 <= edge <= MAX_EDGE for edge in resolution):
        raise ArgumentError(f'{size} is out of range; give 1 to {MAX_EDGE} pixels for each side')
    if name not in (None, *TRANSFORMS):
        raise ArgumentError(f'`transform`={name} is unknown; choose one of {", ".join(TRANSFORMS)}')
    if name == 'center-crop-wide':
        if height > width:
            raise ArgumentError(f'{size} is taller than wide, but center-crop-wide makes wide images; swap the numbers')
        return partial(center_crop_wide, width=width, height=height)
    if height != width:
        raise ArgumentError(f'{size} is not square; give {width}x{width}')
    one_size = {None: resize_square, 'center-crop': center_crop, 'center-crop-dhariwal': center_crop_dhariwal}[name]
    return partial(one_size, size=width)


def resize(image: np.ndarray, width: int, height: int, resample: PIL.Image.Resampling = LANCZOS) -> np.ndarray:
    """Resize an image (uint8 [H, W, C]) with one of Pillow's filters."""
    if image.shape[:2] == (height, width):
        return image
    picture = PIL.Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.array(picture.resize((width, height), resample)).reshape(height, width, -1)


def checked_square(image: np.ndarray) -> np.ndarray:
    """Return a square image unchanged; raises ValueError for other images, because there are several ways to crop."""
    if image.shape[0] != image.shape[1]:
        raise ValueError(f'is {words_of(image.shape)}, not square')
    return image


def resize_square(image: np.ndarray, size: int) -> np.ndarray:
    """Resize a square image to size x size; raises ValueError if it is not square."""
    return resize(checked_square(image), size, size)


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Crop the largest central square, then resize it to size x size."""
    edge = min(image.shape[:2])
    return resize(_central(image, edge, edge), size, size)


def center_crop_wide(image: np.ndarray, width: int, height: int) -> np.ndarray | None:
    """Crop the largest central box with aspect ratio width : height, resize it, and center it in a black square.

    Returns uint8 [width, width, C], or None if the box would have to be enlarged.
    """
    image_height, image_width = image.shape[:2]
    box_width = min(image_width, round(image_height * width / height))
    box_height = min(image_height, round(image_width * height / width))
    if box_width < width or box_height < height:
        return None
    return pad(resize(_central(image, box_width, box_height), width, height), width)


def center_crop_dhariwal(image: np.ndarray, size: int) -> np.ndarray:
    """Scale the short side to `size` bicubically, then crop the center.

    Before scaling, the image is halved by averaging as long as both sides are at least 2 * size.
    Source: the ImageNet preprocessing of Dhariwal and Nichol 2021.
    """
    while min(image.shape[:2]) >= 2 * size:
        image = resize(image, image.shape[1] // 2, image.shape[0] // 2, BOX)
    scale = size / min(image.shape[:2])
    image = resize(image, round(image.shape[1] * scale), round(image.shape[0] * scale), BICUBIC)
    return _central(image, size, size)


def pad(image: np.ndarray, size: int) -> np.ndarray:
    """Center an image in a black square of size x size, which must be at least as large as the image."""
    height, width, channels = image.shape
    top, left = (size - height) // 2, (size - width) // 2
    canvas = np.zeros((size, size, channels), np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas


def _central(image: np.ndarray, width: int, height: int) -> np.ndarray:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
