"""Image files in a folder or in a ZIP archive, labelled by `dataset.json` or by the folders that they lie in."""

import hashlib
import json
import os
import re
import stat
import struct
import weakref
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from dataset_utils.manifest import Manifest
from dataset_utils.sources.base import Source, shown
from dataset_utils.sources.decoding import FORMATS, MAX_FILE_BYTES, decode_image, is_image_name
from dnnlib.typed import parse_json
from dnnlib.util import UserError, file_sha256

LABELS_FILE = 'dataset.json'
MANIFEST_FILE = 'manifest.json'
MAX_JSON_BYTES = 1 << 29
MAX_LABEL = 2**31 - 1
LOCAL_HEADER_BYTES, LOCAL_HEADER_SIGNATURE = 30, b'PK\x03\x04'  # ZIP's APPNOTE, section 4.3.7
SYNSET = re.compile(r'n\d{8}')
CHUNK = re.compile(r'\d{5,}')  # the folders 00000, 00001, ... that archives and generated images are cut into


class FilesSource(Source):
    """Image files, in the order of their sorted names.

    Labels: `dataset.json` at the top rules, and its {"labels": null} means none. Without it the folders are the
    classes: an image's class is the first folder in which paths differ, or the one folder that holds them all, and
    labels count the classes' sorted names. Folders that are plain numbers of five digits or more are no classes.
    manifest: what `manifest.json` says of the data set's making, or None.
    """

    manifest: Manifest | None = None

    def _index(self, names: set[str]) -> None:
        """Sort the images out of all files' names, and find their labels."""
        self.names = sorted(name for name in names if is_image_name(name) and not is_hidden(name))
        if not self.names:
            raise UserError(f'{self.where} holds no images ({" ".join(FORMATS)}); name the folder or archive that does')
        if LABELS_FILE in names:
            self.labels = self._listed_labels(self._read_json(LABELS_FILE))
            if MANIFEST_FILE in names:
                self.manifest = parse_json(
                    self.read_bytes(MANIFEST_FILE, MAX_JSON_BYTES), Manifest, f'{self.where}: {MANIFEST_FILE}'
                )
                self.class_names = self._checked_class_names(self.manifest.class_names)
        else:
            self._refuse_nested_labels(names)
            self.labels, self.class_names = self._folder_labels()

    @abstractmethod
    def read_bytes(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        """Return a file's bytes; raises UserError when it is broken or larger than `limit` bytes."""

    def __len__(self) -> int:
        return len(self.names)

    def describe(self, index: int) -> str:
        return shown(self.names[index])

    def read(self, index: int) -> np.ndarray:
        name = self.names[index]
        return decode_image(self.read_bytes(name), self.where, name)

    def _read_json(self, name: str) -> Any:
        try:
            return json.loads(self.read_bytes(name, MAX_JSON_BYTES))
        except UserError:
            raise
        except (ValueError, RecursionError) as error:
            raise UserError(
                f'{self.where}: {name} is not valid JSON ({error}); make the data set again with dataset_tool.py'
            ) from error

    def _listed_labels(self, content: Any) -> list[int] | None:
        if not isinstance(content, dict) or not isinstance(content.get('labels', ''), list | None):
            raise UserError(
                f'{self.where}: {LABELS_FILE} must be {{"labels": [["name.png", 0], ...]}} or {{"labels": null}}; '
                f'make the data set again with dataset_tool.py'
            )
        if content['labels'] is None:
            return None
        labels: dict[str, int] = {}
        for entry in content['labels']:
            name, label = self._checked_entry(entry)
            if labels.setdefault(name, label) != label:
                raise UserError(f'{self.where}: {LABELS_FILE} gives {shown(name)} two labels; leave one of them')
        present = set(self.names)
        for name in labels:
            if name not in present:
                raise UserError(
                    f'{self.where}: {LABELS_FILE} lists {shown(name)}, which is not there; '
                    f'add the image or remove it from {LABELS_FILE}'
                )
        missing = [name for name in self.names if name not in labels]
        if missing:
            raise UserError(
                f'{self.where}: {LABELS_FILE} has no label for {len(missing)} of {len(self.names)} images, the first '
                f'is {shown(missing[0])}; label every image, or none with {{"labels": null}}'
            )
        return [labels[name] for name in self.names]

    def _checked_entry(self, entry: Any) -> tuple[str, int]:
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise UserError(
                f'{self.where}: {LABELS_FILE} has {shown(json.dumps(entry))} among its labels, where ["name.png", 0] '
                f'is expected; make the data set again with dataset_tool.py'
            )
        name, label = entry
        if type(label) is not int or not 0 <= label <= MAX_LABEL:
            raise UserError(
                f'{self.where}: {LABELS_FILE} gives {shown(name)} the label {shown(json.dumps(label))}; '
                f'labels must be whole numbers from 0'
            )
        return name, label

    def _refuse_nested_labels(self, names: set[str]) -> None:
        nested = min((name for name in names if name.endswith(f'/{LABELS_FILE}')), default=None)
        if nested:
            raise UserError(
                f'{self.where}: the data set lies deeper, in {shown(nested.removesuffix(LABELS_FILE))}; '
                f'name that folder, or pack its content without the folder around it'
            )

    def _folder_labels(self) -> tuple[list[int] | None, list[str] | None]:
        folders = [name.split('/')[:-1] for name in self.names]
        lowest, highest = min(folders), max(folders)
        common = next(
            (i for i, pair in enumerate(zip(lowest, highest, strict=False)) if pair[0] != pair[1]), len(lowest)
        )
        level = common if any(len(folder) > common for folder in folders) else common - 1
        if level < 0:
            return None, None
        beside = next((i for i, folder in enumerate(folders) if len(folder) <= level), None)
        if beside is not None:
            raise UserError(
                f'{self.where}: {self.describe(beside)} lies beside folders of images, so the folders cannot be '
                f'classes; move it into one, or add a {LABELS_FILE} with {{"labels": null}}'
            )
        classes = sorted({folder[level] for folder in folders})
        if all(CHUNK.fullmatch(name) for name in classes):
            return None, None
        self._refuse_tree_of_trees(folders, classes, level)
        numbers = {name: number for number, name in enumerate(classes)}
        return [numbers[folder[level]] for folder in folders], classes

    def _refuse_tree_of_trees(self, folders: list[list[str]], classes: list[str], level: int) -> None:
        if all(len(folder) > level + 1 and SYNSET.fullmatch(folder[level + 1]) for folder in folders):
            raise UserError(
                f'{self.where}: the synset folders lie one level deeper, in {shown(", ".join(classes))}; '
                f'name one of those, such as {self.path.rstrip("/")}/{shown(classes[0])}'
            )

    def _checked_class_names(self, class_names: list[str] | None) -> list[str] | None:
        if class_names is not None and self.labels is not None and max(self.labels) >= len(class_names):
            raise UserError(
                f'{self.where}: {MANIFEST_FILE} names {len(class_names)} classes, but {LABELS_FILE} has the label '
                f'{max(self.labels)}; make the data set again'
            )
        return class_names


class FolderSource(FilesSource):
    """A folder of image files, with all folders in it. Symbolic links inside are refused: they could lead anywhere."""

    def __init__(self, path: str, option: str = ''):
        super().__init__(path, option)
        self._index(set(self._walk()))

    def _walk(self) -> list[str]:
        names, folders = [], ['']
        while folders:
            folder = folders.pop()
            with os.scandir(os.path.join(self.path, folder)) as entries:
                for entry in entries:
                    name = folder + entry.name
                    if is_hidden(name):
                        continue
                    if entry.is_symlink():
                        raise UserError(
                            f'{self.where}: {shown(name)} is a symbolic link, which could lead anywhere; '
                            f'put a copy of its target there'
                        )
                    if entry.is_dir():
                        folders.append(f'{name}/')
                    elif entry.is_file():
                        names.append(name)
        return names

    def read_bytes(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        try:
            with open(os.path.join(self.path, name), 'rb') as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise UserError(
                f'{self.where}: {shown(name)} cannot be read ({error.strerror}); mend or remove it'
            ) from error
        if len(data) > limit:
            raise UserError(f'{self.where}: {shown(name)} is larger than {limit} bytes; remove it')
        return data

    def sha256(self, indices: Sequence[int] | None = None) -> str:
        digest = hashlib.sha256()
        for index, name in enumerate(self.names):
            label = self.labels[index] if self.labels is not None else None
            digest.update(f'{name}\0{label}\n'.encode(errors='surrogateescape'))
        for index in range(len(self)) if indices is None else indices:
            digest.update(hashlib.sha256(self.read_bytes(self.names[index])).digest())
        return digest.hexdigest()


class ArchiveSource(FilesSource):
    """A ZIP archive of image files. Only what its directory and each entry agree on is read, and never unpacked."""

    def __init__(self, path: str, option: str = ''):
        super().__init__(path, option)
        self._file = open(path, 'rb')  # noqa: SIM115 - open as long as the source is
        weakref.finalize(self, self._file.close)
        self._entries = {info.filename: info for info in self._directory() if not info.is_dir()}
        self._index(set(self._entries))

    def _directory(self) -> list[zipfile.ZipInfo]:
        try:
            with zipfile.ZipFile(self._file) as archive:
                entries = archive.infolist()
        except OSError:
            raise
        except Exception as error:  # zipfile meets a broken directory with many exceptions
            raise UserError(
                f'{self.where} is not a readable ZIP archive ({shown(str(error))}), it may be truncated; '
                f'fetch it again, or make it again with dataset_tool.py'
            ) from error
        seen: set[str] = set()
        for info in entries:
            reason = _distrust(info) or ('is there twice' if info.filename in seen else '')
            if reason:
                raise UserError(f'{self.where}: the entry {shown(info.filename)} {reason}; pack the archive again')
            seen.add(info.filename)
        return entries

    def read_bytes(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        info = self._entries[name]
        if max(info.file_size, info.compress_size) > limit:
            raise UserError(f'{self.where}: {shown(name)} is larger than {limit} bytes; remove it')
        try:
            return self._unpack(info)
        except (OSError, struct.error, zlib.error, zipfile.BadZipFile) as error:
            raise UserError(
                f'{self.where}: {shown(name)} is damaged ({error}); '
                f'fetch the archive again, or make it again with dataset_tool.py'
            ) from error

    def _unpack(self, info: zipfile.ZipInfo) -> bytes:
        # pread, unlike ZipFile.read, needs no lock and no shared position, so threads and forked workers do not meet.
        descriptor = self._file.fileno()
        header = os.pread(descriptor, LOCAL_HEADER_BYTES, info.header_offset)
        if header[:4] != LOCAL_HEADER_SIGNATURE:
            raise zipfile.BadZipFile('no entry where the directory says')
        name_length, extra_length = struct.unpack('<HH', header[26:30])
        start = info.header_offset + len(header) + name_length + extra_length
        data = os.pread(descriptor, info.compress_size, start)
        if info.compress_type == zipfile.ZIP_DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, info.file_size + 1)
        if len(data) != info.file_size:
            raise zipfile.BadZipFile(f'{len(data)} bytes instead of {info.file_size}')
        if zlib.crc32(data) != info.CRC:
            raise zipfile.BadZipFile('wrong checksum')
        return data

    def sha256(self, indices: Sequence[int] | None = None) -> str:
        return file_sha256(self.path)


def is_hidden(name: str) -> bool:
    """Tell whether a path has a part that file managers hide, such as '.git' or '__MACOSX'."""
    return any(part.startswith('.') or part == '__MACOSX' for part in name.split('/'))


def _distrust(info: zipfile.ZipInfo) -> str:
    """Say what is wrong with an entry of an archive, '' for nothing."""
    name = info.orig_filename
    if name.startswith('/') or '\\' in name or '\0' in name or re.match(r'[A-Za-z]:', name):
        return 'has an absolute or foreign path'
    if '..' in name.split('/'):
        return 'leads out of the archive'
    if stat.S_ISLNK(info.external_attr >> 16):
        return 'is a symbolic link'
    if info.flag_bits & 1:
        return 'is encrypted'
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return 'is compressed by another method than "store" and "deflate"'
    return ''
