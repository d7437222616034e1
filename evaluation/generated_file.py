"""Saves the images of any generator in one file: an .npz in OpenAI's sample format, or an .npy.

`generate_to_file` resumes an interrupted run from `FILE.partial`. An .npz also stores the settings that determine its
images: a finished file is not generated again, and a file with other settings is refused.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset_utils.sources.arrays import is_npz, is_numpy_name
from dnnlib.locks import sole_use
from dnnlib.util import ArgumentError, UserError, atomic_file
from evaluation.consumers import KeptImages, NearestTwo
from evaluation.generators import Generator
from evaluation.memorization import TrainingImages
from evaluation.one_pass import Consumer, PartialResults, Pass, one_pass
from evaluation.records import format_seeds
from evaluation.saved_arrays import read_arrays, write_arrays
from torch_utils import distributed
from training.contact_sheets import magnified_sheet, require_picture, save_picture

# A contact sheet shows at most this many images, in the order of the seeds.
MAX_GRID_IMAGES = 1024

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Output:
    """Where to write images, and which seeds to generate.

    outdir: a folder, or an .npz or .npy file for all images. batch_size: number of images per batch on each rank.
    subdirs: whether to use a subfolder for every thousand images. save_images: whether to save a PNG per seed. grid:
    path of a contact sheet of the first seeds, or None. Raises UserError if the contact sheet cannot be written.
    """

    outdir: Path
    seeds: Sequence[int]
    batch_size: int
    subdirs: bool = False
    save_images: bool = True
    grid: Path | None = None

    def __post_init__(self) -> None:
        require_picture('grid', self.grid, makes_folder=True)


def is_image_file(path: Path) -> bool:
    """Whether a path names an image file rather than a folder."""
    return is_numpy_name(path) and not path.is_dir()


def generate_to_file(
    output: Output, generator: Generator, compare_with: Callable[[], TrainingImages] | None = None
) -> list[Arrays]:
    """Generate the images of all seeds and save them in the file `output.outdir`.

    compare_with: function that returns the training images to compare with.
    Returns a list with the file's arrays on the main rank, and an empty list on other ranks. The arrays are arr_0
    (images, uint8 [N, H, W, C]), arr_1 (classes, if any), seeds and, if `compare_with` is given, indices and
    squared_distances ([N, 2] each). An .npy holds only arr_0.
    Raises UserError if the file already exists, unless it is an .npz with these images.
    """
    path, context = output.outdir, Pass(output.seeds, output.batch_size)
    if output.subdirs:
        raise ArgumentError(f'`outdir`={path} is a file; remove `subdirs`, or give a folder')
    if not output.save_images:
        raise ArgumentError(f'`outdir`={path} is a file of images; give a folder, or do not turn off `save_images`')
    settings = distributed.on_main(lambda: generator.settings)
    together = generator.sampling.sharded

    def prepare() -> dict[str, Consumer]:
        consumers: dict[str, Consumer] = {'images': KeptImages(context)}
        if compare_with is not None:
            consumers['distances'] = NearestTwo(context, compare_with())
        return consumers

    with contextlib.ExitStack() as stack:
        lock = sole_use(path.with_name(f'.{path.name}.lock'), f'`outdir`={path}')
        distributed.on_main(lambda: stack.enter_context(lock))
        found = distributed.kept_on_main(lambda: read_finished(output, settings))
        if not distributed.on_main(lambda: found != [None]):
            consumers = prepare() if together else distributed.on_every_rank(prepare)
            partial = PartialResults(path.with_name(f'{path.name}.partial'), settings)
            with distributed.progress_bar(len(output.seeds), 'generate') as bar:
                one_pass(generator.generate, context, consumers, partial, bar, together)
            found = distributed.kept_on_main(lambda: write_file(output, settings, consumers))
            distributed.on_main(partial.remove)
        finished = [arrays for arrays in found if arrays is not None]
        if (grid := output.grid) is not None:
            distributed.on_main(lambda: save_grid(grid, finished[0]))
    return finished


def read_finished(output: Output, settings: dict[str, Any]) -> Arrays | None:
    """Read the finished .npz; None if the file does not exist. Raises UserError if its settings or seeds differ."""
    if not output.outdir.exists():
        return None
    arrays = read_arrays(output.outdir, {**settings, 'seeds': format_seeds(output.seeds)})
    if arrays is None:
        raise UserError(
            f'`outdir`={output.outdir} already exists, perhaps with other images; remove it or choose another name'
        )
    return arrays


def write_file(output: Output, settings: dict[str, Any], consumers: Mapping[str, Consumer]) -> Arrays:
    images = consumers['images']
    arrays = {'arr_0': images.rows('pixels').permute(0, 2, 3, 1).contiguous().numpy()}
    classes = images.rows('classes').numpy()
    if (classes >= 0).all():
        arrays['arr_1'] = classes
    arrays['seeds'] = np.array(output.seeds)
    if 'distances' in consumers:
        names = ('indices', 'squared_distances')
        arrays |= {name: consumers['distances'].rows(name).numpy() for name in names}
    if is_npz(output.outdir):
        write_arrays(output.outdir, {**settings, 'seeds': format_seeds(output.seeds)}, arrays)
    else:
        with atomic_file(output.outdir) as file:
            np.save(file, arrays['arr_0'])
    return arrays


def save_grid(path: Path, arrays: Arrays) -> None:
    images = torch.from_numpy(arrays['arr_0'][:MAX_GRID_IMAGES]).permute(0, 3, 1, 2)
    save_picture(path, magnified_sheet(images))
