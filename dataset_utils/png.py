"""PNG files whose pixels are stored uncompressed: fast, and the same bytes with every version of zlib and Pillow.

`encode_png` writes them. `decode_png` reads exactly those files, several times faster than a general decoder.
`is_contact_sheet` recognizes overviews of images, so that they are not read as images.
"""

import struct
import zlib

import numpy as np

SIGNATURE = b'\x89PNG\r\n\x1a\n'
GREY, RGB, GREY_ALPHA = 0, 2, 4  # colour types of the PNG specification, section 11.2.2
HEADER = struct.Struct('>IIBBBBB')
HEADER_START = len(SIGNATURE) + 8  # after the length and kind of the first chunk
MAX_STORED = 65535  # bytes of a stored block, RFC 1951 section 3.2.4
BLOCK_HEADER = struct.Struct('<BHH')
FIRST_BLOCK = HEADER_START + HEADER.size + 4 + 8 + 2  # after its checksum, the next chunk's start and zlib's two bytes

# The text chunk, keyword and value, in which a contact sheet or gallery states what it is.
SHEET_KEYWORD, SHEET_TEXT = 'Title', 'Contact sheet'
SHEET_MARK = f'tEXt{SHEET_KEYWORD}\0{SHEET_TEXT}'.encode()


def encode_png(image: np.ndarray) -> bytes:
    """Encode an image, uint8 [H, W, C] with C = 1 or 3, as a PNG file with uncompressed pixels.

    Source: PNG specification (W3C), second edition; RFC 1950 and 1951 for the zlib stream of stored blocks.
    """
    height, width, channels = image.shape
    colour_type = GREY if channels == 1 else RGB
    header = HEADER.pack(width, height, 8, colour_type, 0, 0, 0)
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row starts with its filter, 0 for none
    rows[:, 1:] = image.reshape(height, -1)
    return SIGNATURE + _chunk(b'IHDR', header) + _chunk(b'IDAT', _stored(rows.tobytes())) + _chunk(b'IEND', b'')


def decode_png(data: bytes) -> np.ndarray | None:
    """Decode a file that `encode_png` wrote: uint8 [H, W, C]; None for any other file and for a damaged one."""
    if len(data) < FIRST_BLOCK:
        return None
    width, height, _, colour_type, *_ = HEADER.unpack_from(data, HEADER_START)
    row_bytes = 1 + width * (1 if colour_type == GREY else 3)
    if not 0 < height * row_bytes < len(data) or row_bytes == 1:
        return None
    rows = np.frombuffer(_blocks(data, height * row_bytes), np.uint8)
    if len(rows) != height * row_bytes:
        return None
    image = rows.reshape(height, row_bytes)[:, 1:].copy().reshape(height, width, -1)
    # Encoding is cheap, and equal bytes prove every header, filter and checksum at once.
    return image if encode_png(image) == data else None


def png_has_colour(data: bytes) -> bool | None:
    """Return whether a PNG file has colour by its header; None for a file of another format."""
    if not data.startswith(SIGNATURE) or len(data) < HEADER_START + HEADER.size:
        return None
    return HEADER.unpack_from(data, HEADER_START)[3] not in (GREY, GREY_ALPHA)


def png_bits(data: bytes) -> int:
    """Return the bits per channel that a PNG file's header states, 0 for a file of another format."""
    return data[HEADER_START + 8] if data.startswith(SIGNATURE) and len(data) > HEADER_START + 8 else 0


def is_contact_sheet(data: bytes) -> bool:
    """Return whether a PNG file is marked as an overview of several images."""
    return SHEET_MARK in data[: FIRST_BLOCK + 2 * len(SHEET_MARK)]


def _blocks(data: bytes, size: int) -> bytes:
    step = BLOCK_HEADER.size
    starts = range(0, size, MAX_STORED)
    return b''.join(
        data[FIRST_BLOCK + step * number + start : FIRST_BLOCK + step * number + min(start + MAX_STORED, size)]
        for number, start in enumerate(starts, start=1)
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(data, zlib.crc32(kind)))


def _stored(data: bytes) -> bytes:
    parts = [b'\x78\x01']
    for start in range(0, len(data), MAX_STORED):
        block = data[start : start + MAX_STORED]
        is_last = start + MAX_STORED >= len(data)
        parts += [BLOCK_HEADER.pack(is_last, len(block), len(block) ^ 0xFFFF), block]
    parts.append(struct.pack('>I', zlib.adler32(data)))
    return b''.join(parts)
