"""Generated images on disk: one PNG per seed, contact sheets, and galleries beside the nearest training images."""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import torch
from torch import Tensor

from dnnlib.util import atomic_file
from evaluation.memorization import Memorization

IMAGES_PER_FOLDER = 1000
GALLERY_SIZE = 48
# Sides of an image and widths of lines in a gallery, in pixels.
_CELL, _FRAME, _GAP, _TEXT_HEIGHT = 64, 3, 10, 14
_COPY_COLOR, _PLAIN_COLOR = (200, 30, 30), (225, 225, 225)


def image_path(outdir: Path, seed: int, subdirs: bool) -> Path:
    """Where the image of a seed is saved; with subdirs, a thousand images share a folder."""
    folder = outdir / f'{seed - seed % IMAGES_PER_FOLDER:06d}' if subdirs else outdir
    return folder / f'{seed:06d}.png'


def save_images(images: Tensor, seeds: Sequence[int], outdir: Path, subdirs: bool) -> None:
    """Write uint8 [B, C, H, W] as PNGs named after their seeds."""
    for image, seed in zip(images.cpu(), seeds, strict=True):
        path = image_path(outdir, seed, subdirs)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(path, to_pil(image))


def save_png(path: Path, picture: PIL.Image.Image) -> None:
    """Write a picture whole or not at all, without waiting for the disk."""
    data = io.BytesIO()
    picture.save(data, format='PNG')
    partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
    try:
        partial.write_bytes(data.getvalue())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_png(path: Path) -> Tensor:
    """A grey or RGB picture as uint8 [C, H, W]."""
    with PIL.Image.open(path) as picture:
        pixels = torch.from_numpy(np.array(picture))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def to_pil(image: Tensor) -> PIL.Image.Image:
    """uint8 [C, H, W], grey or RGB, as a picture."""
    pixels = image.permute(1, 2, 0).cpu().numpy()
    return PIL.Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def contact_sheet(images: Tensor, columns: int | None = None) -> PIL.Image.Image:
    """All images uint8 [N, C, H, W] side by side, row after row, black where the last row is not full."""
    N, C, H, W = images.shape
    columns = columns or math.ceil(math.sqrt(N))
    rows = -(-N // columns)
    full = torch.zeros([rows * columns, C, H, W], dtype=torch.uint8)
    full[:N] = images.cpu()
    sheet = full.reshape(rows, columns, C, H, W).permute(2, 0, 3, 1, 4).reshape(C, rows * H, columns * W)
    return to_pil(sheet)


def save_contact_sheet(path: Path, images: Tensor) -> None:
    """Write `contact_sheet` as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        contact_sheet(images).save(file, format='PNG')


def gallery(
    images: Tensor, nearest: Tensor, distances: Sequence[float], memorized: Sequence[bool], pairs_per_row: int = 6
) -> PIL.Image.Image:
    """Pairs of a generated image (left) and its nearest training image (right), copies in a red frame.

    images, nearest: uint8 [N, C, H, W]. distances: written under each pair, root mean square per pixel in pixel levels.
    """
    pair_width, pair_height = 2 * _CELL + 3 * _FRAME, _CELL + 2 * _FRAME + _TEXT_HEIGHT
    rows = -(-len(images) // pairs_per_row)
    size = pairs_per_row * (pair_width + _GAP) + _GAP, rows * (pair_height + _GAP) + _GAP
    picture = PIL.Image.new('RGB', size, 'white')
    draw = PIL.ImageDraw.Draw(picture)
    for place, (image, neighbor) in enumerate(zip(images, nearest, strict=True)):
        x = _GAP + place % pairs_per_row * (pair_width + _GAP)
        y = _GAP + place // pairs_per_row * (pair_height + _GAP)
        color = _COPY_COLOR if memorized[place] else _PLAIN_COLOR
        draw.rectangle([x, y, x + pair_width - 1, y + _CELL + 2 * _FRAME - 1], fill=color)
        for side, pixels in enumerate((image, neighbor)):
            cell = to_pil(pixels).convert('RGB').resize((_CELL, _CELL), PIL.Image.Resampling.NEAREST)
            picture.paste(cell, (x + _FRAME + side * (_CELL + _FRAME), y + _FRAME))
        text = f'copy, rms {distances[place]:.1f}' if memorized[place] else f'rms {distances[place]:.1f}'
        draw.text((x, y + _CELL + 2 * _FRAME + 1), text, fill=(60, 60, 60))
    return picture


def save_gallery(path: Path, images: np.ndarray, result: Memorization, training: Tensor) -> None:
    """Write a gallery of the first images, uint8 [N, C, H, W], with what was found of them among training images."""
    shown = torch.from_numpy(images[:GALLERY_SIZE])
    nearest = training[result.indices[: len(shown), 0]]
    distances = rms_per_pixel(result.squared_distances[: len(shown), 0], training[0].numel())
    picture = gallery(shown, nearest, distances.tolist(), result.memorized.tolist())
    with atomic_file(path) as file:
        picture.save(file, format='PNG')


def rms_per_pixel(squared_distances: Tensor, num_pixels: int) -> np.ndarray:
    """Squared pixel distances int64 [N] as root mean squares per pixel, float64 [N], in pixel levels."""
    return (squared_distances.double() / num_pixels).sqrt().numpy()
