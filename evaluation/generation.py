"""Generated images in a folder, from any generator: one PNG per seed, over any number of ranks.

`generate_to_folder` resumes: it makes only batches that are incomplete. Next to the images it writes
`settings.json`, everything that the images depend on besides their seeds; a folder with other settings is refused.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.locks import sole_use
from dnnlib.util import UserError, atomic_file
from evaluation.generators import ClosedFormGenerator, Generator
from evaluation.nearest_table import NearestTable
from evaluation.pictures import image_path, read_png, save_images
from torch_utils import distributed
from training.contact_sheets import save_contact_sheet
from training.sampling import seed_batches

SETTINGS_NAME = 'settings.json'
# A contact sheet shows at most this many images, in the order of the seeds.
MAX_GRID_IMAGES = 1024


@dataclass(frozen=True)
class Output:
    """Where to write images, and of which seeds.

    batch_size: images at a time, on each rank. subdirs: a thousand images per folder. save_images: whether to save a
    PNG per seed. grid: file of a contact sheet of the first seeds, or None.
    """

    outdir: Path
    seeds: Sequence[int]
    batch_size: int
    subdirs: bool = False
    save_images: bool = True
    grid: Path | None = None


def generate_to_folder(output: Output, generator: Generator, table: NearestTable | None = None) -> None:
    """Make the images that are missing, save them, and hand them to the table.

    Raises UserError for a folder with images of other settings or of unknown origin.
    """
    settings = distributed.on_main(lambda: generator.settings)
    shown = set(output.seeds[:MAX_GRID_IMAGES] if output.grid else [])
    needed = set(output.seeds) if output.save_images else shown

    def unfinished() -> list[list[int]]:
        require_settings(output.outdir, settings)
        known = set(output.seeds) if table is None else table.read()

        def is_done(seed: int) -> bool:
            return seed in known and (seed not in needed or image_path(output.outdir, seed, output.subdirs).exists())

        return [batch for batch in seed_batches(output.seeds, output.batch_size) if not all(map(is_done, batch))]

    batches = distributed.on_main(unfinished)
    sheet: dict[int, Tensor] = {}
    if batches:
        together = generator.sampling.sharded  # all ranks make every batch, instead of each rank its own batches
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


def generate_and_compare(output: Output, generator: ClosedFormGenerator) -> list[dict[str, str]]:
    """Generate images of a closed form into a folder, with the table; return its rows in the order of the seeds.

    Raises UserError for a training set that does not fit in memory, and as `generate_to_folder`.
    """
    table = NearestTable(output.outdir, generator)
    with contextlib.ExitStack() as stack:
        lock = sole_use(output.outdir / '.lock', f'`outdir`={output.outdir}')
        distributed.on_main(lambda: stack.enter_context(lock))
        generate_to_folder(output, generator, table)
        found = distributed.on_main(table.read)
    return [found[seed] for seed in output.seeds]


def save_grid(output: Output, sheet: dict[int, Tensor]) -> None:
    """Save the contact sheet. sheet: images that were made now, by seed; the others are in the folder."""
    assert output.grid is not None
    seeds = output.seeds[:MAX_GRID_IMAGES]
    paths = (image_path(output.outdir, seed, output.subdirs) for seed in seeds)
    images = [sheet[seed] if seed in sheet else read_png(path) for seed, path in zip(seeds, paths, strict=True)]
    save_contact_sheet(output.grid, torch.stack(images))


def require_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Raise UserError if the folder has images of other settings, or images without settings."""
    path = folder / SETTINGS_NAME
    if not path.exists():
        if next(folder.glob('**/*.png'), None):
            raise UserError(f'`outdir`={folder} has images of unknown origin; choose an empty folder')
        return
    try:
        old = dict(json.loads(path.read_text(encoding='utf-8')))
    except (ValueError, TypeError) as error:
        raise UserError(f'{path} is not readable; choose another `outdir`') from error
    new = json.loads(json.dumps(settings))  # infinity and tuples as JSON stores them
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) != new.get(name):
            raise UserError(
                f'`outdir`={folder} has images of other settings ({name} was {old.get(name)}, not {new.get(name)}); '
                f'choose another folder'
            )


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings if they are not there yet."""
    path = folder / SETTINGS_NAME
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write((json.dumps(settings, indent=2) + '\n').encode())
