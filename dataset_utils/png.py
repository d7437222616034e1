"""Writes and reads PNG files with uncompressed pixels. The bytes do not depend on the version of zlib or Pillow.

`decode_png` reads only files written by `encode_png`, but is several times faster than a general decoder.
`is_contact_sheet` recognizes contact sheets, so that they are not mistaken for single images.
"""

import struct
import zlib

import numpy as np

SIGNATURE = b'\x89PNG\r\n\x1a\n'
GREY, RGB, GREY_ALPHA = 0, 2, 4  # colour types in the PNG specification, section 11.2.2
HEADER = struct.Struct('>IIBBBBB')
HEADER_START = len(SIGNATURE) + 8  # the signature, and the length and type of the first chunk
STREAM_START = HEADER_START + HEADER.size + 4 + 8  # the header's checksum, and the next chunk's length and type
MAX_STORED = 65535  # largest stored block in bytes, RFC 1951 section 3.2.4

# Keyword and value of the text chunk that marks a contact sheet or gallery.
SHEET_KEYWORD, SHEET_TEXT = 'Title', 'Contact sheet'
SHEET_MARK = f'tEXt{SHEET_KEYWORD}\0{SHEET_TEXT}'.encode()


def encode_png(image: np.ndarray) -> bytes:
    """Encode an image as a PNG file with uncompressed pixels. image: uint8 [H, W, C] with C = 1 or 3.

    Source: PNG specification (W3C), second edition; RFC 1950 and 1951 for the zlib stream of stored blocks.
    """
    height, width, channels = image.shape
    header = HEADER.pack(width, height, 8, GREY if channels == 1 else RGB, 0, 0, 0)
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row starts with a filter byte; 0 means no filter
    rows[:, 1:] = image.reshape(height, -1)
    data = rows.tobytes()
    stream = [b'\x78\x01']
    for start in range(0, len(data), MAX_STORED):
        block = data[start : start + MAX_STORED]
        is_last = start + MAX_STORED >= len(data)
        stream += [struct.pack('<BHH', is_last, len(block), len(block) ^ 0xFFFF), block]
    stream.append(struct.pack('>I', zlib.adler32(data)))
    return SIGNATURE + _chunk(b'IHDR', header) + _chunk(b'IDAT', b''.join(stream)) + _chunk(b'IEND', b'')


def decode_png(data: bytes) -> np.ndarray | None:
    """Decode a file written by `encode_png`. Returns uint8 [H, W, C], or None for any other file."""
    if len(data) < STREAM_START:
        return None
    width, height, _, colour_type, *_ = HEADER.unpack_from(data, HEADER_START)
    row_bytes = 1 + width * (1 if colour_type == GREY else 3)
    if not 0 < height * row_bytes < len(data) or row_bytes == 1:
        return None
    try:
        pixels = zlib.decompressobj().decompress(memoryview(data)[STREAM_START:], height * row_bytes)
    except zlib.error:
        return None
    if len(pixels) != height * row_bytes:
        return None
    image = np.frombuffer(pixels, np.uint8).reshape(height, row_bytes)[:, 1:].copy().reshape(height, width, -1)
    # Encoding is cheap, and identical bytes prove that all headers, filters and checksums are right.
    return image if encode_png(image) == data else None


def png_has_colour(data: bytes) -> bool:
    """Return whether a PNG file has colour, according to its header; False if the header is missing."""
    return data[HEADER_START + 9 : HEADER_START + 10] not in (b'', bytes([GREY]), bytes([GREY_ALPHA]))


def is_deep_png(data: bytes) -> bool:
    """Return whether a file is a PNG with 16 bits per channel, according to its header."""
    return data.startswith(SIGNATURE) and data[HEADER_START + 8 : HEADER_START + 9] == b'\x10'


def is_contact_sheet(data: bytes) -> bool:
    """Return whether a PNG file is marked as a contact sheet."""
    return SHEET_MARK in data[: STREAM_START + 2 * len(SHEET_MARK)]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(data, zlib.crc32(kind)))
