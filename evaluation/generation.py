"""Generates images with any generator, over any number of ranks: `generate` and `generate_and_compare`.

`generate_to_folder` saves one PNG per seed; to resume, it generates only the batches that have missing images. It also
writes `settings.json`, which lists everything that determines the images except their seeds; a folder with different
settings is refused.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dnnlib.locks import sole_use
from evaluation.folder_settings import require_settings, write_settings
from evaluation.generated_file import MAX_GRID_IMAGES, Output, generate_to_file, is_image_file
from evaluation.generators import ClosedFormGenerator, Generator
from evaluation.memorization import memorized
from evaluation.pictures import image_path, read_png, save_images
from evaluation.resumable_table import ResumableTable
from torch_utils import distributed
from training.contact_sheets import magnified_sheet, save_picture
from training.sampling import seed_batches


def generate(output: Output, generator: Generator) -> None:
    """Save the images of all seeds in a folder or in one file; see `generate_to_folder` and `generate_to_file`."""
    if is_image_file(output.outdir):
        generate_to_file(output, generator)
        return
    with sole_use_on_main(output.outdir):
        generate_to_folder(output, generator)


@contextlib.contextmanager
def sole_use_on_main(folder: Path) -> Iterator[None]:
    """Hold a folder's lock inside the block, on the main rank. Raises UserError if another process holds it."""
    with contextlib.ExitStack() as stack:
        lock = sole_use(folder / '.lock', f'`outdir`={folder}')
        distributed.on_main(lambda: stack.enter_context(lock))
        yield


def generate_to_folder(output: Output, generator: Generator, table: ResumableTable | None = None) -> None:
    """Generate and save the images that are missing from the folder, and add their rows to `table` if given.

    A batch is generated unless the folder and `table` already contain all of its images. Without `output.save_images`,
    only images of the contact sheet are expected in the folder.
    The caller holds the folder's lock.
    Raises UserError if the folder holds images with other settings or of unknown origin, or if images are in subfolders
    without `output.subdirs` or the other way round.
    """
    settings = distributed.on_main(lambda: generator.settings)
    shown = set(output.seeds[:MAX_GRID_IMAGES] if output.grid else [])
    needed = set(output.seeds) if output.save_images else shown

    def unfinished() -> list[list[int]]:
        require_settings(output.outdir, settings, output.subdirs)
        known = set(output.seeds) if table is None else table.read()

        def is_done(seed: int) -> bool:
            return seed in known and (seed not in needed or image_path(output.outdir, seed, output.subdirs).exists())

        return [batch for batch in seed_batches(output.seeds, output.batch_size) if not all(map(is_done, batch))]

    batches = distributed.on_main(unfinished)
    sheet: dict[int, Tensor] = {}
    if batches:
        together = generator.sampling.sharded  # all ranks work on every batch, instead of each rank on its own batches
        if table is not None:
            _ = table.training_images if together else distributed.on_every_rank(lambda: table.training_images)
        mine = batches if together else batches[distributed.rank() :: distributed.world_size()]
        write = distributed.is_main() or not together
        with distributed.progress_bar(sum(map(len, mine)), 'generate') as bar:
            for batch in generator.generate(mine):
                write_settings(output.outdir, settings)
                if write and output.save_images:
                    save_images(batch.images, batch.seeds, output.outdir, output.subdirs)
                if table is not None:
                    table.take(batch, write)
                images = zip(batch.seeds, batch.images.cpu(), strict=True)
                sheet.update((seed, image) for seed, image in images if seed in shown)
                bar.update(len(batch.seeds))
    sheet = {seed: image for part in distributed.gather(sheet) for seed, image in part.items()}
    if output.grid is not None:
        distributed.on_main(lambda: save_grid(output, sheet))


def generate_and_compare(output: Output, generator: ClosedFormGenerator) -> tuple[int, int]:
    """Save a closed form's images, and the positions of their nearest training images.

    In a folder, the positions are written to a table; in a file, they are stored as an array.
    Returns the number of copies, and the number of images that equal a training image pixel for pixel.
    Raises UserError for the same reasons as `generate_to_folder`. Also raises it if the training set does not fit in
    memory, or if a window table does not cover the sampler's noise levels.
    """
    generator.require_levels()
    table = ResumableTable(output.outdir, generator)
    if is_image_file(output.outdir):
        arrays = generate_to_file(output, generator, lambda: table.training_images)
        return distributed.on_main(lambda: counts(torch.from_numpy(arrays[0]['squared_distances'])))
    with sole_use_on_main(output.outdir):
        generate_to_folder(output, generator, table)
        found = distributed.on_main(table.read)
    rows = [found[seed] for seed in output.seeds]
    copies, exact = (sum(row[name] == '1' for row in rows) for name in ('memorized', 'exact'))
    return copies, exact


def counts(squared_distances: Tensor) -> tuple[int, int]:
    """Count copies and exact copies. squared_distances: distances to the two nearest training images, int64 [N, 2]."""
    nearest, second = squared_distances.unbind(1)
    return int(memorized(nearest, second).sum()), int((nearest == 0).sum())


def save_grid(output: Output, sheet: dict[int, Tensor]) -> None:
    """Save the contact sheet. sheet: newly generated images by seed; the remaining images are read from the folder."""
    assert output.grid is not None
    seeds = output.seeds[:MAX_GRID_IMAGES]
    paths = (image_path(output.outdir, seed, output.subdirs) for seed in seeds)
    images = [sheet[seed] if seed in sheet else read_png(path) for seed, path in zip(seeds, paths, strict=True)]
    save_picture(output.grid, magnified_sheet(torch.stack(images)))
