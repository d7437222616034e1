"""Runs one point by running its commands in order. A command that was stopped resumes where it stopped."""

import dataclasses
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from dnnlib.locks import locked
from dnnlib.typed import parse_json
from dnnlib.util import write_json
from evaluation.records import Record, find_record, read_records
from evaluation.saved_arrays import read_settings
from studies.commands import DATA_STEPS, Resources, environment, point_commands, process_arguments, shell_line
from studies.points import (
    DONE,
    FAILED,
    LOCK_FILE,
    POINT_FILE,
    RUNNING,
    STOPPED,
    Status,
    last_line,
    read_measurements,
    saved_status,
    sources_of,
    write_status,
)
from studies.study import Options, Settings

# How long a command that was asked to stop has to save its state and exit, in seconds. After that, it is killed.
SECONDS_TO_STOP = 60.0
SECONDS_BETWEEN_LOOKS = 0.5
_KILLED = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}
# A shell, and train.py after it has saved its state, exit with status 128 + signal.
_KILLED |= {128 - code for code in tuple(_KILLED)}


class PointRun:
    """One attempt at a point.

    node_rank: number of this node if several nodes run the point together; node 0 makes the data sets, and writes the
    log and the status. environ: additional environment variables for the commands.
    """

    def __init__(
        self, folder: Path, resources: Resources, node_rank: int = 0, environ: Mapping[str, str] | None = None
    ):
        self.folder, self.resources, self.node_rank = folder, resources, node_rank
        self.environ = environment({**os.environ, **(environ or {})})
        self.stopping = threading.Event()

    def stop(self) -> None:
        """Ask the running command to save its state and exit; can be called from a signal handler or another thread."""
        self.stopping.set()

    def run(self) -> Status:
        """Run the point's remaining commands, unless another process runs the point. Returns the point's status."""
        if self.node_rank:
            return self._run_with_main()
        # The point's commands inherit the descriptor, and keep the point locked even if this process is killed.
        with locked(self.folder / LOCK_FILE) as descriptor:
            if descriptor is None:
                return Status(state=RUNNING)
            return self._run_locked(descriptor)

    def _run_locked(self, descriptor: int) -> Status:
        before = saved_status(self.folder)
        status = Status(RUNNING, failures=before.failures, seconds=before.seconds, started=time.time())
        commands = commands_of(self.folder)
        text = '\n'.join(shell_line(command, self.resources) for command in commands.values())
        (self.folder / 'commands.sh').write_text(text + '\n', encoding='utf-8')
        if 'train' not in commands:
            (self.folder / 'run').mkdir(exist_ok=True)  # a closed form's records are written there
        start = time.monotonic()
        for step, command in commands.items():
            if step in DATA_STEPS and (self.folder / DATA_STEPS[step]).exists():
                continue
            status = dataclasses.replace(status, step=step)
            write_status(self.folder, status)
            code = STOPPED_BEFORE if self.stopping.is_set() else self._run_command(command, 'log.txt', descriptor)
            if code:
                return self._ended(status, code, time.monotonic() - start)
            if step == 'evaluate':
                best = best_of_evaluation(self.folder / 'run')
                if best is None:
                    with open(self.folder / 'log.txt', 'a', encoding='utf-8') as log:
                        log.write('run/mem_best.npz was lost after the evaluation; resuming makes it again.\n')
                    return self._ended(status, STOPPED_BEFORE, time.monotonic() - start)
                write_json(self.folder / 'result.json', best)
        status = dataclasses.replace(status, state=DONE, step='', seconds=status.seconds + time.monotonic() - start)
        write_status(self.folder, status)
        return status

    def _run_command(self, command: list[str], log_name: str, *descriptors: int) -> int:
        """Run a command, and write its output to the log. Returns its exit code, which is -signal if it was killed."""
        with open(self.folder / log_name, 'a', encoding='utf-8') as log:
            log.write(f'$ {shell_line(command, self.resources)}\n')
            log.flush()
            process = subprocess.Popen(
                process_arguments(command, self.resources, self.environ),
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=descriptors,
            )
        killed_at = math.inf
        while True:
            try:
                return process.wait(SECONDS_BETWEEN_LOOKS)
            except subprocess.TimeoutExpired:
                if self.stopping.is_set() and killed_at == math.inf:
                    process.terminate()
                    killed_at = time.monotonic() + SECONDS_TO_STOP
                elif time.monotonic() > killed_at:
                    process.kill()

    def _ended(self, status: Status, code: int, seconds: float) -> Status:
        stopped = self.stopping.is_set() or code in _KILLED
        status = dataclasses.replace(
            status,
            state=STOPPED if stopped else FAILED,
            failures=status.failures + (not stopped),
            seconds=status.seconds + seconds,
            message=last_line(self.folder / 'log.txt'),
        )
        write_status(self.folder, status)
        return status

    def _run_with_main(self) -> Status:
        """Run this node's share of the commands. torchrun makes all nodes wait for each other before each command."""
        for step, command in commands_of(self.folder).items():
            if step in DATA_STEPS:
                continue
            code = self._run_command(command, f'log-{self.node_rank}.txt')
            if code:
                return Status(STOPPED if self.stopping.is_set() or code in _KILLED else FAILED, step)
        return Status(DONE)


# Stands in for the exit code if a step was stopped before its command started, or must be run again.
STOPPED_BEFORE = -signal.SIGTERM


def best_of_evaluation(run: Path) -> Record | None:
    """The best record of the evaluation that has just ended; None if its images have been lost.

    The run can also have records of other evaluations, but mem_ratio.py always leaves the images of its own.
    """
    return find_record(read_records(run / 'mem_traj.jsonl'), read_settings(run / 'mem_best.npz'))


@dataclasses.dataclass(frozen=True)
class SavedPoint(Settings):
    """The part of `point.json` that determines the point's commands; see `studies.points.Point`."""

    size: int
    seeds: dict[str, int | None]
    sources: dict[str, Options]


def commands_of(folder: Path) -> dict[str, list[str]]:
    """The commands for the point in a folder. Raises UserError if its `point.json` is corrupt."""
    path = folder / POINT_FILE
    point = parse_json(path.read_bytes(), SavedPoint, str(path))
    sources, diagnose = sources_of(folder), read_measurements(folder)
    return point_commands(point, point.size, point.seeds, folder, sources, diagnose, point.sources)
