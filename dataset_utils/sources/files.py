"""Image files in a folder or archive, labelled by `dataset.json` or by their subfolders."""

import re
from abc import abstractmethod
from collections.abc import Collection
from functools import cached_property

import numpy as np
from msgspec import UNSET

from dataset_utils.manifest import Manifest
from dataset_utils.png import is_contact_sheet
from dataset_utils.sources.base import Source, escaped, printable, some
from dataset_utils.sources.decoding import (
    FORMATS,
    MAX_FILE_BYTES,
    decode_image,
    has_colour,
    is_heic_name,
    is_image_name,
)
from dataset_utils.sources.labels import LABELS_FILE, folder_labels, listed_labels, refuse_splits
from dnnlib.typed import parse_json
from dnnlib.util import UserError, counted

MANIFEST_FILE = 'manifest.json'
MAX_JSON_BYTES = 1 << 29
# The presence of this file identifies a run folder of train.py.
RUN_FILE = 'training_options.json'
SEED_NAME = re.compile(r'(?:.*/)?\d+\.png')


class FilesSource(Source):
    """Image files, sorted by name.

    Labels come from `dataset.json` in the top folder, in which {"labels": null} means no labels. Without this file, the
    subfolders are the classes; see `folder_labels`. Labels are read on first use.
    skipped: sorted names of contact sheets and of files that are not images, except hidden files, `dataset.json` and
    `manifest.json`.
    """

    def _index(self, names: Collection[str]) -> None:
        """Find the images among all file names."""
        # Indices of the images to which each remark applies; `_largest` maps each index to the image's largest value.
        self._turned: set[int] = set()
        self._animated: set[int] = set()
        self._transparent: set[int] = set()
        self._largest: dict[int, int] = {}
        visible = {name for name in names if not is_hidden(name)}
        self._others = {name for name in visible if name == MANIFEST_FILE or f'/{name}'.endswith(f'/{LABELS_FILE}')}
        candidates = sorted(visible - self._others)
        images = [name for name in candidates if is_image_name(name)]
        if RUN_FILE in visible and not any(SEED_NAME.fullmatch(name) for name in images):
            raise UserError(
                f'{self.where} is a run folder, which contains contact sheets but no single images; '
                'give the training set, or a folder of generated images'
            )
        sheets = self._contact_sheets(images)
        self.names = [name for name in images if name not in sheets]
        self.skipped = [name for name in candidates if name in sheets or not is_image_name(name)]
        if not self.names:
            has_heic = any(map(is_heic_name, self.skipped))
            raise UserError(
                f'{self.where} contains no images ({" ".join(FORMATS)})'
                f'{f", only {some(self.skipped)}" if self.skipped else ""}; '
                f'{"convert HEIC photographs to JPEG or PNG" if has_heic else "give a folder or archive of images"}'
            )
        if LABELS_FILE not in self._others:
            refuse_splits(self.names, self.where)

    def _contact_sheets(self, images: list[str]) -> set[str]:
        """Find contact sheets that this toolkit saved next to images named after their seeds."""
        others = [name for name in images if name.endswith('.png') and not SEED_NAME.fullmatch(name)]
        if len(others) == len(images):
            return set()
        return {name for name in others if is_contact_sheet(self.read_bytes(name))}

    @abstractmethod
    def read_bytes(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        """Return a file's bytes; raises UserError if the file is damaged or larger than `limit` bytes."""

    def __len__(self) -> int:
        return len(self.names)

    def describe(self, index: int) -> str:
        return printable(self.names[index])

    @cached_property
    def manifest(self) -> Manifest | None:  # type: ignore[override]
        if not {LABELS_FILE, MANIFEST_FILE} <= self._others:
            return None
        return parse_json(self.read_bytes(MANIFEST_FILE, MAX_JSON_BYTES), Manifest, f'{self.where}: {MANIFEST_FILE}')

    @cached_property
    def labels(self) -> list[int] | None:
        return self._labelling[0]

    @cached_property
    def class_names(self) -> list[str] | None:
        return self._labelling[1]

    @cached_property
    def _labelling(self) -> tuple[list[int] | None, list[str] | None]:
        if LABELS_FILE not in self._others:
            nested = min(self._others - {MANIFEST_FILE}, default=None)
            if nested:
                deeper = printable(nested.removesuffix(LABELS_FILE))
                raise UserError(
                    f'{self.where}: the data set is in the subfolder {deeper}; '
                    f'give that folder, or pack its content without the enclosing folder'
                )
            return folder_labels(self.names, self.where)
        labels = listed_labels(self.read_bytes(LABELS_FILE, MAX_JSON_BYTES), self.names, self.where)
        class_names = self.manifest.class_names if self.manifest else None
        if class_names is not None and labels is not None and max(labels) >= len(class_names):
            raise UserError(
                f'{self.where}: {MANIFEST_FILE} names {counted(len(class_names), "class", "d")}, but {LABELS_FILE} has '
                f'the label {max(labels)}; make the data set again'
            )
        return labels, class_names

    @cached_property
    def original_names(self) -> list[str] | None:
        if self.manifest is None:
            return list(map(escaped, self.names))
        names = self.manifest.original_names
        return names if names is not UNSET and len(names) == len(self) else None

    def _label_lines(self) -> list[str]:
        try:
            labels = self.labels
        except UserError:  # unusable labels count as no labels
            labels = None
        return ['None'] * len(self) if labels is None else [str(label) for label in labels]

    def _stored_channels(self) -> int:
        return 3 if any(map(self._has_colour, self.names)) else 1

    def _has_colour(self, name: str) -> bool:
        try:
            return has_colour(self.read_bytes(name))
        except UserError:  # a damaged file is reported when it is decoded
            return False

    def _decode(self, index: int) -> np.ndarray:
        name = self.names[index]
        decoded = decode_image(self.read_bytes(name), self.where, name, self.reading.exif_transpose)
        if decoded.is_turned:
            self._turned.add(index)
        if decoded.is_animated:
            self._animated.add(index)
        if decoded.is_transparent:
            self._transparent.add(index)
        if decoded.largest is not None:
            self._largest[index] = decoded.largest
        return decoded.pixels

    def remarks(self) -> list[str]:
        remarks = []
        sheets = [name for name in self.skipped if is_image_name(name)]
        heic = [name for name in self.skipped if is_heic_name(name)]
        others = [name for name in self.skipped if not is_image_name(name) and not is_heic_name(name)]
        if others:
            are = 'is not an image' if len(others) == 1 else 'are not images'
            remarks.append(f'skipped {counted(len(others), "file")} that {are}: {some(others)}.')
        if heic:
            several = counted(len(heic), 'HEIC photograph')
            remarks.append(f'skipped {several}: {some(heic)}; HEIC cannot be read, so convert to JPEG or PNG.')
        if sheets:
            remarks.append(f'skipped {counted(len(sheets), "contact sheet")} of generated images: {some(sheets)}.')
        if LABELS_FILE not in self._others and '/' in self.names[0] and '_labelling' in self.__dict__:
            remarks.append(
                f'{counted(len(self.class_names), "class")}, named after the folders {some(self.class_names)}; '
                f'dataset_tool.py --no-labels ignores them.'
                if self.class_names
                else 'no labels, because the folders only divide the numbered images into groups.'
            )
        if self._turned:
            remarks.append(
                f'did not rotate {counted(len(self._turned), "image")} with an EXIF orientation (such as '
                f'{self.describe(min(self._turned))}); dataset_tool.py --exif-transpose rotates them.'
            )
        if self._animated:
            several = counted(len(self._animated), 'image')
            remarks.append(f'read only the first frame of {several} with several frames.')
        if self._transparent:
            remarks.append(
                f'dropped the transparency of {counted(len(self._transparent), "image")} (such as '
                f'{self.describe(min(self._transparent))}), so hidden colours are visible; to avoid this, put the '
                f'images on an opaque background first.'
            )
        top = max(self._largest.values(), default=1 << 15)
        if top < 1 << 15:
            remarks.append(
                f'the result is dark for {counted(len(self._largest), "image")} with 16 bits per channel, because no '
                f'value exceeds {top} of 65535; save with the full range, or as .pgm or TIFF files that state their '
                f'largest value.'
            )
        return remarks


def is_hidden(name: str) -> bool:
    """Return whether file managers hide some part of a path, such as '.git' or '__MACOSX'."""
    return any(part.startswith('.') or part == '__MACOSX' for part in name.split('/'))


def is_read(name: str) -> bool:
    """Return whether a file with this name is read: an image, the labels or the manifest."""
    return is_image_name(name) or name in (LABELS_FILE, MANIFEST_FILE)
