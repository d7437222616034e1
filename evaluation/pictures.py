"""Images on disk: one PNG per generated image, and galleries with the nearest training images."""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch
from torch import Tensor

from evaluation.memorization import Memorization, closest_places, spread_places
from training.contact_sheets import to_pil

IMAGES_PER_FOLDER = 1000
# Number of images in each section of a gallery.
GALLERY_ROWS = 24
IMAGES_PER_ROW = 12
# Gallery layout in pixels: image edge, frame width, gap, line height, font size.
_CELL, _FRAME, _GAP, _LINE, _FONT = 64, 3, 12, 17, 13
_COPY_COLOR, _PLAIN_COLOR, _INK = (200, 30, 30), (225, 225, 225), (40, 40, 40)


def image_path(outdir: Path, seed: int, subdirs: bool) -> Path:
    """The path of a seed's image; with `subdirs`, every thousand images share a folder."""
    folder = outdir / f'{seed - seed % IMAGES_PER_FOLDER:06d}' if subdirs else outdir
    return folder / f'{seed:06d}.png'


def save_images(images: Tensor, seeds: Sequence[int], outdir: Path, subdirs: bool) -> None:
    """Write images, uint8 [B, C, H, W], as PNGs named after their seeds."""
    for image, seed in zip(images.cpu(), seeds, strict=True):
        path = image_path(outdir, seed, subdirs)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(path, to_pil(image))


def save_png(path: Path, picture: PIL.Image.Image) -> None:
    """Write a PNG to a temporary file and rename it, so that a killed process leaves no incomplete file at `path`.

    To save time, the data is not flushed to disk first, so a power failure can leave an incomplete file.
    """
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
    """Read a grey or RGB picture as uint8 [C, H, W]."""
    with PIL.Image.open(path) as picture:
        pixels = torch.from_numpy(np.array(picture))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def shown_rows(result: Memorization, count: int = GALLERY_ROWS) -> dict[str, list[int]]:
    """The positions of the images in each section of a gallery, by section title.

    One section is an even sample of the images; the other one shows the images closest to the copy threshold.
    """
    sample = spread_places(len(result.memorized), count)
    closest = closest_places(result.squared_distances, count)
    return {f'{len(sample)} images spread evenly over the set': sample.tolist(),
            f'The {len(closest)} images closest to the copy threshold': closest.tolist()}  # fmt: skip


def draw_gallery(images: Tensor, result: Memorization, training: Tensor, name: str) -> PIL.Image.Image:
    """Draw generated images next to their two nearest training images; copies have a red frame.

    A training image whose mirror image is nearer is shown mirrored, and its caption reports this.
    images: the generated set, uint8 [N, C, H, W]. result: the set's memorization. training: the training images, uint8
    [M, C, H, W]. name: the generated set's name.
    """
    distances = rms_per_pixel(result.squared_distances, images[0].numel())

    def entry(row: int) -> GalleryEntry:
        shown, captions = [images[row]], [f'\nd1 {distances[row, 0]:.1f}   d2 {distances[row, 1]:.1f}']
        for index, squared in zip(result.indices[row].tolist(), result.squared_distances[row].tolist(), strict=True):
            mirrored = is_mirrored(images[row], training[index], squared)
            shown.append(training[index].flip(-1) if mirrored else training[index])
            captions.append(f'#{index}' + '\n\nmirrored' * mirrored)
        return GalleryEntry(shown, captions, bool(result.memorized[row]))

    low, high = (100 * bound for bound in result.interval)
    share = f'{100 * result.ratio:.2f} % of {len(images)} images are copies (95 % interval {low:.2f} to {high:.2f} %)'
    lines = [
        f'{name if len(name) <= 50 else name[:47] + "..."}: {share}',
        'd1, d2: root mean square distance per pixel to the nearest and second nearest training',
        'image, in grey levels. Red frame: a copy, d1 < d2 / 3. #: position in the training set.',
    ]
    sections = {title: list(map(entry, rows)) for title, rows in shown_rows(result).items()}
    return draw_entries(lines, sections, ('generated', 'nearest', 'second'))


def is_mirrored(image: Tensor, training_image: Tensor, squared_distance: int) -> bool:
    """Whether the distance from an image to a training image is the distance to its mirror image.

    image, training_image: uint8 [C, H, W]. squared_distance: in squared pixel levels.
    """
    return int((image.long() - training_image).square().sum()) > squared_distance


@dataclass(frozen=True)
class GalleryEntry:
    """Images shown side by side in one frame.

    images: uint8 [C, H, W] each. captions: the text below each image; the last images can be without text. is_marked:
    whether the frame is red.
    """

    images: Sequence[Tensor]
    captions: Sequence[str]
    is_marked: bool = False


def draw_entries(
    lines: Sequence[str],
    sections: Mapping[str, Sequence[GalleryEntry]],
    heads: Sequence[str],
    num_images: int = IMAGES_PER_ROW,
) -> PIL.Image.Image:
    """Draw lines of text and, below them, each section's entries, with several entries per row.

    sections: entries by section title, at least one entry in total. heads: labels above the images of each entry.
    num_images: number of images per row.
    """
    height, width = next(entry for entries in sections.values() for entry in entries).images[0].shape[1:]
    edge, per_row = max(height, width), num_images // len(heads)
    head_lines = 1 + max(head.count('\n') for head in heads)
    cell = max(1, _CELL // edge) * edge if edge <= _CELL else _CELL
    captions = [caption for entries in sections.values() for entry in entries for caption in entry.captions]
    caption_height = (1 + max(caption.count('\n') for caption in captions)) * _LINE
    entry_width, entry_height = len(heads) * (cell + _FRAME) + _FRAME, cell + 2 * _FRAME + caption_height
    num_rows = sum(-(-len(entries) // per_row) for entries in sections.values())
    above = len(sections) * ((1 + head_lines) * _LINE + 2 * _GAP)
    size = per_row * (entry_width + _GAP) + _GAP, _GAP + len(lines) * _LINE + above + num_rows * (entry_height + _GAP)
    picture = PIL.Image.new('RGB', size, 'white')
    draw, font = PIL.ImageDraw.Draw(picture), PIL.ImageFont.load_default(_FONT)

    def write(x: int, y: int, text: str) -> None:
        draw.text((x, y), text, fill=_INK, font=font)

    for number, line in enumerate(lines):
        write(_GAP, _GAP + number * _LINE, line)
    y = _GAP + len(lines) * _LINE
    for title, entries in sections.items():
        write(_GAP, y + _GAP, title)
        y += 2 * _GAP + _LINE
        for column in range(min(per_row, len(entries))):
            for place, head in enumerate(heads):
                write(_GAP + column * (entry_width + _GAP) + _FRAME + place * (cell + _FRAME), y, head)
        y += head_lines * _LINE
        for number, entry in enumerate(entries):
            x, top = _GAP + number % per_row * (entry_width + _GAP), y + number // per_row * (entry_height + _GAP)
            color = _COPY_COLOR if entry.is_marked else _PLAIN_COLOR
            draw.rectangle([x, top, x + entry_width - 1, top + cell + 2 * _FRAME - 1], fill=color)
            for side, pixels in enumerate(entry.images):
                picture.paste(_resized(pixels, cell), (x + _FRAME + side * (cell + _FRAME), top + _FRAME))
            for side, caption in enumerate(entry.captions):
                write(x + side * (cell + _FRAME), top + cell + 2 * _FRAME, caption)
        y += -(-len(entries) // per_row) * (entry_height + _GAP)
    return picture


def _resized(pixels: Tensor, cell: int) -> PIL.Image.Image:
    enlarged = max(pixels.shape[1:]) <= cell
    resample = PIL.Image.Resampling.NEAREST if enlarged else PIL.Image.Resampling.LANCZOS
    return to_pil(pixels).convert('RGB').resize((cell, cell), resample)


def rms_per_pixel(squared_distances: Tensor, num_pixels: int) -> np.ndarray:
    """Convert squared pixel distances to root mean squares per pixel, in grey levels: int64 […] -> float64 […]."""
    return (squared_distances.double() / num_pixels).sqrt().numpy()
