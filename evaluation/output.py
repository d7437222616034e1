"""Where generated images go."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# A contact sheet shows at most this many images, in the order of the seeds.
MAX_GRID_IMAGES = 1024


@dataclass(frozen=True)
class Output:
    """Where to write images, and of which seeds.

    outdir: a folder, or an .npz or .npy for all images. batch_size: images at a time, on each rank. subdirs: a thousand
    images per folder. save_images: whether to save a PNG per seed. grid: file of a contact sheet of the first seeds, or
    None.
    """

    outdir: Path
    seeds: Sequence[int]
    batch_size: int
    subdirs: bool = False
    save_images: bool = True
    grid: Path | None = None
