"""Which training image each generated one replays: found exactly, and kept in a table of the folder of the images.

`find_replays` compares a batch with the training set of an optimal denoiser; `ReplayTable` is that table on disk.
"""

import csv
import functools
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.util import UserError, atomic_file
from evaluation.memorization import memorized
from evaluation.neighbors import MAX_PIXELS, shifted, squared_norms
from torch_utils import distributed
from torch_utils.int8 import int8_matmul
from training.closed_form.rows import ImageRows

# Training images of one product with 512 generated ones: 2 MiB of int32, which stay in a core's cache.
REFERENCE_BLOCK = 1024
# What stands for no index, and for no distance.
NONE = torch.iinfo(torch.int64).max
LINE = re.compile(r'(\d+),(\d*),(\d+),(\d+),(\d*)', re.ASCII)
COLUMNS = ('seed', 'class', 'nearest', 'squared_distance', 'second_squared_distance')


@dataclass(frozen=True)
class Replay:
    """The training image that a generated one is nearest to.

    class_index: the class that was asked for, or None. nearest: index of the training image, of several copies the
    first. squared_distance: to it; second_squared_distance: to the nearest that differs from it, or None where none
    does. Both are in squared pixel levels.
    """

    class_index: int | None
    nearest: int
    squared_distance: int
    second_squared_distance: int | None


@dataclass(frozen=True)
class TwoNearest:
    """For each of B images, of some training images: int64 [B] each.

    nearest: index of the nearest, of several the lowest; key: equal for copies of it; first: squared distance to it;
    second: to the nearest of those that differ from it, or `NONE`.
    """

    nearest: Tensor
    key: Tensor
    first: Tensor
    second: Tensor


def count_copies(replays: Sequence[Replay]) -> tuple[int, int]:
    """How many images are copies, as `evaluation.memorization.memorized` has it, and how many equal theirs."""
    first = torch.tensor([replay.squared_distance for replay in replays])
    second = torch.tensor([replay.second_squared_distance or 0 for replay in replays])
    exact = first == 0
    return int((exact | memorized(first, second)).sum()), int(exact.sum())


def find_replays(rows: ImageRows, images: Tensor, classes: Sequence[int] | None, sharded: bool = False) -> list[Replay]:
    """Compare uint8 [B, C, R, R] with all training images; with `sharded`, rows are a rank's part of them."""
    found = two_nearest(rows, images)
    if sharded:
        found = functools.reduce(merge, distributed.gather(found))
    columns = zip(found.nearest.tolist(), found.first.tolist(), found.second.tolist(), strict=True)
    replays = [Replay(None, nearest, first, None if second == NONE else second) for nearest, first, second in columns]
    if classes is None:
        return replays
    return [replace(replay, class_index=label) for replay, label in zip(replays, classes, strict=True)]


def two_nearest(rows: ImageRows, images: Tensor) -> TwoNearest:
    """The nearest training image and the nearest of the others, by exact distances; on the CPU."""
    queries = shifted(images.to(rows.device))
    dtype = torch.int32 if rows.num_pixels <= MAX_PIXELS else torch.int64
    norms = squared_norms(queries, torch.int64)
    parts = []
    for start, block in rows.blocks(0, len(rows), REFERENCE_BLOCK):
        here = slice(start, start + len(block))
        # Without the queries' own norms, which change no order.
        scores = torch.sub(rows.norms[here].to(dtype), int8_matmul(queries, block.t()).to(dtype), alpha=2)
        parts.append(block_nearest(scores, norms, rows.order[here] + rows.offset, rows.keys[here]))
    return functools.reduce(merge, parts)


def block_nearest(scores: Tensor, norms: Tensor, index: Tensor, keys: Tensor) -> TwoNearest:
    """Of one block. scores: squared distances less `norms`, [B, N]; norms: int64 [B]; index, keys: int64 [N]."""
    first = scores.amin(dim=1, keepdim=True)
    nearest, place = torch.where(scores == first, index, NONE).min(dim=1)
    key = keys[place]
    none = torch.iinfo(scores.dtype).max
    second = torch.where(keys == key[:, None], none, scores).amin(dim=1)
    distances = torch.where(second == none, NONE, second.to(torch.int64) + norms)
    return TwoNearest(nearest.cpu(), key.cpu(), (first[:, 0].to(torch.int64) + norms).cpu(), distances.cpu())


def merge(a: TwoNearest, b: TwoNearest) -> TwoNearest:
    """Of the training images of both."""
    a_nearer = (a.first < b.first) | ((a.first == b.first) & (a.nearest < b.nearest))
    copies = a.key == b.key
    # The nearest of the farther part is another image, unless it is a copy.
    beyond_a = torch.where(copies, b.second, b.first)
    beyond_b = torch.where(copies, a.second, a.first)
    return TwoNearest(
        nearest=torch.where(a_nearer, a.nearest, b.nearest),
        key=torch.where(a_nearer, a.key, b.key),
        first=torch.minimum(a.first, b.first),
        second=torch.where(a_nearer, torch.minimum(a.second, beyond_a), torch.minimum(b.second, beyond_b)),
    )


class ReplayTable:
    """The table `nearest.csv` of a folder, and `nearest.json`, the settings that its images have in common.

    While images are made, each rank appends to a part of its own, so that nothing is lost when it is killed.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / 'nearest.csv'
        self.part = folder / f'nearest.rank{distributed.rank()}.csv'

    def read(self, settings: dict[str, Any]) -> dict[int, Replay]:
        """What earlier calls found, by seed. Raises UserError where they had other settings."""
        settings_path = self.folder / 'nearest.json'
        if settings_path.exists():
            refuse_other_settings(self.folder, read_settings(settings_path), settings)
        elif next(self.folder.glob('**/*.png'), None):
            raise UserError(f'--outdir={self.folder} has images of unknown origin; choose an empty folder')
        paths = [self.path, *self._parts()]
        return dict(sorted(dict(line for path in paths for line in read_table(path)).items()))

    def open(self, settings: dict[str, Any]) -> None:
        """Make the folder, and note the settings in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.folder / 'nearest.json') as file:
            file.write((json.dumps(settings, indent=2) + '\n').encode())

    def append(self, replays: dict[int, Replay]) -> None:
        """Add lines to this rank's part."""
        with open(self.part, 'a', encoding='utf-8', newline='') as file:
            file.write(table_lines(replays))

    def consolidate(self, settings: dict[str, Any]) -> dict[int, Replay]:
        """Move all parts into the table, in the order of seeds; return its lines."""
        replays = self.read(settings)
        with atomic_file(self.path) as file:
            file.write((','.join(COLUMNS) + '\n' + table_lines(replays)).encode())
        for part in self._parts():
            part.unlink()
        return replays

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob('nearest.rank*.csv'))


def read_settings(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding='utf-8')))
    except (ValueError, TypeError) as error:
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
    writer = csv.writer(text, lineterminator='\n')  # None is an empty field
    writer.writerows((seed, *astuple(replay)) for seed, replay in replays.items())
    return text.getvalue()


def read_table(path: Path) -> Iterable[tuple[int, Replay]]:
    """Lines of a table or a part of one; one that was cut short is left out."""
    if not path.exists():
        return
    # A line that is not ended may lack digits.
    for line in path.read_text(encoding='utf-8', errors='replace').rpartition('\n')[0].splitlines():
        if match := LINE.fullmatch(line):
            seed, class_index, nearest, first, second = match.groups()
            yield (
                int(seed),
                Replay(
                    int(class_index) if class_index else None, int(nearest), int(first), int(second) if second else None
                ),
            )
