"""One pass over generated images: each batch is sampled once, on one rank, and passed to every consumer there.

A consumer is one use of the images, such as saving them. The consumers' results are saved every few seconds; when an
interrupted pass resumes, the saved results are passed to the consumers again.
"""

import itertools
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from evaluation.given_images import ImageSet
from evaluation.measurement import Measurement
from evaluation.memorization import Memorization, TrainingSet
from evaluation.saved_arrays import read_arrays, write_arrays
from torch_utils import distributed
from training.sampling import GeneratedBatch, seed_batches

SECONDS_BETWEEN_SAVES = 5.0

# Maps batches of seeds to their images, one batch at a time.
Generate = Callable[[list[list[int]]], Iterator[GeneratedBatch]]
# Maps each consumer's name to the result of its `take` for a batch: named tensors with one row per seed.
Taken = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Pass:
    """The images that a pass goes over.

    seeds: the seed of each image (or its position in a given set). batch_size: number of images per batch on each rank.
    """

    seeds: Sequence[int]
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Context(Pass):
    """A pass that compares images with a training set, and everything its consumers need.

    name: the name of the generator or given set. keep_images: whether to keep images in memory because they are not
    stored elsewhere. image_root: parent of the folder to save images in, or None. image_settings: everything that
    determines the saved images except their seeds. subdirs: whether to use a subfolder for every thousand images.
    raced_seeds: in a race, the seeds with which the winner is sampled (`seeds` are the first of these); None if there
    is no race. measurement: what to compute for the record in addition to the ratio.
    """

    training_set: TrainingSet
    name: str = ''
    keep_images: bool = True
    image_root: Path | None = None
    image_settings: Mapping[str, Any] = field(default_factory=dict)
    subdirs: bool = False
    raced_seeds: Sequence[int] | None = None
    measurement: Measurement | None = None


class Consumer(ABC):
    """One use of generated images.

    `take` runs on the rank that sampled a batch. Its result is sent to the main rank and passed to `add`, batch by
    batch in seed order, so results do not depend on the number of ranks or on interruptions. At the end, the main rank
    calls `finish`.
    """

    def __init__(self, context: Pass):
        self.context = context
        self._rows: dict[int, Mapping[str, Tensor]] = {}

    @classmethod
    def wanted(cls, context: Context) -> bool:
        """Whether a pass with this context needs the consumer."""
        return True

    @abstractmethod
    def take(self, batch: GeneratedBatch) -> dict[str, Tensor]:
        """Return what to send to the main rank for a batch: CPU tensors with one row per seed."""

    def add(self, seeds: Sequence[int], taken: Mapping[str, Tensor]) -> None:
        """Receive the result of `take` on the main rank; by default, all rows are kept for `rows`."""
        for place, seed in enumerate(seeds):
            self._rows[seed] = {name: values[place] for name, values in taken.items()}

    def rows(self, name: str) -> Tensor:
        """The kept rows of the tensors with this name, in seed order."""
        return torch.stack([self._rows[seed][name] for seed in self.context.seeds])

    def finish(self, images: ImageSet, result: Memorization) -> dict[str, Any]:
        """Write files, and return entries for the record. images, result: all images, and their memorization."""
        return {}


class PartialResults:
    """The consumers' results for the batches of an unfinished pass, kept by the main rank in a folder of `.npz` files.

    folder: if None, nothing is saved. settings: everything that determines the images and results. Files with other
    settings, unreadable files, and files that lack the results of a consumer are ignored.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any]):
        self.folder, self.settings = folder, settings
        self._pending: list[tuple[list[int], Taken]] = []
        self._last_save = time.monotonic()

    def read(self, names: Sequence[str]) -> Iterator[tuple[list[int], Taken]]:
        """Yield the seeds in each file and the named consumers' results for them, oldest file first."""
        for path in self._paths():
            arrays = read_arrays(path, self.settings)
            if arrays is None or not set(names) <= set(arrays['consumers'].tolist()):
                continue
            taken: dict[str, dict[str, Tensor]] = {name: {} for name in names}
            for owner, _, name in (entry.partition('/') for entry in arrays):
                if owner in taken:
                    taken[owner][name] = torch.from_numpy(arrays[f'{owner}/{name}'])
            seeds = arrays['seeds'].tolist()
            if all(len(rows) == len(seeds) for values in taken.values() for rows in values.values()):
                yield seeds, taken

    def add(self, seeds: list[int], taken: Taken) -> None:
        """Add a batch, and save if the last save was more than a few seconds ago."""
        if self.folder is None:
            return
        self._pending.append((seeds, taken))
        if time.monotonic() - self._last_save > SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """Write the batches since the last save to a new file."""
        if self.folder is None or not self._pending:
            return
        seeds = [seed for some, _ in self._pending for seed in some]
        parts = [taken for _, taken in self._pending]
        arrays = {
            f'{owner}/{name}': torch.cat([part[owner][name] for part in parts]).numpy()
            for owner, values in parts[0].items()
            for name in values
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        number = max((int(path.stem) for path in self._paths()), default=-1) + 1
        arrays |= {'consumers': np.array(list(parts[0])), 'seeds': np.array(seeds)}
        write_arrays(self.folder / f'{number:06d}.npz', self.settings, arrays)
        self._pending, self._last_save = [], time.monotonic()

    def remove(self) -> None:
        if self.folder is not None and self.folder.exists():
            shutil.rmtree(self.folder)

    def _paths(self) -> list[Path]:
        return [] if self.folder is None else sorted(self.folder.glob('[0-9]*.npz'))


def one_pass(
    generate: Generate,
    context: Pass,
    consumers: Mapping[str, Consumer],
    partial: PartialResults,
    bar: tqdm,
    together: bool = False,
) -> None:
    """Pass the image of every seed to all consumers. Results in `partial` are reused; the other images are sampled.

    Seeds are split into batches, which are distributed over the ranks. Whenever each rank has finished one batch, the
    results go to the main rank. A UserError on one rank is raised on all ranks.
    together: whether all ranks work on every batch together.
    """

    def restore() -> set[int]:
        known = set()
        for some, taken in partial.read(list(consumers)):
            known.update(some)
            for name, consumer in consumers.items():
                consumer.add(some, taken[name])
        return known

    known = distributed.on_main(restore)
    todo = [batch for batch in seed_batches(context.seeds, context.batch_size) if not known.issuperset(batch)]
    bar.update(len(context.seeds) - sum(map(len, todo)))
    step = 1 if together else distributed.world_size()
    images = generate(todo if together else todo[distributed.rank() :: step])

    def take_next() -> list[tuple[list[int], Taken]]:
        return [
            (batch.seeds, {name: consumer.take(batch) for name, consumer in consumers.items()})
            for batch in itertools.islice(images, 1)
        ]

    for _ in range(0, len(todo), step):
        taken_by_rank = distributed.gather(take_next() if together else distributed.on_every_rank(take_next))
        for some, taken in itertools.chain(*taken_by_rank[:step]):
            bar.update(len(some))
            if distributed.is_main():
                for name, consumer in consumers.items():
                    consumer.add(some, taken[name])
                partial.add(some, taken)
