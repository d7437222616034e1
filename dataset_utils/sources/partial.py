"""Some images of a source, decoded on demand, so that they take only their own time and memory."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from dataset_utils.parallel import MAX_THREADS
from dataset_utils.sources.base import Source, require_square

# Images that one thread decodes at a time.
IMAGES_PER_TASK = 32


class PartialSource:
    """Some images of a source, uint8 [N, C, R, R], as an array whose only index is an array of positions, int64 [K].

    part: indices in the source. progress: show on stderr how many have been decoded, if that is a terminal.
    Raises UserError if images are not square: the first one here, and others that differ from it when they are read.
    """

    ndim, dtype = 4, np.dtype(np.uint8)

    def __init__(self, source: Source, part: range, progress: bool = False):
        self.source, self.part = source, part
        require_square(source.where, source.shape)
        height, width, channels = source.shape
        self.shape = (len(part), channels, height, width)
        self.bar = tqdm(
            total=len(part), desc=f'Reading {source.file_name}', unit='img', disable=None if progress else True
        )

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        tasks = [positions[start : start + IMAGES_PER_TASK] for start in range(0, len(positions), IMAGES_PER_TASK)]
        with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool:
            images = np.concatenate(list(pool.map(self._decode, tasks)))
        self.bar.update(len(positions))
        if self.bar.n >= len(self):
            self.bar.close()
        return images

    def _decode(self, positions: np.ndarray) -> np.ndarray:
        images = [self.source.read_alike(self.part[position]) for position in positions.tolist()]
        return np.stack(images).transpose(0, 3, 1, 2)
