"""Arrays in an `.npz` file, stored with the settings that determine them."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.util import atomic_file


def write_arrays(path: Path, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays, uncompressed. settings: values that JSON can store."""
    with atomic_file(path) as file:
        np.savez(file, key=_key(settings), **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path, settings: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """Read the arrays; None if their settings differ, or if the file is missing or corrupt."""
    try:
        with np.load(path, allow_pickle=False) as data:
            if str(data['key']) == _key(settings):
                return {name: data[name] for name in data.files if name != 'key'}
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass
    return None


def read_settings(path: Path) -> dict[str, Any]:
    """Read only the settings; empty if the file is missing or corrupt."""
    try:
        with np.load(path, allow_pickle=False) as data:
            return dict(json.loads(str(data['key'])))
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return {}


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)
