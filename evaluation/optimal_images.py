"""Images of the optimal denoiser on disk, with a table of the training image that each of them replays.

`generate_optimal_images` goes on where an earlier call with the same settings was interrupted: whatever seed has a line
in the table, and its image where images are saved, is done.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from tqdm import tqdm

from dataset_utils import Source
from dnnlib.util import UserError
from evaluation.memorization import TrainingImages
from evaluation.pictures import image_path, save_contact_sheet, save_images
from evaluation.replays import Replay, ReplayTable, count_copies, find_replays
from torch_utils import distributed
from training.closed_form.optimal import OptimalDenoiser
from training.closed_form.rows import Images
from training.dataset import check_shape
from training.sampling import SamplerOptions, generate_images, seed_batches
from training.source_images import SourceImages

# A contact sheet shows this many images at most, in the order of the seeds.
MAX_GRID_IMAGES = 1024


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

    def settings(self, source: Source) -> dict[str, Any]:
        """What the images depend on besides their seeds. The hash is that of the training set's file or files."""
        return {
            'dataset': source.name,
            'dataset_sha256': source.sha256(),
            'sampler': self.sampler.name,
            **self.sampler.given(),
            'conditional': self.conditional,
            'class': self.class_index,
            'precision': 'fp64' if self.float64 else 'fp32',
        }


@dataclass(frozen=True)
class OptimalResult:
    """What became of the seeds: how many images there are, how many of them are copies of a training image as the
    memorization ratio counts them, and how many equal one pixel for pixel."""

    num_images: int
    num_copies: int
    num_exact: int


def generate_optimal_images(source: Source, run: OptimalRun, device: torch.device) -> OptimalResult:
    """Generate, save and compare what is not there yet.

    Results are the same at any batch size and world size. Raises UserError for a class that no training image has, a
    set that does not fit, and an outdir that holds images of other settings.
    """
    labels = class_labels(source, run)
    table = ReplayTable(run.outdir)
    settings = run.settings(source) if distributed.is_main() else {}
    done = distributed.on_main(lambda: table.read(settings))
    shown = set(run.seeds[:MAX_GRID_IMAGES]) if run.grid else set()
    missing = [seed for seed in run.seeds if not is_done(run, seed, done, shown)]
    sheet: dict[int, Tensor] = {}
    if missing:
        denoiser = make_denoiser(source, labels, run, device)
        training = TrainingImages(denoiser.images, where=source.where, sharded=run.shard)
        distributed.on_main(lambda: table.open(settings))
        sheet = generate_missing(denoiser, training, missing, run, table, shown)
    done = distributed.on_main(lambda: table.consolidate(settings))
    if run.grid is not None:
        save_grid(run, run.grid, sheet)
    return OptimalResult(len(run.seeds), *count_copies([done[seed] for seed in run.seeds]))


def class_labels(source: Source, run: OptimalRun) -> Tensor | None:
    """The training set's labels, int64 [N], where they matter. Raises UserError for a class without images."""
    if not run.conditional:
        return None
    if source.labels is None:
        raise UserError(f'--cond=1 and --class need labels, and {source.name} has none; leave both out')
    present = set(source.labels)
    wanted = range(max(present) + 1) if run.class_index is None else [run.class_index]
    absent = sorted(set(wanted) - present)
    if absent and run.class_index is None:
        raise UserError(f'--cond=1: no training image has class {absent[0]}; choose one that exists with --class')
    if absent:
        raise UserError(f'--class={absent[0]}: no training image has it; there are {len(present)} classes')
    return torch.tensor(source.labels)


def make_denoiser(source: Source, labels: Tensor | None, run: OptimalRun, device: torch.device) -> OptimalDenoiser:
    """The optimal denoiser of the whole set, or of this rank's part, of which alone it decodes the images."""
    rank, world_size = (distributed.rank(), distributed.world_size()) if run.shard else (0, 1)
    size = len(source)
    if size < world_size:
        raise UserError(f'--shard: {size} training images cannot be spread over {world_size} ranks; use fewer')
    start, stop = size * rank // world_size, size * (rank + 1) // world_size
    images = images_of(source, range(start, stop), in_memory=run.shard)
    classes = None if labels is None else labels[start:stop]
    if run.shard:
        return OptimalDenoiser(images, classes, device, sharded=True, float64=run.float64)
    return distributed.on_every_rank(lambda: OptimalDenoiser(images, classes, device, float64=run.float64))


def images_of(source: Source, part: range, in_memory: bool) -> Images:
    """Some images of a source; an array on disk stays there, unless they are to be held in memory."""
    mapped = getattr(source, 'images', None)
    if in_memory or not isinstance(mapped, np.memmap):
        return SourceImages(source, part, progress=distributed.is_main())
    check_shape(source.where, mapped.shape[1:])
    return mapped.transpose(0, 3, 1, 2)[part.start : part.stop]


def generate_missing(
    denoiser: OptimalDenoiser,
    training: TrainingImages,
    missing: list[int],
    run: OptimalRun,
    table: ReplayTable,
    shown: set[int],
) -> dict[int, Tensor]:
    """Generate images of seeds, save them and what they replay; return those of `shown` that this rank generated."""
    rank, world_size = (0, 1) if run.shard else (distributed.rank(), distributed.world_size())
    batches = seed_batches(missing, run.batch_size, rank, world_size)
    sheet: dict[int, Tensor] = {}
    total = sum(len(batch) for batch in batches)
    with tqdm(total=total, unit='img', desc='generate', disable=None if distributed.is_main() else True) as bar:
        for batch in generate_images(denoiser, batches, run.sampler, denoiser.device, run.class_index):
            classes = None if batch.class_labels is None else batch.class_labels.tolist()
            replays = find_replays(training, batch.images, classes)
            if distributed.is_main() or not run.shard:
                if run.save_images:
                    save_images(batch.images, batch.seeds, run.outdir, run.subdirs)
                table.append(dict(zip(batch.seeds, replays, strict=True)))
            images = zip(batch.seeds, batch.images.cpu(), strict=True)
            sheet.update({seed: image for seed, image in images if seed in shown})
            bar.update(len(batch.seeds))
    distributed.barrier()
    return sheet


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
