"""The table of nearest training images of a folder, filled while its images are made.

Each rank appends to its own file, so that a killed run loses nothing; an incomplete last line is dropped.
"""

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path

from dnnlib.locks import sole_use
from dnnlib.util import atomic_file
from evaluation.generation import Generate, Output, generate_to_folder
from evaluation.generators import ClosedFormGenerator
from evaluation.image_table import COLUMNS, TABLE_NAME, ImageRow, table_lines
from evaluation.memorization import TrainingImages, memorized
from torch_utils import distributed
from training.sampling import GeneratedBatch


class NearestTable:
    """The rows of `nearest.csv`, by seed.

    name: of the generated set. training_set: to compare with; `take` needs it.
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.training_set: TrainingImages | None = None
        self.part = folder / f'nearest.rank{distributed.rank()}.csv'

    def take(self, batch: GeneratedBatch, write: bool) -> None:
        """Compare a batch; write: append its rows to this rank's file."""
        assert self.training_set is not None
        indices, squared = self.training_set.nearest_two(batch.images)
        if not write:
            return
        classes = [None] * len(batch.seeds) if batch.class_labels is None else batch.class_labels.tolist()
        copies = memorized(squared[:, 0], squared[:, 1]).tolist()
        columns = zip(batch.seeds, classes, indices.tolist(), squared.tolist(), copies, strict=True)
        rows = []
        for seed, label, (nearest, second), (first, other), copy in columns:
            known = (second, other) if second >= 0 else (None, None)
            rows.append(ImageRow(self.name, str(seed), label, nearest, known[0], first, known[1], copy, first == 0))
        with open(self.part, 'a', encoding='utf-8', newline='') as file:
            file.write(table_lines(rows))

    def read(self) -> dict[int, dict[str, str]]:
        """The rows by seed, in the order of seeds, after moving the rows of all ranks into the table."""
        parts = sorted(self.folder.glob('nearest.rank*.csv'))
        lines = dict(sorted(line for path in [self.folder / TABLE_NAME, *parts] for line in read_lines(path)))
        if parts:
            with atomic_file(self.folder / TABLE_NAME) as file:
                file.write(''.join(f'{line}\n' for line in [','.join(COLUMNS), *lines.values()]).encode())
        for part in parts:
            part.unlink()
        return {seed: dict(zip(COLUMNS, row_of(line), strict=True)) for seed, line in lines.items()}


def generate_and_compare(output: Output, generator: ClosedFormGenerator) -> list[dict[str, str]]:
    """Generate images of a closed form into a folder, with the table; return its rows in the order of the seeds.

    Raises UserError for a training set that does not fit in memory, and as `generate_to_folder`.
    """
    table = NearestTable(output.outdir, generator.name)

    def load() -> Generate:
        table.training_set = TrainingImages(generator.rows, where=generator.source.where, fewest=1)
        return generator.generate

    settings = distributed.on_main(lambda: generator.settings)
    with contextlib.ExitStack() as stack:
        lock = sole_use(output.outdir / '.lock', f'`outdir`={output.outdir}')
        distributed.on_main(lambda: stack.enter_context(lock))
        generate_to_folder(output, settings, load, table, together=generator.sampling.sharded)
        found = distributed.on_main(table.read)
    return [found[seed] for seed in output.seeds]


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The complete lines of a table or of a part of it, by seed."""
    if path.exists():
        for line in path.read_text(encoding='utf-8', errors='replace').rpartition('\n')[0].splitlines():
            seed = dict(zip(COLUMNS, row_of(line), strict=False)).get('image', '')
            if len(row_of(line)) == len(COLUMNS) and seed.isascii() and seed.isdigit():
                yield int(seed), line


def row_of(line: str) -> list[str]:
    return next(csv.reader([line]))
