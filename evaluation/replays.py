"""Which training image each generated one replays: found exactly, and kept in a table of the folder of the images.

`find_replays` compares a batch with the training set of an optimal denoiser; `ReplayTable` is that table on disk.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.util import UserError, atomic_file
from evaluation.memorization import TrainingImages, memorized
from torch_utils import distributed

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


def count_copies(replays: Sequence[Replay]) -> tuple[int, int]:
    """How many images are copies, as `evaluation.memorization.memorized` has it, and how many equal theirs."""
    first = torch.tensor([replay.squared_distance for replay in replays])
    second = torch.tensor([replay.second_squared_distance or 0 for replay in replays])
    exact = first == 0
    return int((exact | memorized(first, second)).sum()), int(exact.sum())


def find_replays(training: TrainingImages, images: Tensor, classes: Sequence[int] | None) -> list[Replay]:
    """Compare uint8 [B, C, R, R] with all training images. classes: that the images were asked for, or None."""
    index, squared = training.nearest_two(images)
    columns = zip(index[:, 0].tolist(), *squared.T.tolist(), strict=True)
    return [Replay(None if classes is None else classes[place], *column) for place, column in enumerate(columns)]


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
