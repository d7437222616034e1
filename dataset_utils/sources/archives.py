"""ZIP and uncompressed tar archives of image files, which are read in place and never unpacked."""

import os
import posixpath
import re
import stat
import struct
import tarfile
import weakref
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from dataset_utils.sources.base import printable, unreadable
from dataset_utils.sources.decoding import MAX_FILE_BYTES
from dataset_utils.sources.files import FilesSource, is_read
from dnnlib.util import UserError

LOCAL_HEADER_BYTES, LOCAL_HEADER_SIGNATURE = 30, b'PK\x03\x04'  # ZIP's APPNOTE, section 4.3.7
UTF8_FLAG, ENCRYPTED_FLAG = 0x800, 1
MAX_LINK_BYTES = 4096


@dataclass(frozen=True)
class Entry:
    """A file or link in an archive.

    size: number of bytes when unpacked. packed_size: number of bytes in the archive.
    target: target of a link, as a path in the archive; None for a file. problem: why the entry cannot be read, or ''.
    """

    size: int
    packed_size: int
    info: zipfile.ZipInfo | tarfile.TarInfo
    target: str | None = None
    problem: str = ''


class ArchiveSource(FilesSource):
    """An archive of image files. Names that point outside it are refused; links within the archive are followed."""

    kind = ''

    def _open(self) -> None:
        self._file = open(self.path, 'rb')  # noqa: SIM115 - the file stays open as long as the source exists
        weakref.finalize(self, self._file.close)
        self._entries: dict[str, Entry] = {}
        claim = f'{self.where} is not a readable {self.kind} archive'
        with unreadable(claim, 'it might be truncated, so download or pack it again'):
            entries = self._directory()
        for name, entry in entries:
            problem = _problem(name) or ('occurs twice' if name in self._entries else '')
            if problem or (entry.problem and is_read(name)):
                problem = problem or entry.problem
                raise UserError(f'{self.where}: the entry {printable(name)} {problem}; pack the archive again')
            self._entries[name] = entry
        self._resolve_links()
        self._index(self._entries)

    def _resolve_links(self) -> None:
        for name, entry in list(self._entries.items()):
            if entry.target is None:
                continue
            target = self._entries.get(entry.target)
            if target is not None and target.target is None:
                self._entries[name] = target
            elif is_read(name):
                raise UserError(
                    f'{self.where}: the entry {printable(name)} is a link whose target is not a file in the archive; '
                    f'pack the archive again with the files themselves'
                )

    @abstractmethod
    def _directory(self) -> Sequence[tuple[str, Entry]]:
        """Return the name and the entry of each file and each link in the archive."""

    @abstractmethod
    def _unpack(self, entry: Entry) -> bytes:
        """Return a file's bytes; raises ValueError with the reason if the file is damaged."""

    def _pread(self, size: int, start: int) -> bytes:
        # This uses no lock and no shared file position, so threads and forked workers do not interfere.
        return os.pread(self._file.fileno(), size, start)

    def read_bytes(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        entry = self._entries[name]
        if max(entry.size, entry.packed_size) > limit:
            raise UserError(f'{self.where}: {printable(name)} is larger than {limit} bytes; remove it')
        with unreadable(f'{self.where}: {printable(name)} is damaged', 'download or pack the archive again'):
            data = self._unpack(entry)
            if len(data) != entry.size:
                raise ValueError(f'{len(data)} bytes instead of {entry.size}')
        return data


class ZipSource(ArchiveSource):
    """A ZIP archive. The position, size and checksum of each entry are checked when it is read."""

    kind = 'ZIP'

    def _directory(self) -> list[tuple[str, Entry]]:
        with zipfile.ZipFile(self._file) as archive:
            return [(_zip_name(info), self._entry(info)) for info in archive.infolist() if not info.is_dir()]

    def _entry(self, info: zipfile.ZipInfo) -> Entry:
        entry = Entry(info.file_size, info.compress_size, info, problem=_zip_problem(info))
        if not stat.S_ISLNK(info.external_attr >> 16) or entry.problem:
            return entry
        target = self._unpack(entry).decode(errors='surrogateescape') if info.file_size <= MAX_LINK_BYTES else ''
        return Entry(0, 0, info, target=_joined(_zip_name(info), target))

    def _unpack(self, entry: Entry) -> bytes:
        info = entry.info
        assert isinstance(info, zipfile.ZipInfo)
        header = self._pread(LOCAL_HEADER_BYTES, info.header_offset)
        if header[:4] != LOCAL_HEADER_SIGNATURE:
            raise ValueError('it is not at the position given in the directory')
        name_length, extra_length = struct.unpack('<HH', header[26:30])
        data = self._pread(info.compress_size, info.header_offset + len(header) + name_length + extra_length)
        if info.compress_type == zipfile.ZIP_DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, info.file_size + 1)
        if len(data) == info.file_size and zlib.crc32(data) != info.CRC:
            raise ValueError('wrong checksum')
        return data


class TarSource(ArchiveSource):
    """An uncompressed tar archive."""

    kind = 'tar'

    def _directory(self) -> list[tuple[str, Entry]]:
        # Without this check, a tar that was truncated between two files would seem to be complete.
        if any(self._pread(tarfile.BLOCKSIZE, max(0, os.path.getsize(self.path) - tarfile.BLOCKSIZE))):
            raise ValueError('its last part is missing')
        with tarfile.open(fileobj=self._file, mode='r:') as archive:
            return [(posixpath.normpath(info.name), _tar_entry(info)) for info in archive if not info.isdir()]

    def _unpack(self, entry: Entry) -> bytes:
        assert isinstance(entry.info, tarfile.TarInfo)
        return self._pread(entry.size, entry.info.offset_data)


def _tar_entry(info: tarfile.TarInfo) -> Entry:
    if info.issym() or info.islnk():
        target = posixpath.normpath(info.linkname) if info.islnk() else _joined(info.name, info.linkname)
        return Entry(0, 0, info, target=target)
    problem = '' if info.isreg() and not info.issparse() else 'is a sparse or special file (such as a device)'
    return Entry(info.size, info.size, info, problem=problem)


def _joined(name: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return an entry's name. Archives made by Info-ZIP or on Macs have UTF-8 names without the flag for UTF-8."""
    if info.flag_bits & UTF8_FLAG or info.filename.isascii():
        return info.filename
    try:
        return info.filename.encode('cp437').decode()
    except UnicodeError:
        return info.filename


def _problem(name: str) -> str:
    """Return what is wrong with an entry's name, or ''."""
    if name.startswith('/') or '\\' in name or '\0' in name or re.match(r'[A-Za-z]:', name):
        return 'has an absolute path, or a path with a backslash, drive letter or null character'
    return 'points outside the archive' if '..' in name.split('/') else ''


def _zip_problem(info: zipfile.ZipInfo) -> str:
    if _problem(info.orig_filename):
        return _problem(info.orig_filename)
    if info.flag_bits & ENCRYPTED_FLAG:
        return 'is encrypted'
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return 'uses a compression method other than "store" or "deflate"'
    return ''
