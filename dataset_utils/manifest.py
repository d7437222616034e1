"""How a data set was made, in `manifest.json`: enough to make the same data set again, without times or paths."""

import json
from typing import Any

import msgspec

from dnnlib.typed import Typed

# Increased when a rule changes, so that the same command gives different images or labels.
VERSION = 1


class Manifest(Typed, frozen=True):
    """The content of `manifest.json`.

    source: file name of the source, or a list of two for a mixture; source_sha256: of each, see `Source.sha256`.
    rule: the sub-command, or 'convert' for dataset_tool.py; arguments: its options, without paths.
    indices: indices of the images in the source, in order; a list of two such lists for a mixture.
    labels: how the labels were made, in words. class_names: names of label 0, 1, ..., or None.
    skipped_files: names of the files next to the images that are not images; absent if there are none.
    original_names: of the image files that the images were first read from, in order; '' if unknown. Absent if the
    images do not come from such files.
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
        """Return the manifest as JSON text; equal manifests give equal text."""
        return json.dumps(msgspec.to_builtins(self))


def listed(value: str | list[str]) -> list[str]:
    """Return a value of a manifest for each of its sources."""
    return [value] if isinstance(value, str) else value
