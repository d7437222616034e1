"""Images of a closed-form denoiser in a folder, with a table of the training images nearest to each of them."""

from dataclasses import dataclass, field
from typing import Any

import torch

from dataset_utils import Source
from dnnlib.util import UserError
from evaluation.generation import Generate, Output, generate_to_folder
from evaluation.memorization import TrainingImages
from evaluation.nearest_table import NearestTable
from torch_utils import distributed
from training.closed_form import make_denoiser
from training.closed_form.closed_form import compute_device
from training.closed_form.rows import rows_of
from training.sampling import SamplerOptions, generate_images


@dataclass(frozen=True)
class ClosedFormRun:
    """A closed form of a training set, and how it is sampled.

    denoiser: name in `DENOISERS`; parameters: of it. conditional: draw a class for each seed, or take class_index for
    all; else labels are ignored. sharded: the training set is spread over the ranks, which make every batch together.
    """

    denoiser: str
    sampler: SamplerOptions
    parameters: dict[str, Any] = field(default_factory=dict)
    conditional: bool = False
    class_index: int | None = None
    sharded: bool = False

    def settings(self, source: Source) -> dict[str, Any]:
        """What the images depend on besides their seeds; the hash is that of the training set's file or files."""
        return {
            'denoiser': self.denoiser,
            **self.parameters,
            'dataset': source.name,
            'dataset_sha256': source.sha256(),
            'sampler': self.sampler.name,
            **self.sampler.given(),
            'conditional': self.conditional,
            'class': self.class_index,
        }


@dataclass(frozen=True)
class ClosedFormResult:
    """Numbers of images, of copies of a training image as the memorization ratio counts them, and of exact copies."""

    num_images: int
    num_copies: int
    num_exact: int


def generate_closed_form(source: Source, run: ClosedFormRun, output: Output, device: torch.device) -> ClosedFormResult:
    """Generate, save and compare the images that are missing.

    Results are the same at any batch size and number of ranks. Raises UserError for a class without training images, a
    training set that does not fit in memory, and an output folder with images of other settings.
    """
    labels = class_labels(source, run)
    table = NearestTable(output.outdir, run.denoiser)

    def load() -> Generate:
        rows = rows_of(source, labels, compute_device(device), run.sharded)
        denoiser = make_denoiser(run.denoiser, rows, **run.parameters)
        table.training_set = TrainingImages(rows, where=source.where)
        return lambda batches: generate_images(denoiser, batches, run.sampler, rows.device, run.class_index)

    settings = distributed.on_main(lambda: run.settings(source))
    generate_to_folder(output, settings, load, table, together=run.sharded)
    found = distributed.on_main(table.read)
    rows = [found[seed] for seed in output.seeds]
    return ClosedFormResult(len(rows), *(sum(row[name] == '1' for row in rows) for name in ('memorized', 'exact')))


def class_labels(source: Source, run: ClosedFormRun) -> torch.Tensor | None:
    """The training set's labels, int64 [N], if they are used. Raises UserError for a class without images."""
    if not run.conditional:
        return None
    if source.labels is None:
        raise UserError(f'`conditional` and `class_index` need labels, and {source.name} has none; remove both')
    present = set(source.labels)
    wanted = range(max(present) + 1) if run.class_index is None else [run.class_index]
    absent = sorted(set(wanted) - present)
    if absent and run.class_index is None:
        raise UserError(f'`conditional`: no training image has class {absent[0]}; choose another with `class_index`')
    if absent:
        raise UserError(f'`class_index`={absent[0]}: no training image has it; there are {len(present)} classes')
    return torch.tensor(source.labels)
