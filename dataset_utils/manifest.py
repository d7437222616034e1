"""`manifest.json` records how a data set was made, so that the set can be made again. It has no times or paths."""

import json
from typing import Any

import msgspec

from dnnlib.typed import Typed

# Increase this number whenever a change to a rule makes the same command give different images or labels.
VERSION = 1


class Manifest(Typed, frozen=True):
    """The content of `manifest.json`.

    source: file name of the source, or a list of two names for a mixture. source_sha256: hash of each source; see
    `Source.sha256`.
    rule: name of the sub-command, or 'convert' for dataset_tool.py. arguments: this command's options, except paths.
    indices: indices of the images in the source, in order; for a mixture, a list of two such lists.
    labels: how the labels were made, in words. class_names: names of the labels, starting with label 0, or None.
    skipped_files: names of the source's files that were not read as images; absent if there are none.
    original_names: for each image, the name of the image file that it originally came from, or '' if unknown; absent if
    the images do not come from image files.
    """

    source: str | list[str]
    source_sha256: str | list[str]
    rule: str
    arguments: dict[str, Any]
    indices: list[int | list[int]]
    labels: str
    class_names: list[str] | None
    version: int = VERSION
    skipped_files: list[str] | msgspec.UnsetType = msgspec.UNSET
    original_names: list[str] | msgspec.UnsetType = msgspec.UNSET

    def to_json(self) -> str:
        """Return the manifest as JSON; equal manifests give identical JSON."""
        return json.dumps(msgspec.to_builtins(self))


def listed(value: str | list[str]) -> list[str]:
    """Return a manifest's `source` or `source_sha256` as a list with one entry for each source."""
    return [value] if isinstance(value, str) else value
