"""Decodes untrusted image files, with limits on their size, no warnings, and one-sentence errors."""

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from dataset_utils.png import SIGNATURE, decode_png, is_deep_png, png_has_colour
from dataset_utils.sources.base import printable
from dnnlib.util import UserError

_EXTENSIONS = {
    'PNG': '.png .apng',
    'JPEG': '.jpg .jpeg .jpe .jfif .jif',
    'BMP': '.bmp',
    'DIB': '.dib',
    'WEBP': '.webp',
    'PPM': '.ppm .pgm .pbm .pnm',
    'TIFF': '.tif .tiff',
    'GIF': '.gif',
    'AVIF': '.avif',
    'JPEG2000': '.jp2 .j2k .j2c .jpc .jpx .jpf',
    'QOI': '.qoi',
    'SGI': '.sgi',
    'PCX': '.pcx',
    'TGA': '.tga',
}
FORMATS = {extension: name for name, extensions in _EXTENSIONS.items() for extension in extensions.split()}
# The four formats below have no signature at the start of the file, so each is tried only if the extension matches.
_IDENTIFIED = tuple(name for name in _EXTENSIONS if name not in ('DIB', 'SGI', 'PCX', 'TGA'))
MAX_FILE_BYTES = 1 << 28
GREY_MODES = ('1', 'L', 'LA', 'La')
SIXTEEN_BIT_MODES = ('I;16', 'I;16B', 'I;16L', 'I;16N')
COLOUR_MODES = ('RGB', 'RGBA', 'RGBa', 'RGBX', 'P', 'PA', 'CMYK', 'YCbCr', 'LAB', 'HSV')
TIFF_BITS, TIFF_LARGEST = 258, (341, 281)  # tags BitsPerSample, SMaxSampleValue and MaxSampleValue
EXIF_ORIENTATION, UPRIGHT = 274, 1
WHITE = 65535

MAX_PIXELS = 1 << 26

# Pillow has two size limits, and only warns about sizes between them; `_decode` refuses such images instead.
warnings.filterwarnings('ignore', category=PIL.Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Decoded:
    """A decoded image, with properties that might surprise the user.

    pixels: uint8 [H, W, C]. is_turned: whether the file has an EXIF orientation that was not applied.
    is_animated: whether the file has more than one frame. is_transparent: whether a pixel is not opaque.
    largest: largest value of a 16-bit image, at most 65535. None for an 8-bit image, and for a TIFF file that states
    which value is white.
    """

    pixels: np.ndarray
    is_turned: bool = False
    is_animated: bool = False
    largest: int | None = None
    is_transparent: bool = False


def is_image_name(name: str) -> bool:
    """Return whether a file has the extension of a supported image format."""
    return extension_of(name) in FORMATS


def is_heic_name(name: str) -> bool:
    """Return whether a file has an extension of HEIC, a format of phone cameras that Pillow cannot read."""
    return extension_of(name) in ('.heic', '.heif', '.hif')


def extension_of(name: str) -> str:
    """Return the extension in lower case, including the dot."""
    return '.' + name.rpartition('.')[2].lower()


def has_colour(data: bytes) -> bool:
    """Return whether an image file will be decoded as RGB, according to its header; False if it is damaged."""
    if data.startswith(SIGNATURE):
        return png_has_colour(data)
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            return image.mode in COLOUR_MODES
    except Exception:  # a damaged file can cause nearly any exception
        return False


def decode_image(data: bytes, where: str, name: str, exif_transpose: bool = False) -> Decoded:
    """Decode an image file to uint8 [H, W, C], with C = 1 for grey and C = 3 for RGB.

    data: the file's bytes. name: the file's name. where: how messages name the folder or archive with the file.
    exif_transpose: whether to rotate the image by its EXIF orientation.
    Palettes, CMYK and other colour spaces are converted to RGB, transparency is dropped, and 16-bit values are scaled
    to 8 bits.
    Raises UserError if the file is not a readable image or is too large.
    """
    stored = decode_png(data)
    if stored is not None:
        return Decoded(stored)
    own, name = FORMATS[extension_of(name)], f'{where}: {printable(name)}'
    try:
        # A .png file that contains a JPEG is common and harmless, so the decoder is not chosen by the extension.
        with PIL.Image.open(io.BytesIO(data), formats=(*_IDENTIFIED, own)) as image:
            return _decode(image, data, exif_transpose)
    except PIL.Image.DecompressionBombError as error:
        raise UserError(f'{name} has more than {MAX_PIXELS} pixels; remove it or scale it down') from error
    except Exception as error:  # a damaged file can cause nearly any exception
        raise UserError(f'{name} is not a readable {own} ({_reason(error, data)}); replace or remove it') from error


def _decode(image: PIL.Image.Image, data: bytes, exif_transpose: bool) -> Decoded:
    if image.width * image.height > MAX_PIXELS:
        raise PIL.Image.DecompressionBombError
    # An MPO file has several frames, but is a photograph with a preview.
    is_animated = image.format != 'MPO' and getattr(image, 'is_animated', False)
    image.load()
    is_turned = image.getexif().get(EXIF_ORIENTATION, UPRIGHT) in range(UPRIGHT + 1, 9)
    if is_turned and exif_transpose:
        image = PIL.ImageOps.exif_transpose(image)
    is_transparent = image.has_transparency_data and bool((np.asarray(image.convert('RGBA'))[..., 3] < 255).any())
    pixels, largest = _to_array(image, is_deep_png(data))
    return Decoded(pixels, is_turned and not exif_transpose, is_animated, largest, is_transparent)


def _to_array(image: PIL.Image.Image, is_deep: bool) -> tuple[np.ndarray, int | None]:
    image.info.pop('transparency', None)  # otherwise Pillow warns that a palette's transparency is lost
    if image.mode in SIXTEEN_BIT_MODES or (image.mode == 'I' and image.format == 'PPM'):
        values = np.asarray(image).astype(np.uint32)
        white = _stated_white(image)
        pixels = (np.minimum(values, white) * 255 + white // 2) // white
        return pixels.astype(np.uint8)[..., np.newaxis], int(values.max()) if white == WHITE else None
    if image.mode in GREY_MODES:
        return np.array(image if image.mode == 'L' else image.convert('L'))[..., np.newaxis], None
    if image.mode in COLOUR_MODES:
        pixels = np.array(image if image.mode == 'RGB' else image.convert('RGB'))
        return pixels, int(pixels.max()) << 8 | 0xFF if is_deep else None
    raise ValueError(f'pixel format {image.mode} is not supported; convert the image to an 8-bit RGB or grey PNG')


def _stated_white(image: PIL.Image.Image) -> int:
    """Return the value of white: the value stated in a TIFF file, otherwise 65535 (Pillow scales .pgm to 65535)."""
    tags = getattr(image, 'tag_v2', {})
    bits = _first(tags.get(TIFF_BITS, 16))
    stated = next((_first(tags[tag]) for tag in TIFF_LARGEST if tag in tags), (1 << bits) - 1)
    return int(stated) if 0 < stated < WHITE else WHITE


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _reason(error: Exception, data: bytes) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return 'no known image format'
    if 'truncated' in str(error).lower():
        return f'truncated after {len(data)} bytes'
    return printable(str(error)) or type(error).__name__
