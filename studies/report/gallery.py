"""A point's generated images, each with its two nearest training images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset_utils import open_source
from dataset_utils.sources.base import Source
from dnnlib.util import UserError
from evaluation.best_images import BEST_NAME, BestSnapshot, read_best
from evaluation.memorization import closest_places, memorized, spread_places
from evaluation.pictures import is_mirrored, rms_per_pixel
from evaluation.records import best_record
from studies.points import read_result
from studies.report.run_files import all_records


@dataclass(frozen=True)
class GalleryItem:
    """A generated image and its two nearest distinct training images. All three are uint8 [C, H, W], C = 1 or 3.

    nearest, second: the training images, mirrored if the generated image was compared with their mirror images.
    distance, second_distance: root mean square differences per pixel, in grey levels, between the generated image and
    the two training images. memorized: whether the generated image is a copy.
    """

    seed: int
    generated: np.ndarray
    nearest: np.ndarray
    second: np.ndarray
    distance: float
    second_distance: float
    memorized: bool

    @property
    def ratio(self) -> float:
        """The nearest distance divided by the second-nearest distance.

        The generated image is a copy if this ratio is below 1/3.
        """
        return self.distance / max(self.second_distance, 1e-9)


def read_gallery(folder: Path, size: int, *, spread: bool = False) -> list[GalleryItem]:
    """Read at most `size` generated images of a point's best snapshot, and their nearest training images.

    spread: whether the images are spread evenly over the generated set; by default, they are the images whose ratio is
    closest to the copy threshold.
    Returns an empty list if the folder lacks the generated images or their training set.
    """
    best = best_images(folder)
    if best is None:
        return []
    rows = spread_places(len(best.images), size) if spread else closest_places(best.squared_distances, size)
    try:
        return _items(best, open_source(folder / 'data.zip'), rows)
    except (UserError, IndexError, RuntimeError):
        return []  # the training set cannot be read, or differs from the one used in the evaluation


def best_images(folder: Path) -> BestSnapshot | None:
    """The generated images of a point's best snapshot; None if its folder lacks them or their training set."""
    records = list(filter(None, [read_result(folder)])) or all_records(folder / 'run')
    if not records or not (folder / 'data.zip').exists():
        return None
    return read_best(folder / 'run' / BEST_NAME, best_record(records))


def _items(best: BestSnapshot, training: Source, rows: Tensor) -> list[GalleryItem]:
    indices, squared = best.indices[rows], best.squared_distances[rows]
    copies = memorized(squared[:, 0], squared[:, 1])
    num_pixels = best.images[0].numel()
    distances = rms_per_pixel(squared.flatten(), num_pixels).reshape(-1, 2)
    items = []
    for place, row in enumerate(rows.tolist()):
        near, second = (
            _as_compared(best.images[row], training.read(index), distance)
            for index, distance in zip(indices[place].tolist(), squared[place].tolist(), strict=True)
        )
        items.append(
            GalleryItem(
                seed=int(best.seeds[row]),
                generated=best.images[row].numpy(),
                nearest=near,
                second=second,
                distance=float(distances[place, 0]),
                second_distance=float(distances[place, 1]),
                memorized=bool(copies[place]),
            )
        )
    return items


def _as_compared(generated: Tensor, training_image: np.ndarray, squared_distance: int) -> np.ndarray:
    """Convert a training image, uint8 [H, W, C], to [C, H, W]; mirror it if this gives its distance."""
    pixels = torch.from_numpy(training_image.transpose(2, 0, 1).copy())
    return (pixels.flip(-1) if is_mirrored(generated, pixels, squared_distance) else pixels).numpy()
