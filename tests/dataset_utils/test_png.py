import io
import zlib

import numpy as np
import PIL.Image
import pytest

from dataset_utils.png import decode_png, encode_png

# Sizes around 65,535 bytes (the limit of a stored deflate block), with one and three channels.
SHAPES = [(1, 1, 1), (1, 1, 3), (8, 8, 1), (32, 32, 3), (1, 65534, 1), (1, 65535, 1), (5, 13106, 1), (2, 131069, 1)]


@pytest.mark.parametrize('shape', SHAPES)
def test_pillow_reads_the_encoded_images(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with PIL.Image.open(io.BytesIO(encode_png(image))) as picture:
        picture.load()
        assert picture.mode == ('L' if shape[2] == 1 else 'RGB')
        assert np.array_equal(np.asarray(picture).reshape(shape), image)


@pytest.mark.parametrize('shape', SHAPES)
def test_decoding_an_encoded_image_restores_it(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    decoded = decode_png(encode_png(image))
    assert decoded is not None
    assert np.array_equal(decoded, image)
    assert decoded.flags.writeable


def test_the_encoded_bytes_do_not_depend_on_libraries():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    # By the PNG specification, each of the two rows follows a zero, which means "no filter".
    rows = bytes([0, 0, 1, 2, 3, 4, 5, 0, 6, 7, 8, 9, 10, 11])
    pixels = b'\x78\x01\x01\x0e\x00\xf1\xff' + rows + zlib.adler32(rows).to_bytes(4, 'big')
    header = bytes([0, 0, 0, 2, 0, 0, 0, 2, 8, 2, 0, 0, 0])
    expected = b'\x89PNG\r\n\x1a\n'
    for kind, data in ((b'IHDR', header), (b'IDAT', pixels), (b'IEND', b'')):
        expected += len(data).to_bytes(4, 'big') + kind + data + zlib.crc32(kind + data).to_bytes(4, 'big')
    assert encode_png(image) == expected


def test_every_changed_byte_is_detected():
    data = encode_png(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x40
        assert decode_png(bytes(damaged)) is None


def test_shortened_and_lengthened_files_are_detected():
    data = encode_png(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    assert all(decode_png(data[:length]) is None for length in range(len(data)))
    assert decode_png(data + b'\0') is None


def test_png_files_of_other_encoders_are_left_to_pillow():
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, 'PNG')
    assert decode_png(buffer.getvalue()) is None
