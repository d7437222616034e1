"""What is kept of a run's best snapshot for whoever reads on: `mem_best.npz`, beside the log.

It has the neighbours of every image, and the images themselves of the first seeds and of the closest calls. A file of
other settings than those asked for is as good as none.
"""

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import atomic_file
from evaluation.memorization import THRESHOLD, Memorization
from training.sampling import GeneratedBatch, seed_batches

BEST_NAME = 'mem_best.npz'
# Images that are kept: those of the first seeds, and those whose ratio of distances is nearest to the threshold.
FIRST_SEEDS = 48
CLOSEST_CALLS = 48


@dataclass(frozen=True)
class BestSnapshot:
    """The arrays of a mem_best.npz.

    snapshot: file name. seeds: int64 [N]. indices, squared_distances: int64 [N, 2], as in `Memorization`.
    images: uint8 [n, C, H, W], generated anew, so that pixels may differ by 1 from those that were judged.
    image_rows: int64 [n], ascending, the rows of `seeds` that they belong to.
    """

    snapshot: str
    seeds: Tensor
    indices: Tensor
    squared_distances: Tensor
    images: Tensor
    image_rows: Tensor

    @property
    def first_images(self) -> Tensor:
        """The images of the first seeds."""
        return self.images[self.image_rows < FIRST_SEEDS]


def write_best(
    path: Path,
    settings: dict[str, Any],
    seeds: Sequence[int],
    batch_size: int,
    result: Memorization,
    generate: Callable[[list[list[int]]], Iterator[GeneratedBatch]],
) -> None:
    """Generate the images to keep, and write the file whole. settings: what tells it from others, as in the record."""
    rows = shown_rows(result.squared_distances)
    shown = [seeds[row] for row in rows.tolist()]
    images = torch.cat([batch.images.cpu() for batch in generate(seed_batches(shown, batch_size))])
    with atomic_file(path) as file:
        np.savez(
            file,
            key=_key(settings),
            snapshot=settings['snapshot'],
            seeds=np.array(seeds, dtype=np.int64),
            indices=result.indices.numpy(),
            squared_distances=result.squared_distances.numpy(),
            images=images.numpy(),
            image_rows=rows.numpy(),
        )


def read_best(path: Path, settings: dict[str, Any]) -> BestSnapshot | None:
    """What is kept of a snapshot of exactly these settings, or None."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as data:
            if str(data['key']) != _key(settings):
                return None
            names = ('seeds', 'indices', 'squared_distances', 'images', 'image_rows')
            return BestSnapshot(str(data['snapshot']), *(torch.from_numpy(data[name]) for name in names))
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None  # a file that cannot be read is as good as none


def shown_rows(squared_distances: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """The rows of int64 [N, 2] whose images are kept: the first ones and the closest calls, ascending, int64 [n].

    A call is the closer, the smaller |log(d1 / d2 / threshold)| is; of equally close ones the first is kept.
    """
    nearest, second = squared_distances.double().unbind(1)
    distance_from_threshold = (0.5 * (nearest / second).log() - np.log(threshold)).abs()
    closest = distance_from_threshold.argsort(stable=True)[:CLOSEST_CALLS]
    return torch.cat([torch.arange(min(FIRST_SEEDS, len(nearest))), closest]).unique()


def _key(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)
