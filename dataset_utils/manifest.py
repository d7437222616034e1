"""How a data set was made, in `manifest.json`: enough to make it again, and nothing that differs between two runs."""

import dataclasses
import json
from typing import Any

from dnnlib.util import UserError

# Raised when a rule changes, so that the same command gives other images or bytes than before.
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    source: file name of the source, a list of two for a mixture; source_sha256 likewise, see `Source.sha256`.
    rule: the sub-command, or 'convert' for dataset_tool.py; arguments: its options, without paths.
    indices: of each image in the source, in order; a list of two such lists for a mixture.
    labels: how the labels were made, in words. class_names: of label 0, 1, ..., or None.
    """

    source: str | list[str]
    source_sha256: str | list[str]
    rule: str
    arguments: dict[str, Any]
    indices: list[int] | list[list[int]]
    labels: str
    class_names: list[str] | None
    version: int = VERSION

    def to_json(self) -> str:
        """Write the manifest as JSON text, the same text for the same manifest."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(content: Any, where: str) -> 'Manifest':
        """Read what `json.loads` made of a manifest; `where` names the file in the UserError for one that is not."""
        names = [field.name for field in dataclasses.fields(Manifest)]
        if not isinstance(content, dict) or set(content) != set(names):
            raise UserError(f'{where} must have exactly the keys {", ".join(names)}; remove it or make the set again')
        manifest = Manifest(**content)
        class_names = manifest.class_names
        sound = (
            (class_names is None or _is_list_of(class_names, str))
            and (isinstance(manifest.source, str) or _is_list_of(manifest.source, str))
            and (isinstance(manifest.source_sha256, str) or _is_list_of(manifest.source_sha256, str))
            and isinstance(manifest.rule, str)
            and isinstance(manifest.arguments, dict)
            and (_is_list_of(manifest.indices, int) or _is_list_of(manifest.indices, list))
            and isinstance(manifest.labels, str)
            and isinstance(manifest.version, int)
        )
        if not sound:
            raise UserError(f'{where} has values of the wrong kind; remove it or make the data set again')
        return manifest


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
