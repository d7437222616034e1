"""Writes data sets as ZIP archives or folders, either completely or not at all; equal content gives equal bytes."""

import contextlib
import errno
import glob
import json
import os
import shutil
import signal
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset_utils.manifest import Manifest
from dataset_utils.png import encode_png
from dataset_utils.sources.base import named
from dataset_utils.sources.files import MANIFEST_FILE, is_hidden
from dataset_utils.sources.labels import LABELS_FILE
from dnnlib.util import UserError, atomic_file, exchange, remove_partial_files, sync_folder

IMAGES_PER_FOLDER = 1000
EARLIEST_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest time that a ZIP archive can store
UNIX = 3
READABLE_FILE = 0o100644 << 16
OTHER_ARCHIVES = ('.tar', '.gz', '.tgz', '.bz2', '.xz', '.7z', '.rar', '.npz', '.npy')
STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

Put = Callable[[str, bytes], None]


class Destination:
    """The path where a data set will be written. Making this object checks the path, before any work is done.

    path: path of the data set, which is a ZIP archive if the name ends in .zip, otherwise a folder.
    overwrite: whether to replace an existing data set. argument: name of the argument that gave the path, for messages.
    sources: paths of the sources; the destination must not be inside a source, and must not contain one.
    Raises UserError if the data set cannot or must not be written there.
    """

    def __init__(self, path: str, overwrite: bool, sources: Sequence[str] = (), argument: str = 'dest'):
        self.path = Path(path)
        self.where = named(argument, path)
        self.is_archive = self.path.suffix.lower() == '.zip'
        if not path or self.path.name.lower() == '.zip':
            raise UserError(f'{self.where} has no file name; add one, such as data.zip')
        try:
            problem = self._problem(overwrite, sources)
        except OSError as error:  # such as a name that is too long, or a folder without permission
            raise self._unwritable(error) from error
        if problem:
            raise UserError(f'{self.where}{problem}')

    def _problem(self, overwrite: bool, sources: Sequence[str]) -> str:
        """Return why the data set must not be written here, as text to append to `where`; '' if it can be written."""
        if self.path.suffix.lower() in OTHER_ARCHIVES:
            return f': {self.path.suffix} files cannot be written; give a name that ends in .zip, or a folder'
        if self.is_archive and self.path.is_dir():
            return ' is a folder; give the archive another name'
        above = next((parent for parent in self.path.absolute().parents if parent.exists()), self.path)
        if not above.is_dir():
            return f': {above} is a file, not a folder; write somewhere else'
        here = Path(os.path.realpath(self.path))
        for source in filter(os.path.exists, sources):  # skips 'digits', URLs and missing files
            there = Path(os.path.realpath(source))
            if here.is_relative_to(there) or there.is_relative_to(here):
                return f' overlaps with the source {source}; write somewhere else'
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return ''
        if not overwrite:
            return ' already exists; add `overwrite` to replace it, or give another name'
        if self.is_archive:
            return ''
        if not self.path.is_dir():
            return ' is a file; give a name that ends in .zip, or a folder'
        stranger = _stranger_in(self.path)
        return stranger and f' contains {stranger}, so it is not replaced; move such files, or give another name'

    @contextlib.contextmanager
    def create(self) -> Iterator['DatasetWriter']:
        """Yield a writer; the data set appears at the destination only if the block ends without an exception."""
        try:
            create = _archive if self.is_archive else _folder
            with _removal_when_stopped(), _parents(self.path), create(self.path) as put:
                yield DatasetWriter(put)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise UserError(f'{self.where}: {error.strerror}; free some space, or write somewhere else') from error
            if self._is_own(error.filename):
                raise self._unwritable(error) from error
            raise

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f'{self.where} cannot be written ({error.strerror}); write somewhere else')

    def _is_own(self, name: Any) -> bool:
        """Return whether an OSError's file name is the destination's partial output, or a folder above it."""
        if not isinstance(name, str):
            return False
        here, there = (Path(os.path.realpath(path)) for path in (self.path, name))
        return there in here.parents or str(there).startswith(f'{here}.')


class DatasetWriter:
    """Writes a data set's images one by one, then its manifest."""

    def __init__(self, put: Put):
        self._put = put
        self._labels: list[list] = []

    def add(self, image: np.ndarray, label: int | None) -> None:
        """Write the next image (uint8 [H, W, C]). Either all images must have labels, or none of them."""
        number = len(self._labels)
        name = f'{number // IMAGES_PER_FOLDER:05d}/img{number:08d}.png'
        self._put(name, encode_png(image))
        self._labels.append([name, label])

    def finish(self, manifest: Manifest) -> None:
        """Write `dataset.json` and `manifest.json`."""
        labelled = all(label is not None for _, label in self._labels)
        self._put(LABELS_FILE, json.dumps({'labels': self._labels if labelled else None}).encode())
        self._put(MANIFEST_FILE, manifest.to_json().encode())


@contextlib.contextmanager
def _removal_when_stopped() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into exceptions inside the block, so that partial output is removed."""
    is_main = threading.current_thread() is threading.main_thread()
    taken = [number for number in STOP_SIGNALS if is_main and signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def _parents(path: Path) -> Iterator[None]:
    """Create the folders above a path, and remove them again if the block raises."""
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in missing:
            with contextlib.suppress(OSError):  # the folder was not created, or another process has put files there
                parent.rmdir()
        raise


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[Put]:
    with atomic_file(path) as file, zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as archive:

        def put(name: str, data: bytes) -> None:
            info = zipfile.ZipInfo(name, EARLIEST_TIME)
            info.create_system = UNIX
            info.external_attr = READABLE_FILE
            archive.writestr(info, data)

        yield put


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Put]:
    path = Path(os.path.realpath(path))
    remove_partial_files(path.parent, glob.escape(path.name))
    partial, old = (path.with_name(f'{path.name}.{os.getpid()}.{kind}') for kind in ('partial', 'old'))

    def put(name: str, data: bytes) -> None:
        file = partial / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)

    try:
        partial.mkdir()
        yield put
        if not (path.exists() and exchange(partial, path)):
            if path.exists():
                path.rename(old)
            partial.rename(path)
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    for left in (partial, old):  # one of them holds the data set that was replaced
        if left.exists():
            shutil.rmtree(left)


def _stranger_in(folder: Path) -> str:
    """Return the name of a file that is in the folder but not part of a data set, or '' if there is none.

    Returns 'files but no dataset.json' if the folder does not contain a data set.
    """
    if not (folder / LABELS_FILE).is_file():
        return f'files but no {LABELS_FILE}'
    for file in folder.rglob('*'):
        name = file.relative_to(folder).as_posix()
        is_own = name in (LABELS_FILE, MANIFEST_FILE) or name.endswith('.png')
        if not file.is_dir() and (is_hidden(name) or not is_own):
            return name
    return ''
