"""A point of a study: one training-set size, one combination of factor values, one repeat. Each has a folder.

The folder holds `point.json` (what the point is), `commands.sh`, `log.txt`, `status.json`, `result.json` once it is
done, the training set `data.zip` and the run folder `run`. Whoever runs a point holds its lock.
"""

import contextlib
import dataclasses
import fcntl
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dnnlib.util import UserError, atomic_file
from studies.commands import point_commands
from studies.study import Combination, Options, Study, source_name

LEFT, RUNNING, STOPPED, FAILED, DONE = 'left', 'running', 'stopped', 'failed', 'done'
MAX_FAILURES = 3


@dataclasses.dataclass(frozen=True)
class Status:
    """How far a point is.

    state: 'left' (never begun), 'running', 'stopped' (begun, and to be continued), 'failed' or 'done'.
    step: the command that it is at. failures: how often it failed. seconds: spent on it so far. message: the last
    line of its log.
    """

    state: str = LEFT
    step: str = ''
    failures: int = 0
    seconds: float = 0.0
    message: str = ''


@dataclasses.dataclass(frozen=True)
class Point:
    """One training and its evaluation.

    seeds: of train.py as 'train', and of the selection as 'select', or None there to take the first images.
    sources: the study's own data sets that it is made from, by name. folder: where everything of it is.
    """

    value: Combination
    size: int
    repeat: int
    seeds: dict[str, int | None]
    sources: dict[str, Options]
    folder: Path

    @property
    def name(self) -> str:
        repeat = f', repeat {self.repeat + 1}' if self.repeat else ''
        return f'{self.value.name}, {self.size} images{repeat}' if self.value.of else f'{self.size} images{repeat}'

    @property
    def identity(self) -> dict[str, Any]:
        """What the numbers of the point depend on."""
        return {
            'factors': self.value.of,
            'size': self.size,
            'repeat': self.repeat,
            'seeds': self.seeds,
            'sources': self.sources,
            **dataclasses.asdict(self.value.settings),
        }

    def commands(self) -> dict[str, list[str]]:
        return point_commands(self.value.settings, self.size, self.seeds, self.folder)

    def prepare(self) -> None:
        """Make the folder, or set one aside that was made with other settings. Raises UserError while that one runs."""
        saved = read_json(self.folder / 'point.json')
        if saved == self.identity:
            return
        if self.folder.exists() and any(self.folder.iterdir()):
            if is_locked(self.folder):
                raise UserError(f'{self.folder} is running with other settings; stop it, or wait until it is done')
            set_aside(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / 'point.json', self.identity)

    def matches(self) -> bool:
        """Whether the folder is this point's, and not one that was made with other settings."""
        return read_json(self.folder / 'point.json') == self.identity

    def status(self) -> Status:
        return read_status(self.folder) if self.matches() else Status()

    def record(self) -> dict[str, Any] | None:
        """The record of the snapshot with the highest ratio, once the point is done."""
        return read_json(self.folder / 'result.json') if self.matches() else None


def make_point(study: Study, root: Path, value: Combination, size: int, repeat: int) -> Point:
    """The point of a study whose folder is `root`."""
    repeats = study.repeats
    seeds = {
        'train': repeats.train_seed + repeat,
        'select': None if repeats.select_seed is None else repeats.select_seed + repeat,
    }
    used = [source_name(value.settings.data.get(key)) for key in ('source', 'blend')]
    sources = {name: study.sources[name] for name in used if name is not None}
    folder = root / 'points' / slug(value) / f'{size:06d}-r{repeat}'
    return Point(value, size, repeat, seeds, sources, folder)


def slug(value: Combination) -> str:
    """A folder's name for a combination: 'width=16,labels=random'."""
    parts = [f'{factor}={name}' for factor, name in value.of.items()]
    return re.sub(r'[^A-Za-z0-9._=,+-]+', '-', ','.join(parts)).strip('.-')[:200] or 'all'


def set_aside(folder: Path) -> Path:
    """Rename a folder, so that another can take its place; nothing of it is lost."""
    number = 1
    while (aside := folder.with_name(f'{folder.name}.set-aside-{number}')).exists():
        number += 1
    return folder.rename(aside)


def read_status(folder: Path) -> Status:
    """How far the point of a folder is; one that says that it runs but has no living process was stopped."""
    saved = read_json(folder / 'status.json') or {}
    fields = {field.name for field in dataclasses.fields(Status)}
    status = Status(**{key: value for key, value in saved.items() if key in fields})
    running = is_locked(folder)
    if running or status.state == RUNNING:
        status = dataclasses.replace(status, state=RUNNING if running else STOPPED)
    if status.state in (RUNNING, STOPPED):
        status = dataclasses.replace(status, message=last_line(folder / 'log.txt'))
    return status


def write_status(folder: Path, status: Status) -> None:
    write_json(folder / 'status.json', dataclasses.asdict(status))


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[int | None]:
    """Hold a point's lock inside the block, which gets the descriptor to hand to child processes, or None where the
    point runs already.

    The lock lives as long as any process has the descriptor: a training that outlived a killed study still holds it.
    """
    with open(folder / 'lock', 'a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file.fileno()


def is_locked(folder: Path) -> bool:
    """Whether a process runs the point."""
    try:
        with open(folder / 'lock') as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def last_line(path: Path, max_bytes: int = 4096) -> str:
    """The last line of a log that says something; '' where there is none."""
    try:
        with open(path, 'rb') as file:
            file.seek(max(0, path.stat().st_size - max_bytes))
            text = file.read().decode(errors='replace')
    except OSError:
        return ''
    lines = [line.strip() for line in re.split(r'[\r\n]+', text)]
    return next((line for line in reversed(lines) if line), '')


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None where it is not there or not whole."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: Any) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False).encode() + b'\n')
