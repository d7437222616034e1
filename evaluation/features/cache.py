"""Features in files that are named by a hash of everything that they depend on, so that they are extracted once."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.download import user_cache
from dnnlib.util import atomic_file


def cached_path(cache_dir: Path | None, depends_on: Mapping[str, Any]) -> Path:
    """Where features are kept, in a folder that is made. cache_dir: None for the user's cache folder."""
    folder = (cache_dir or user_cache()) / 'features'
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f'{hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()}.npy'


def read_cached(path: Path, count: int) -> np.ndarray | None:
    """The features float32 [count, d] of a file, as a memory map; None if it is missing, or damaged, with a note."""
    if not path.exists():
        return None
    try:
        features = np.load(path, mmap_mode='r', allow_pickle=False)
        if features.dtype == np.float32 and features.ndim == 2 and len(features) == count:
            return features
    except Exception:  # numpy raises many exceptions for broken files
        pass
    print(f'Note: {path} is damaged; its features are extracted again.')
    return None


def write_cached(path: Path, features: np.ndarray) -> None:
    with atomic_file(path) as file:
        np.save(file, features)  # type: ignore[arg-type]


def pixels_sha256(batches: Iterable[np.ndarray]) -> str:
    """The hash of images uint8 [N, C, H, W], given in batches of any size."""
    digest = hashlib.sha256()
    for number, pixels in enumerate(batches):
        if number == 0:
            digest.update(str(pixels.shape[1:]).encode())
        digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
