"""Images of the optimal denoiser on disk, with a table of the training image that each of them replays.

`generate_optimal_images` goes on where an earlier call with the same settings was interrupted: whatever seed has a line
in the table, and its image where images are saved, is done.
"""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from tqdm import tqdm

from dnnlib.util import UserError, atomic_file
from evaluation.images import image_path, save_contact_sheet, save_images
from torch_utils import distributed
from training.dataset import Dataset
from training.optim import OptimalDenoiser
from training.sampling import SamplerOptions, generate_images, seed_batches

# A contact sheet shows this many images at most, in the order of the seeds.
MAX_GRID_IMAGES = 1024
# Noise so low that every image but the nearest has a weight of 0.
SIGMA_OF_NEAREST = 0.01
COLUMNS = ('seed', 'class', 'nearest', 'squared_distance')


@dataclass(frozen=True)
class OptimalRun:
    """What to generate, and where to put it.

    batch_size: images at a time, on each rank. conditional: a class per seed, or class_index for all where given; else
    the training set's labels are ignored. shard: each rank holds a part of the training set, and all ranks work on the
    same images. grid: file of a contact sheet, or None.
    """

    outdir: Path
    seeds: list[int]
    batch_size: int
    sampler: SamplerOptions
    conditional: bool = False
    class_index: int | None = None
    subdirs: bool = False
    save_images: bool = True
    grid: Path | None = None
    shard: bool = False
    float64: bool = False

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """What the images depend on besides their seeds."""
        return {
            'dataset': dataset.name,
            'dataset_sha256': dataset.sha256,
            'sampler': self.sampler.name,
            **self.sampler.given(),
            'conditional': self.conditional,
            'class': self.class_index,
            'precision': 'fp64' if self.float64 else 'fp32',
        }


@dataclass(frozen=True)
class Replay:
    """The training image that a generated one is nearest to: class_index or None, its index, squared pixel distance."""

    class_index: int | None
    nearest: int
    squared_distance: int


def generate_optimal_images(dataset: Dataset, run: OptimalRun, device: torch.device) -> float:
    """Generate, save and compare what is not there yet; return the share of pixel-for-pixel copies over all seeds.

    Results are the same at any batch size and world size. Raises UserError for a class that no training image has, and
    an outdir that holds images of other settings.
    """
    denoiser = make_denoiser(dataset, run, device)
    table = ReplayTable(run.outdir)
    done = distributed.on_main(lambda: table.open(run.settings(dataset)))
    shown = set(run.seeds[:MAX_GRID_IMAGES]) if run.grid else set()
    missing = [seed for seed in run.seeds if not is_done(run, seed, done, shown)]
    rank, world_size = (0, 1) if run.shard else (distributed.rank(), distributed.world_size())
    batches = seed_batches(missing, run.batch_size, rank, world_size)
    sheet: dict[int, Tensor] = {}
    total = sum(len(batch) for batch in batches)
    with tqdm(total=total, unit='img', desc='generate', disable=None if distributed.is_main() else True) as bar:
        for batch in generate_images(denoiser, batches, run.sampler, device, run.class_index):
            replays = find_replays(denoiser, batch.images, batch.class_labels)
            if distributed.is_main() or not run.shard:
                if run.save_images:
                    save_images(batch.images, batch.seeds, run.outdir, run.subdirs)
                table.append(dict(zip(batch.seeds, replays, strict=True)))
            images = zip(batch.seeds, batch.images.cpu(), strict=True)
            sheet.update({seed: image for seed, image in images if seed in shown})
            bar.update(len(batch.seeds))
    distributed.barrier()
    done = distributed.on_main(table.consolidate)
    if run.grid is not None:
        save_grid(run, run.grid, sheet)
    return sum(done[seed].squared_distance == 0 for seed in run.seeds) / len(run.seeds)


def make_denoiser(dataset: Dataset, run: OptimalRun, device: torch.device) -> OptimalDenoiser:
    """The optimal denoiser of the whole set, or of this rank's part. Raises UserError for a class without images."""
    labels = dataset.labels if run.conditional else None
    if run.conditional:
        if labels is None:
            raise UserError(f'--cond=1 and --class need labels, and {dataset.name} has none; leave both out')
        present = set(labels.tolist())
        wanted = range(max(present) + 1) if run.class_index is None else [run.class_index]
        absent = sorted(set(wanted) - present)
        if absent and run.class_index is None:
            raise UserError(f'--cond=1: no training image has class {absent[0]}; choose one that exists with --class')
        if absent:
            raise UserError(f'--class={absent[0]}: no training image has it; there are {len(present)} classes')
    images = dataset.images
    if run.shard:
        size, world_size = len(images), distributed.world_size()
        if size < world_size:
            raise UserError(f'--shard: {size} training images cannot be spread over {world_size} ranks; use fewer')
        bounds = [size * k // world_size for k in range(world_size + 1)]
        part = slice(bounds[distributed.rank()], bounds[distributed.rank() + 1])
        images, labels = images[part], None if labels is None else labels[part]
    return OptimalDenoiser(images, labels, device, sharded=run.shard, float64=run.float64)


def find_replays(denoiser: OptimalDenoiser, images: Tensor, class_labels: Tensor | None) -> list[Replay]:
    """The nearest training image of each of uint8 [B, C, R, R]; of several copies the first."""
    x = images.to(torch.float64) / 127.5 - 1
    statistics = denoiser.statistics(x, SIGMA_OF_NEAREST)
    squared = (statistics.distance * 127.5).square().round().to(torch.int64).tolist()
    classes = [None] * len(images) if class_labels is None else class_labels.tolist()
    return [Replay(*values) for values in zip(classes, statistics.nearest.tolist(), squared, strict=True)]


def is_done(run: OptimalRun, seed: int, done: dict[int, Replay], shown: set[int]) -> bool:
    """Whether nothing of a seed is missing: its line in the table, and its image where one is wanted."""
    if run.save_images or seed in shown:
        return seed in done and image_path(run.outdir, seed, run.subdirs).exists()
    return seed in done


def save_grid(run: OptimalRun, path: Path, sheet: dict[int, Tensor]) -> None:
    """Save the contact sheet. sheet: images that this rank generated; the others are on disk."""
    images = {seed: image for part in distributed.gather(sheet) for seed, image in part.items()}

    def save() -> None:
        for seed in run.seeds[:MAX_GRID_IMAGES]:
            if seed not in images:
                with PIL.Image.open(image_path(run.outdir, seed, run.subdirs)) as picture:
                    pixels = torch.from_numpy(np.array(picture))
                images[seed] = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        save_contact_sheet(path, torch.stack([images[seed] for seed in run.seeds[:MAX_GRID_IMAGES]]))

    distributed.on_main(save)


class ReplayTable:
    """The table `nearest.csv` of a folder, and `nearest.json`, the settings that its images have in common.

    While images are made, each rank appends to a part of its own, so that nothing is lost when it is killed.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / 'nearest.csv'
        self.part = folder / f'nearest.rank{distributed.rank()}.csv'

    def open(self, settings: dict[str, Any]) -> dict[int, Replay]:
        """What earlier calls found, by seed. Raises UserError where they had other settings."""
        settings_path = self.folder / 'nearest.json'
        if settings_path.exists():
            refuse_other_settings(self.folder, read_settings(settings_path), settings)
        elif next(self.folder.glob('**/*.png'), None):
            raise UserError(f'--outdir={self.folder} has images of unknown origin; choose an empty folder')
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(settings_path) as file:
            file.write((json.dumps(settings, indent=2) + '\n').encode())
        return self.consolidate()

    def append(self, replays: dict[int, Replay]) -> None:
        """Add lines to this rank's part."""
        with open(self.part, 'a', encoding='utf-8', newline='') as file:
            file.write(table_lines(replays))

    def consolidate(self) -> dict[int, Replay]:
        """Move all parts into the table, in the order of seeds; return its lines."""
        parts = sorted(self.folder.glob('nearest.rank*.csv'))
        replays = {seed: replay for path in [self.path, *parts] for seed, replay in read_table(path)}
        replays = dict(sorted(replays.items()))
        with atomic_file(self.path) as file:
            file.write((','.join(COLUMNS) + '\n' + table_lines(replays)).encode())
        for part in parts:
            part.unlink()
        return replays


def read_settings(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding='utf-8')))
    except ValueError as error:
        raise UserError(f'{path} is not readable; choose another --outdir') from error


def refuse_other_settings(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    # Through JSON, where infinity and tuples take the form that the file has.
    new = json.loads(json.dumps(new))
    different = [name for name in new if old.get(name) != new[name]]
    if different:
        name = different[0]
        raise UserError(
            f'--outdir={folder} has images of other settings ({name} was {old.get(name)}, not {new[name]}); '
            f'choose another folder'
        )


def table_lines(replays: dict[int, Replay]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    for seed, replay in replays.items():
        class_index = '' if replay.class_index is None else replay.class_index
        writer.writerow([seed, class_index, replay.nearest, replay.squared_distance])
    return text.getvalue()


def read_table(path: Path) -> Iterable[tuple[int, Replay]]:
    """Lines of a table or a part of one; one that was cut short is left out."""
    if not path.exists():
        return
    # A line that is not ended may lack digits.
    for line in path.read_text(encoding='utf-8').rpartition('\n')[0].splitlines():
        fields = line.split(',')
        if len(fields) == len(COLUMNS) and fields[0].isdigit():
            seed, class_index, nearest, squared_distance = fields
            yield int(seed), Replay(int(class_index) if class_index else None, int(nearest), int(squared_distance))
