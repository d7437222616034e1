"""A `Launcher` starts or queues points; `make_launcher` makes one from `LAUNCHERS`.

To add a launcher, write a module with `make_launcher(root, options)`, and an entry in `LAUNCHERS`.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from dnnlib.util import ArgumentError
from studies.commands import Resources
from studies.study_options import LaunchOptions

# The module of each launcher, imported only when the launcher is chosen.
LAUNCHERS = {'local': 'studies.launchers.local', 'slurm': 'studies.launchers.slurm'}


class Job(Protocol):
    """A point that was passed to a launcher."""

    def done(self) -> bool:
        """Whether the point is no longer waiting or running; the status in its folder shows how it ended."""


class Launcher(Protocol):
    """Runs points with `studies.runner`.

    capacity: how many points it runs at a time, or None if it queues any number. resources: the resources per point.
    """

    capacity: int | None
    resources: Resources

    def submit(self, folders: Sequence[Path]) -> list[Job]:
        """Start or queue the points in these folders, in this order."""

    def script(self, count: int) -> str:
        """The job script that `submit` would write for this many points; empty if it writes none."""

    def stop(self) -> None:
        """End after an interruption: return once every process that depends on this one has saved its state."""


def make_launcher(root: Path, options: LaunchOptions) -> Launcher:
    """Make the launcher that the options choose. root: the study's folder. Raises UserError if it cannot run here."""
    if options.launcher not in LAUNCHERS:
        raise ArgumentError(f'`launcher`={options.launcher}: choose one of {", ".join(LAUNCHERS)}')
    return importlib.import_module(LAUNCHERS[options.launcher]).make_launcher(root, options)
