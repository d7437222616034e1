"""Contact sheets: many images tiled in one picture."""

import math
from pathlib import Path

import PIL.Image
import torch
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from dataset_utils.png import SHEET_KEYWORD, SHEET_TEXT, is_contact_sheet
from dnnlib.util import UserError, atomic_file, require_writable

# Small images are magnified as long as the sides of the sheet and of each image stay within these limits, in pixels.
_SHEET, _LARGEST_CELL = 512, 128
_SEPARATED_FROM, _LINE = 4, '#808080'


def to_pil(image: Tensor) -> PIL.Image.Image:
    """Convert a grey or RGB image (uint8 [C, H, W]) to a Pillow image."""
    pixels = image.permute(1, 2, 0).cpu().numpy()
    return PIL.Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def contact_sheet(images: Tensor) -> PIL.Image.Image:
    """Tile images (uint8 [N, C, H, W]) row by row; the rest of the last row is black."""
    N, C, H, W = images.shape
    columns = math.ceil(math.sqrt(N))
    rows = -(-N // columns)
    full = torch.zeros([rows * columns, C, H, W], dtype=torch.uint8)
    full[:N] = images.cpu()
    sheet = full.reshape(rows, columns, C, H, W).permute(2, 0, 3, 1, 4).reshape(C, rows * H, columns * W)
    return to_pil(sheet)


def magnified_sheet(images: Tensor) -> PIL.Image.Image:
    """Like `contact_sheet`, but small images are magnified by an integer factor.

    If the factor is at least 4, grey lines over the last two pixels of each image separate it from its neighbours.
    """
    sheet = contact_sheet(images)
    factor = max(1, min(_SHEET // max(sheet.size), _LARGEST_CELL // max(images.shape[2:])))
    picture = sheet.resize((sheet.width * factor, sheet.height * factor), PIL.Image.Resampling.NEAREST)
    if factor >= _SEPARATED_FROM:
        height, width = (factor * edge for edge in images.shape[2:])
        for y in range(height, picture.height, height):
            picture.paste(_LINE, (0, y - 2, picture.width, y))
        for x in range(width, picture.width, width):
            picture.paste(_LINE, (x - 2, 0, x, picture.height))
    return picture


def require_picture(argument: str, path: Path | None, makes_folder: bool = False) -> None:
    """Raise UserError if `save_picture` must not write here; it only replaces pictures that it has written.

    makes_folder: whether the folder is made if needed.
    """
    require_writable(argument, path, '.png', makes_folder)
    if path is not None and path.is_file():
        with open(path, 'rb') as file:
            if not is_contact_sheet(file.read(1 << 10)):
                raise UserError(f'`{argument}`={path} is an image from another source; name another file')


def save_picture(path: Path, picture: PIL.Image.Image) -> None:
    """Write a PNG atomically, and create its folder. The PNG carries a mark, so that data set readers skip it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = PngInfo()
    mark.add_text(SHEET_KEYWORD, SHEET_TEXT)
    with atomic_file(path) as file:
        picture.save(file, format='PNG', pnginfo=mark)
