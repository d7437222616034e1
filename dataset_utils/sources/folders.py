"""A folder of image files."""

import hashlib
import os
from collections.abc import Sequence

from dataset_utils.sources.base import printable, unreadable
from dataset_utils.sources.decoding import MAX_FILE_BYTES
from dataset_utils.sources.files import FilesSource, is_hidden, is_read
from dnnlib.util import UserError


class FolderSource(FilesSource):
    """A folder of image files, including all subfolders.

    Links to targets inside the folder are followed; links to other targets are followed only if `reading` allows it. A
    folder to which several links point is read only once.
    """

    def _open(self) -> None:
        self._index(self._walk())

    def _walk(self) -> list[str]:
        root = os.path.realpath(self.path)
        names: list[str] = []
        folders, links = [''], list[str]()
        seen = {root}
        while folders or links:
            # Links are followed last, so that a folder that is also reached directly keeps its own name.
            folder = folders.pop() if folders else links.pop()
            with os.scandir(os.path.join(self.path, folder)) as found:
                entries = sorted(found, key=lambda entry: entry.name, reverse=True)
            for entry in entries:
                name = folder + entry.name
                if is_hidden(name):
                    continue
                is_link = entry.is_symlink()
                if is_link and not self._may_follow(entry, name, root):
                    continue
                if entry.is_dir():
                    real = os.path.realpath(entry.path)
                    if real not in seen or not is_link:
                        (links if is_link else folders).append(f'{name}/')
                    seen.add(real)
                elif entry.is_file() or (is_link and not os.path.exists(entry.path)):
                    names.append(name)
        return names

    def _may_follow(self, entry: os.DirEntry, name: str, root: str) -> bool:
        real = os.path.realpath(entry.path)
        if self.reading.follow_links or os.path.commonpath([root, real]) == root:
            return True
        if entry.is_dir() or is_read(name):
            raise UserError(
                f'{self.where}: {printable(name)} is a symbolic link to a target outside the folder; read it with '
                f'dataset_tool.py --follow-links, or replace it with a copy of its target'
            )
        return False

    def read_bytes(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        report = unreadable(f'{self.where}: {printable(name)} cannot be read', 'fix or remove it')
        with report, open(os.path.join(self.path, name), 'rb') as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise UserError(f'{self.where}: {printable(name)} is larger than {limit} bytes; remove it')
        return data

    def sha256(self, indices: Sequence[int] | None = None) -> str:
        digest = hashlib.sha256()
        for name, label in zip(self.names, self._label_lines(), strict=True):
            digest.update(f'{name}\0{label}\n'.encode(errors='surrogateescape'))
        for index in range(len(self)) if indices is None else indices:
            digest.update(hashlib.sha256(self.read_bytes(self.names[index])).digest())
        return digest.hexdigest()
