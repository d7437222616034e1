"""A subset of a source's images; an image is decoded only when it is indexed, and is not kept."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from dataset_utils.parallel import MAX_THREADS
from dataset_utils.sources.base import Source, require_square

# Number of images that a thread decodes at a time.
IMAGES_PER_TASK = 32


class PartialSource:
    """A subset of a source's images that behaves like an array uint8 [N, C, R, R]. Indices must be int64 [K].

    part: indices of the subset's images in the source. progress: whether to show a progress bar if stderr is a
    terminal.
    Raises UserError if image 0 of the source is not square. Indexing raises UserError if an image differs in size from
    image 0.
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
