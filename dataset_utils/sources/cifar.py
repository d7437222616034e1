"""CIFAR-10 and CIFAR-100 in their Python version, whose pickles are read without running any code in them."""

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from dataset_utils.sources.base import ArraySource, unreadable
from dnnlib.safe_pickle import load_pickle
from dnnlib.util import UserError

CHANNELS, SIZE = 3, 32
MAX_TAR_BYTES = 1 << 29  # the original archives unpack to 186 MB
MAX_MEMBERS = 100


@dataclass(frozen=True)
class Edition:
    """The file names of CIFAR-10 or CIFAR-100, and the keys under which their files store labels and class names."""

    meta: str
    batches: dict[str, list[str]]
    labels: str
    class_names: str


CIFAR10 = Edition(
    'batches.meta',
    {'train': [f'data_batch_{number}' for number in range(1, 6)], 'test': ['test_batch']},
    'labels',
    'label_names',
)
CIFAR100 = Edition('meta', {'train': ['train'], 'test': ['test']}, 'fine_labels', 'fine_label_names')


def is_cifar_folder(path: str) -> bool:
    """Return whether a folder was unpacked from a CIFAR archive."""
    return any(
        all(os.path.isfile(os.path.join(path, name)) for name in (edition.meta, edition.batches['train'][0]))
        for edition in (CIFAR10, CIFAR100)
    )


class CifarSource(ArraySource):
    """The training or test images of CIFAR-10 or CIFAR-100, in the order of the batches.

    path: cifar-10-python.tar.gz, cifar-100-python.tar.gz, or the folder unpacked from one. For CIFAR-100, the labels
    are the 100 fine labels.
    """

    splits = ('train', 'test')

    def _open(self) -> None:
        files = self._folder_files() if os.path.isdir(self.path) else self._archive_files()
        self.edition = CIFAR100 if CIFAR100.meta in files else CIFAR10
        wanted = self.edition.batches[self.reading.split or 'train']
        missing = [name for name in [self.edition.meta, *wanted] if name not in files]
        if missing:
            raise UserError(
                f'{self.where} has no {", ".join(missing)}, so it is not the Python version of CIFAR-10 or CIFAR-100; '
                f'download that version, or pack images as .zip or .tar'
            )
        self._contents = files
        if os.path.isdir(self.path):
            self.files = [os.path.join(self.path, name) for name in (self.edition.meta, *wanted)]
        self.class_names = self._class_names()
        batches = [self._batch(name, len(self.class_names)) for name in wanted]
        self.images = np.concatenate([images for images, _ in batches])
        self.labels = [label for _, labels in batches for label in labels]

    def _folder_files(self) -> dict[str, Callable[[], bytes]]:
        return {entry.name: partial(_read_file, entry.path) for entry in os.scandir(self.path) if entry.is_file()}

    def _archive_files(self) -> dict[str, Callable[[], bytes]]:
        claim = f'{self.where} is not a readable .tar.gz of CIFAR-10 or CIFAR-100'
        with unreadable(claim, 'download it again, or pack images as .zip or .tar'):
            with gzip.open(self.path) as file:
                content = file.read(MAX_TAR_BYTES + 1)
            if len(content) > MAX_TAR_BYTES:
                raise ValueError(f'more than {MAX_TAR_BYTES} bytes')
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                return {
                    PurePosixPath(member.name).name: partial(_slice, content, member.offset_data, member.size)
                    for member in islice(tar, MAX_MEMBERS)
                    if member.isreg() and not member.issparse()
                }

    def _unpickle(self, name: str) -> dict:
        with unreadable(f'{self.where}: {name} cannot be read safely', 'download the archive from its authors'):
            content = load_pickle(self._contents[name]())
        if not isinstance(content, dict):
            raise self._malformed(name)
        return {_text(key): value for key, value in content.items()}

    def _class_names(self) -> list[str]:
        names = self._unpickle(self.edition.meta).get(self.edition.class_names)
        if not isinstance(names, list) or not names or not all(isinstance(name, str | bytes) for name in names):
            raise self._malformed(self.edition.meta)
        return [_text(name) for name in names]

    def _batch(self, name: str, num_classes: int) -> tuple[np.ndarray, list[int]]:
        batch = self._unpickle(name)
        rows: Any = batch.get('data')
        labels: Any = batch.get(self.edition.labels)
        if not (
            isinstance(rows, np.ndarray)
            and rows.ndim == 2
            and rows.shape[1] == CHANNELS * SIZE * SIZE
            and isinstance(labels, list)
            and len(labels) == len(rows)
            and all(type(label) is int and 0 <= label < num_classes for label in labels)
        ):
            raise self._malformed(name)
        return rows.reshape(-1, CHANNELS, SIZE, SIZE).transpose(0, 2, 3, 1), labels

    def _malformed(self, name: str) -> UserError:
        return UserError(f'{self.where}: {name} is not a valid CIFAR file; download the archive from its authors')


def _read_file(path: str) -> bytes:
    with open(path, 'rb') as file:
        return file.read(MAX_TAR_BYTES)


def _slice(content: bytes, start: int, size: int) -> bytes:
    return content[start : start + size]


def _text(value: Any) -> str:
    return value.decode('latin1') if isinstance(value, bytes) else str(value)
