"""Features computed in advance, in one .npy file per set: generated, training and (optionally) test images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnlib.util import UserError
from evaluation.spaces import FeatureSpace

OPTION = '`features`'


@dataclass(frozen=True)
class Features:
    """Memory-mapped features of each set, in the order of the images, float32 or float64.

    generated: [N, d]. training: [M, d]. test: [T, d], or None.
    """

    generated: np.ndarray
    training: np.ndarray
    test: np.ndarray | None


def read_features(paths: Sequence[str], num_generated: int, num_training: int, num_test: int | None) -> Features:
    """Map two or three files into memory.

    num_generated, num_training, num_test: the required numbers of rows. num_test is None if the number is unknown.
    Raises UserError for files that are not floating-point arrays, for values that are not finite, and for wrong
    numbers of rows or columns.
    """
    arrays = [_map(path) for path in paths]
    counts = [num_generated, num_training, num_test]
    kinds = ('generated', 'training', 'test')
    for path, array, count, kind in zip(paths, arrays, counts, kinds, strict=False):
        if count is not None and len(array) != count:
            raise UserError(f'{OPTION}: {path} has {len(array)} rows, but there are {count} {kind} images')
        if array.shape[1] != arrays[0].shape[1]:
            raise UserError(
                f'{OPTION}: {path} has {array.shape[1]} features per image, but {paths[0]} has '
                f'{arrays[0].shape[1]}; compute all of them with the same extractor'
            )
    return Features(arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else None)


def require_rows(features: np.ndarray) -> None:
    """Raise UserError unless features are finite numbers, [N, d]."""
    if features.ndim != 2 or features.dtype.kind not in 'fiu' or not np.isfinite(features.sum(dtype=np.float64)):
        raise UserError(f'features must be finite numbers [N, d], not {features.dtype} {list(features.shape)}')


def _map(path: str) -> np.ndarray:
    if not Path(path).is_file():
        raise UserError(f'{OPTION}: {path}: no such file; give .npy files of features, float [N, d]')
    try:
        array = np.load(path, mmap_mode='r', allow_pickle=False)
    except Exception as error:  # NumPy raises many kinds of exceptions for corrupt files
        reason = str(error).split('\n')[0] or type(error).__name__
        raise UserError(f'{OPTION}: {path} is not a readable .npy ({reason})') from error
    if not isinstance(array, np.ndarray):
        raise UserError(f'{OPTION}: {path} is an .npz; give an .npy with one array, float [N, d]')
    FeatureSpace().validate(array, f'{OPTION}: {path}')
    return array
