"""A point of a study: one training-set size, one combination of factor values, and one repeat, in its own folder.

The folder contains `point.json` (the point's settings), `diagnose.json` (the options of its measurements),
`commands.sh`, `log.txt`, `status.json`, the training set `data.zip`, the run folder `run`, and `result.json`.
If agreement is measured, the second network has its own `data-b.zip` and `run-b`. A process that runs a point holds the
point's lock.
"""

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any

from dnnlib import locks
from dnnlib.typed import read_json
from dnnlib.util import UserError, write_json
from evaluation.records import Record, parse_record
from studies.commands import point_commands
from studies.study import PARTS, Combination, Options, Study, made_by, source_name, with_tables

STATES = LEFT, RUNNING, STOPPED, FAILED, DONE = 'left', 'running', 'stopped', 'failed', 'done'
MAX_FAILURES = 3
MOST_ORDERS = 120  # all orders of five factors
HINTS = 'Resume:', 'Next:', 'python ', 'torchrun '  # starts of the last lines that train.py prints
POINT_FILE, MEASUREMENTS_FILE, LOCK_FILE = 'point.json', 'diagnose.json', 'lock'


@dataclasses.dataclass(frozen=True)
class Status:
    """Progress of a point.

    state: 'left' (never started), 'running', 'stopped' (started, and can be resumed), 'failed' or 'done'.
    step: name of the current step. failures: how many times the point has failed. seconds: total time of the attempts
    that have ended. started: start of the current attempt, as Unix time. message: last line of the point's log.
    """

    state: str = LEFT
    step: str = ''
    failures: int = 0
    seconds: float = 0.0
    message: str = ''
    started: float = dataclasses.field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f'state must be one of {", ".join(STATES)}')


@dataclasses.dataclass(frozen=True)
class Point:
    """One training run and its evaluation, or the evaluation of a closed form.

    seeds: 'train' is the seed of train.py (None for a closed form), and 'select' is the seed for drawing images (None
    takes the first images). sources: the study file's tables [sources.NAME] that the point uses, by NAME.
    diagnose: options of each diagnose.py measurement, by the measurement's name; they do not affect training or
    evaluation. folder: the point's folder.
    """

    combination: Combination
    size: int
    repeat: int
    seeds: dict[str, int | None]
    sources: dict[str, Options]
    folder: Path
    diagnose: dict[str, Options] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        repeat = f', repeat {self.repeat + 1}' if self.repeat else ''
        return (
            f'{self.combination.name}, {self.size} images{repeat}'
            if self.combination.values
            else f'{self.size} images{repeat}'
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the point's training and evaluation."""
        return {
            'factors': self.combination.values,
            'size': self.size,
            'repeat': self.repeat,
            'seeds': self.seeds,
            'sources': self.sources,
            **dataclasses.asdict(self.combination.settings),
        }

    def commands(self) -> dict[str, list[str]]:
        settings, sources = self.combination.settings, sources_of(self.folder)
        return point_commands(settings, self.size, self.seeds, self.folder, sources, self.diagnose, self.sources)

    def prepare(self) -> Path | None:
        """Make the point's folder. An existing folder with other settings is set aside (renamed). If only the
        evaluation settings differ, the training run is kept, and only the records of its evaluation are set aside.

        Returns the new path of the folder or records that were set aside, or None. Raises UserError if the folder
        exists with other settings and its point is running.
        """
        aside = self._make_folder()
        if read_measurements(self.folder) != self.diagnose:
            # The status is written before the measurements. If the process dies in between, the point counts as stopped
            # and is run again; in the other order, it would count as done without these measurements.
            if read_result(self.folder) is not None:
                status = saved_status(self.folder)
                write_status(self.folder, dataclasses.replace(status, state=STOPPED, failures=0))
            write_json(self.folder / MEASUREMENTS_FILE, self.diagnose)
        return aside

    def _make_folder(self) -> Path | None:
        aside = None
        if self.matches():
            return None
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with locks.locked(self.folder.parent / LOCK_FILE, math.inf):  # another emm.py might be making the folder
            if self.matches():
                return None
            if self.folder.exists() and any(self.folder.iterdir()):
                with locks.locked(self.folder / LOCK_FILE) as descriptor:
                    if descriptor is None:
                        raise UserError(
                            f'the point in {self.folder} is running with other settings; stop it, or wait until it is '
                            f'done'
                        )
                    aside = self._forget_evaluation() if self._is_trained() else set_aside(self.folder)
            self.folder.mkdir(exist_ok=True)
            write_json(self.folder / POINT_FILE, self.identity)
        return aside

    def _is_trained(self) -> bool:
        """Whether the training set and the training run in the folder (finished or not) belong to this point."""
        saved = read_json(self.folder / POINT_FILE, dict[str, Any])
        return saved is not None and {**saved, 'evaluate': self.identity['evaluate']} == self.identity

    def _forget_evaluation(self) -> Path | None:
        """Set aside the records of an evaluation with other settings. Otherwise, one of these records could become the
        point's result."""
        write_status(self.folder, Status(STOPPED, seconds=saved_status(self.folder).seconds))
        (self.folder / 'result.json').unlink(missing_ok=True)
        records = self.folder / 'run' / 'mem_traj.jsonl'
        return set_aside(records) if records.exists() else None

    def matches(self) -> bool:
        """Whether the folder was made for this point with these settings."""
        return read_json(self.folder / POINT_FILE, dict[str, Any]) == self.identity

    def status(self) -> Status:
        return read_status(self.folder) if self.matches() else Status()

    def is_diagnosed(self) -> bool:
        """Whether the folder was prepared for all of the point's measurements with their present options.

        A measurement that the study no longer has matters only if the point failed, because it can be the cause.
        """
        saved = read_measurements(self.folder)
        if saved_status(self.folder).state == FAILED:
            return saved == self.diagnose
        return all(saved.get(name) == options for name, options in self.diagnose.items())


def make_point(study: Study, root: Path, combination: Combination, size: int, repeat: int) -> Point:
    """Describe a point of a study, without making its folder. root: the study's folder."""
    repeats, settings = study.repeats, combination.settings
    seeds = {
        'train': repeats.train_seed + repeat if settings.denoiser is None else None,
        'select': None if repeats.select_seed is None else repeats.select_seed + repeat,
    }
    made = made_by(study.sources)
    used = [source_name(value) for part in PARTS for value in getattr(settings, part).values()]
    sources = {made[name]: study.sources[made[name]] for name in used if name is not None}
    diagnose = {name: with_tables(options, study.sources) for name, options in study.diagnose.items()}
    folder = combination_folder(root, combination) / f'{size:06d}-r{repeat}'
    return Point(combination, size, repeat, seeds, sources, folder, diagnose)


def read_measurements(folder: Path) -> dict[str, Options]:
    """Read the options of each measurement for which a point's folder was prepared, by the measurement's name."""
    return read_json(folder / MEASUREMENTS_FILE, dict[str, Options]) or {}


def sources_of(folder: Path) -> Path:
    """The folder of a study's own data sets. folder: the folder of any point of the study."""
    return folder.parents[2] / 'sources'


def combination_folder(root: Path, combination: Combination) -> Path:
    """The folder of a combination's points, which can be named in an earlier order of the study's factors.

    With many factors, only MOST_ORDERS orders are tried.
    """
    orders = itertools.islice(itertools.permutations(combination.values.items()), MOST_ORDERS)
    folders = (root / 'points' / slug(dataclasses.replace(combination, values=dict(order))) for order in orders)
    return next(filter(Path.exists, folders), root / 'points' / slug(combination))


def slug(combination: Combination) -> str:
    """The folder name for a combination, such as 'width=16,labels=random'."""
    parts = [f'{factor}={name}' for factor, name in combination.values.items()]
    return re.sub(r'[^A-Za-z0-9._=,+-]+', '-', ','.join(parts)).strip('.-')[:200] or 'all'


def set_aside(path: Path) -> Path:
    """Rename a folder or file to free its name; returns the new path."""
    number = 1
    while (aside := path.with_name(f'{path.name}.set-aside-{number}')).exists():
        number += 1
    return path.rename(aside)


def read_status(folder: Path) -> Status:
    """Read the progress of the point in a folder.

    A point counts as stopped if its saved status is 'running' but no process holds its lock, or if its saved status is
    'done' but its result.json is missing or corrupt.
    """
    status = saved_status(folder)
    if locks.is_locked(folder / LOCK_FILE):
        status = dataclasses.replace(status, state=RUNNING)
    elif status.state == RUNNING or (status.state == DONE and read_result(folder) is None):
        status = dataclasses.replace(status, state=STOPPED)
    if status.state in (RUNNING, STOPPED):
        status = dataclasses.replace(status, message=last_line(folder / 'log.txt'))
    return status


def saved_status(folder: Path) -> Status:
    """The content of status.json; if the file is missing or corrupt, the status of a point that was never started."""
    return read_json(folder / 'status.json', Status) or Status()


def read_result(folder: Path) -> Record | None:
    """Read result.json, the record of a point's snapshot with the highest ratio; None if it is missing or corrupt.

    The file is written when the evaluation ends, before the point's measurements.
    """
    try:
        return parse_record((folder / 'result.json').read_bytes(), '')
    except (OSError, UserError):
        return None


def write_status(folder: Path, status: Status) -> None:
    write_json(folder / 'status.json', dataclasses.asdict(status))


def last_line(path: Path, max_bytes: int = 16384) -> str:
    """The last nonempty line of a log; '' if there is none.

    Skips train.py's hints on how to resume a run or what to do next, because the study's command does both. If the log
    ends with torchrun's report of a failure (whose last line is a row of '='), returns the script's own error.
    """
    try:
        with open(path, 'rb') as file:
            file.seek(max(0, path.stat().st_size - max_bytes))
            text = file.read().decode(errors='replace')
    except OSError:
        return ''
    lines = [line.strip() for line in re.split(r'[\r\n]+', text)]
    lines = [line for line in reversed(lines) if line and not line.startswith(HINTS)]
    if lines and set(lines[0]) == {'='}:
        lines = [line for line in lines if line.startswith('Error: ')] or lines
    return lines[0] if lines else ''
