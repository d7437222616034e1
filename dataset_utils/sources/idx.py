"""MNIST's file format: `*-images-idx3-ubyte` next to `*-labels-idx1-ubyte`, each with or without .gz."""

import gzip
import io
import os
import re
import struct

import numpy as np

from dataset_utils.sources.base import ArraySource, unreadable
from dnnlib.util import UserError

IMAGES_NAME = re.compile(r'(.*)-images([-.])idx3-ubyte(?:\.gz)?')
UNSIGNED_BYTE = 8  # the IDX code for unsigned 8-bit values
MAX_BYTES = 1 << 31


class IdxSource(ArraySource):
    """Grey images with labels. The U-Net cannot halve MNIST's 28 pixels three times, so images are padded to 32."""

    padded_size = 32

    def _open(self) -> None:
        self.files = [self.path, self._find_labels()]  # `sha256` covers the images file, then the labels file
        self.images = self._read(self.path, dimensions=3)[..., np.newaxis]
        self.labels = self._read(self.files[1], dimensions=1).tolist()
        if len(self.images) == 0:
            raise UserError(f'{self.where} contains no images; download it again')
        if len(self.labels) != len(self.images):
            raise UserError(
                f'{self.where} has {len(self.images)} images, but {self.files[1]} has {len(self.labels)} labels; '
                f'download both files again'
            )

    def _find_labels(self) -> str:
        folder, file_name = os.path.split(self.path)
        match = IMAGES_NAME.fullmatch(file_name)
        assert match, 'open_source chooses this class by the file name'
        plain = os.path.join(folder, f'{match[1]}-labels{match[2]}idx1-ubyte')
        for path in (f'{plain}.gz', plain) if file_name.endswith('.gz') else (plain, f'{plain}.gz'):
            if os.path.isfile(path):
                return path
        raise UserError(f'{self.where}: its labels file is missing; put {os.path.basename(plain)}.gz next to it')

    def _read(self, path: str, dimensions: int) -> np.ndarray:
        where = self.where if path == self.path else path
        report = unreadable(f'{where} is not a readable IDX file', 'download it again')
        with report, gzip.open(path) if path.endswith('.gz') else open(path, 'rb') as file:
            return _parse(file, dimensions)


def _parse(file: io.BufferedIOBase, dimensions: int) -> np.ndarray:
    header = file.read(4 + 4 * dimensions)
    if header[:4] != bytes([0, 0, UNSIGNED_BYTE, dimensions]) or len(header) < 4 + 4 * dimensions:
        raise ValueError(f'its header does not describe a {dimensions}-dimensional array of bytes')
    shape = struct.unpack(f'>{dimensions}I', header[4:])
    size = int(np.prod(shape, dtype=object))
    if size > MAX_BYTES:
        raise ValueError(f'its header says that it has {size} bytes of data')
    data = file.read(size + 1)
    if len(data) != size:
        raise ValueError(
            f'it has {"more" if len(data) > size else "fewer"} bytes of data than the {size} in its header'
        )
    return np.frombuffer(data, np.uint8).reshape(shape)
