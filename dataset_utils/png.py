"""Write PNG files without compressing them: fast, and the same bytes with every version of zlib and Pillow."""

import struct
import zlib

import numpy as np

SIGNATURE = b'\x89PNG\r\n\x1a\n'
GREY, RGB = 0, 2  # colour types of the PNG specification, section 11.2.2
MAX_STORED = 65535  # bytes of a stored block, RFC 1951 section 3.2.4


def encode_png(image: np.ndarray) -> bytes:
    """Encode an image, uint8 [H, W, C] with C = 1 or 3, as a PNG file whose pixels are stored as they are.

    Source: PNG specification (W3C), second edition; RFC 1950 and 1951 for the zlib stream of stored blocks.
    """
    height, width, channels = image.shape
    colour_type = GREY if channels == 1 else RGB
    header = struct.pack('>IIBBBBB', width, height, 8, colour_type, 0, 0, 0)
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row starts with its filter, 0 for none
    rows[:, 1:] = image.reshape(height, -1)
    return SIGNATURE + _chunk(b'IHDR', header) + _chunk(b'IDAT', _stored(rows.tobytes())) + _chunk(b'IEND', b'')


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(data, zlib.crc32(kind)))


def _stored(data: bytes) -> bytes:
    parts = [b'\x78\x01']
    for start in range(0, len(data), MAX_STORED):
        block = data[start : start + MAX_STORED]
        is_last = start + MAX_STORED >= len(data)
        parts += [struct.pack('<BHH', is_last, len(block), len(block) ^ 0xFFFF), block]
    parts.append(struct.pack('>I', zlib.adler32(data)))
    return b''.join(parts)
