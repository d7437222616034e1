"""CIFAR-10 as its authors publish it for Python: a tar archive of pickles, read without running them."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from dataset_utils.sources.base import ArraySource, shown
from dnnlib.safe_pickle import RefusedPickleError, load_pickle
from dnnlib.util import UserError, file_sha256

BATCHES = [f'data_batch_{number}' for number in range(1, 6)]
META = 'batches.meta'
CHANNELS, SIZE = 3, 32
MAX_TAR_BYTES = 1 << 29  # the real one has 186 MB
MAX_MEMBERS = 100


class CifarSource(ArraySource):
    """The training images of `cifar-10-python.tar.gz`, in the order of the batches; the test batch is left out."""

    def __init__(self, path: str, option: str = ''):
        super().__init__(path, option)
        files = self._members([META, *BATCHES])
        self.class_names = self._class_names(files[META])
        batches = [self._batch(name, files[name]) for name in BATCHES]
        self.images = np.concatenate([images for images, _ in batches])
        self.labels = [label for _, labels in batches for label in labels]

    def sha256(self, indices: Sequence[int] | None = None) -> str:
        return file_sha256(self.path)

    def _members(self, wanted: list[str]) -> dict[str, dict]:
        """Read the wanted pickles, each a dict with its keys as text."""
        try:
            with gzip.open(self.path) as file:
                content = file.read(MAX_TAR_BYTES + 1)
            if len(content) > MAX_TAR_BYTES:
                raise UserError(f'{self.where} holds more than {MAX_TAR_BYTES} bytes, CIFAR-10 does not; fetch it anew')
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                found = self._read_members(tar, wanted)
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f'{self.where} is not a readable .tar.gz ({shown(str(error))}); fetch it anew') from error
        missing = [name for name in wanted if name not in found]
        if missing:
            raise UserError(
                f'{self.where} has no {", ".join(missing)}; give cifar-10-python.tar.gz as the authors publish it'
            )
        return found

    def _read_members(self, tar: tarfile.TarFile, wanted: list[str]) -> dict[str, dict]:
        found = {}
        for member in islice(tar, MAX_MEMBERS):
            name = PurePosixPath(member.name).name
            file = tar.extractfile(member) if member.isreg() and name in wanted else None
            if file is not None:
                found[name] = self._unpickle(name, file.read())
            if len(found) == len(wanted):
                break
        return found

    def _unpickle(self, name: str, data: bytes) -> dict:
        try:
            content = load_pickle(data)
        except RefusedPickleError as error:
            raise UserError(
                f'{self.where}: {name} is refused, {shown(str(error))}; fetch the archive from the authors'
            ) from error
        if not isinstance(content, dict):
            raise self._malformed(name)
        return {_text(key): value for key, value in content.items()}

    def _class_names(self, meta: dict) -> list[str]:
        names = meta.get('label_names')
        if not isinstance(names, list) or not names or not all(isinstance(name, str | bytes) for name in names):
            raise self._malformed(META)
        return [_text(name) for name in names]

    def _batch(self, name: str, batch: dict) -> tuple[np.ndarray, list[int]]:
        rows, labels = batch.get('data'), batch.get('labels')
        if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != CHANNELS * SIZE * SIZE:
            raise self._malformed(name)
        if not isinstance(labels, list) or len(labels) != len(rows) or not all(map(self._is_label, labels)):
            raise self._malformed(name)
        images = rows.reshape(-1, CHANNELS, SIZE, SIZE)
        return images.transpose(0, 2, 3, 1), labels

    def _is_label(self, label: Any) -> bool:
        return type(label) is int and self.class_names is not None and 0 <= label < len(self.class_names)

    def _malformed(self, name: str) -> UserError:
        return UserError(
            f'{self.where}: {name} does not hold what CIFAR-10 has there; fetch the archive from the authors'
        )


def _text(value: Any) -> str:
    return value.decode('latin1') if isinstance(value, bytes) else str(value)
