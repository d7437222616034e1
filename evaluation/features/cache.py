"""A cache of extracted features; the name of each file is a hash of everything that determines its features."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.download import user_cache
from dnnlib.util import atomic_file


def cached_path(cache_dir: Path | None, depends_on: Mapping[str, Any]) -> Path:
    """Return the path of a cache file, and create its folder. cache_dir: if None, the user's cache folder.

    depends_on: everything that determines the features, as values that JSON can store.
    """
    folder = (cache_dir or user_cache()) / 'features'
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f'{hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()}.npy'


def read_cached(path: Path, count: int) -> np.ndarray | None:
    """Memory-map a file of features, float32 [count, d].

    Returns None if the file is missing, or if its checksum is wrong or missing (this also prints a note).
    """
    if not path.exists():
        return None
    try:
        features = np.load(path, mmap_mode='r', allow_pickle=False)
        with open(path, 'rb') as file:
            file.seek(features.offset + features.nbytes)
            is_valid = file.read() == _checksum(features)
        if is_valid and features.dtype == np.float32 and features.ndim == 2 and len(features) == count:
            return features
    except Exception:  # NumPy raises many kinds of exceptions for corrupt files
        pass
    print(f'Note: {path} has no valid checksum; its features are extracted again.')
    return None


def write_cached(path: Path, features: np.ndarray) -> None:
    """Write features as in an .npy, followed by a checksum, which readers of .npy files ignore."""
    with atomic_file(path) as file:
        np.save(file, features)  # type: ignore[arg-type]
        file.write(_checksum(features))


def _checksum(features: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(features).data).digest()


def pixels_sha256(batches: Iterable[np.ndarray]) -> str:
    """The hash of images, independent of how they are split into batches. batches: uint8 [N, C, H, W] each."""
    digest = hashlib.sha256()
    for number, pixels in enumerate(batches):
        if number == 0:
            digest.update(str(pixels.shape[1:]).encode())
        digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
