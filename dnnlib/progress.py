"""Progress of a long computation: a bar or lines on stderr, and a file for other processes to read."""

import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from dnnlib.typed import read_json
from dnnlib.util import format_time, significant

# This file exists in the output folder while the computation runs.
PROGRESS_FILE = '.progress.json'
SECONDS_BETWEEN_WRITES = 1.0
SECONDS_BETWEEN_LINES = 20.0


@dataclass(frozen=True)
class Progress:
    """Progress of a computation. done, total: numbers of images. rate: recent images per second; 0 if unknown."""

    phase: str
    done: int
    total: int
    rate: float

    @property
    def seconds_left(self) -> float | None:
        return (self.total - self.done) / self.rate if self.rate else None


class ProgressBar(tqdm):
    """A progress bar that also keeps `PROGRESS_FILE` in a folder up to date until it is closed.

    If stderr is not a terminal, a line is printed every 20 s instead of the bar.

    phase: label of the bar. folder: folder for the file; None writes no file. done: progress at the start. unit: name
    of the unit that is counted. hidden: whether to hide both bar and lines. lines: whether to print lines if stderr is
    not a terminal.
    """

    def __init__(
        self,
        phase: str,
        total: int,
        folder: Path | None = None,
        done: int = 0,
        unit: str = 'img',
        hidden: bool = False,
        lines: bool = True,
    ):
        self.phase = phase
        self.path = None if folder is None else folder / PROGRESS_FILE
        self.started_at = self.written_at = self.line_at = time.monotonic()
        self.started = self.written = done
        super().__init__(total=total, initial=done, unit=unit, desc=phase, disable=hidden or None, leave=False)
        self.lines = lines and not hidden and self.disable
        self.unit, self.n = unit, done
        self._write(0.0)

    def update(self, n: float | None = 1) -> bool | None:
        drawn = super().update(n)
        if self.disable:  # tqdm does not count while it is disabled
            self.n += int(n or 0)
        now = time.monotonic()
        if now - self.written_at >= SECONDS_BETWEEN_WRITES:
            self._write(max(0.0, (self.n - self.written) / (now - self.written_at)))
            self.written_at, self.written = now, int(self.n)
        if self.lines and now - self.line_at >= SECONDS_BETWEEN_LINES:
            self._print_line(now)
            self.line_at = now
        return drawn

    def close(self) -> None:
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
        super().close()

    def _print_line(self, now: float) -> None:
        rate, total = (self.n - self.started) / (now - self.started_at), int(self.total or 0)
        text = f'{self.phase}: {int(self.n):,} of {total:,} {self.unit}'
        if rate > 0:
            text += f', {significant(rate, 4)} {self.unit}/s, {format_time((total - self.n) / rate)} left'
        print(text, file=sys.stderr, flush=True)

    def _write(self, rate: float) -> None:
        if self.path is None:
            return
        text = json.dumps(asdict(Progress(self.phase, int(self.n), int(self.total or 0), rate)))
        partial = self.path.with_suffix('.partial')
        with contextlib.suppress(OSError):  # if the disk is full, a later write will report it
            partial.write_text(text, encoding='utf-8')
            partial.replace(self.path)


def read_progress(folder: Path) -> Progress | None:
    """The progress of the computation running in a folder, or None if there is none."""
    return read_json(folder / PROGRESS_FILE, Progress)
