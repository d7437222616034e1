"""Decode image files that may come from strangers: bounded, without warnings, one sentence when it fails."""

import io
import warnings

import numpy as np
import PIL.Image

from dataset_utils.png import decode_png
from dataset_utils.sources.base import shown
from dnnlib.util import UserError

FORMATS = {
    '.png': 'PNG',
    '.jpg': 'JPEG',
    '.jpeg': 'JPEG',
    '.bmp': 'BMP',
    '.webp': 'WEBP',
    '.ppm': 'PPM',
    '.pgm': 'PPM',
    '.tif': 'TIFF',
    '.tiff': 'TIFF',
}
MAX_FILE_BYTES = 1 << 28
GREY_MODES = ('1', 'L', 'LA', 'La')
SIXTEEN_BIT_MODES = ('I;16', 'I;16B', 'I;16L', 'I;16N')
COLOUR_MODES = ('RGB', 'RGBA', 'RGBa', 'RGBX', 'P', 'PA', 'CMYK', 'YCbCr', 'LAB', 'HSV')

MAX_PIXELS = 1 << 26

# Sizes between Pillow's two limits only give a warning there, and are refused here.
warnings.filterwarnings('ignore', category=PIL.Image.DecompressionBombWarning)


def is_image_name(name: str) -> bool:
    """Tell by its extension whether a file is an image of a format that is read here."""
    return extension_of(name) in FORMATS


def extension_of(name: str) -> str:
    """Return the extension in lower case, with its dot."""
    return '.' + name.rpartition('.')[2].lower()


def decode_image(data: bytes, where: str, name: str) -> np.ndarray:
    """Decode an image file: uint8 [H, W, C], C being 1 for grey and 3 for RGB.

    data: the file's bytes. where, name: the source and the file's name in it, for messages.
    Palette, CMYK and other colour spaces become RGB, transparency is dropped, and 16 bits become 8.
    Raises UserError.
    """
    stored = decode_png(data)
    if stored is not None:
        return stored
    format_name = FORMATS[extension_of(name)]
    try:
        # A .png that holds a JPEG is common and harmless, so the extension does not choose the decoder.
        with PIL.Image.open(io.BytesIO(data), formats=tuple(dict.fromkeys(FORMATS.values()))) as image:
            return _to_array(image)
    except UnsupportedModeError as error:
        raise UserError(f'{where}: {shown(name)} {error}; convert it to an 8-bit RGB or grey PNG') from error
    except PIL.Image.DecompressionBombError as error:
        raise UserError(
            f'{where}: {shown(name)} claims more than {MAX_PIXELS} pixels; remove it or scale it down'
        ) from error
    except Exception as error:  # decoders meet a broken file with nearly any exception
        raise UserError(
            f'{where}: {shown(name)} is not a readable {format_name} ({_reason(error, data)}); '
            f'replace it, or make the archive again with dataset_tool.py'
        ) from error


class UnsupportedModeError(ValueError):
    """Pixels that have no obvious meaning in 8 bits."""


def _to_array(image: PIL.Image.Image) -> np.ndarray:
    if image.width * image.height > MAX_PIXELS:
        raise PIL.Image.DecompressionBombError
    image.info.pop('transparency', None)  # else Pillow warns that a palette's transparency is lost
    if image.mode in SIXTEEN_BIT_MODES:
        return ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)[..., np.newaxis]
    if image.mode in GREY_MODES:
        return np.array(image if image.mode == 'L' else image.convert('L'))[..., np.newaxis]
    if image.mode in COLOUR_MODES:
        return np.array(image if image.mode == 'RGB' else image.convert('RGB'))
    raise UnsupportedModeError(f'has pixels of the kind {image.mode}')


def _reason(error: Exception, data: bytes) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return 'no known image format'
    if 'truncated' in str(error).lower():
        return f'truncated after {len(data)} bytes'
    return shown(str(error)) or type(error).__name__
