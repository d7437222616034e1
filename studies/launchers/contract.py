"""What runs points: a `Launcher` starts or queues them. `make_launcher` makes one from `LAUNCHERS`.

A new launcher is a module with `make_launcher(root, options)`, and a line in `LAUNCHERS`.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from dnnlib.util import ArgumentError
from studies.commands import Resources
from studies.study_options import LaunchOptions

# Modules by the name of their launcher, imported only when chosen.
LAUNCHERS = {'local': 'studies.launchers.local', 'slurm': 'studies.launchers.slurm'}


class Job(Protocol):
    """A point that a launcher was given."""

    def done(self) -> bool:
        """Whether the point neither waits nor runs any more; its folder's status shows how it ended."""


class Launcher(Protocol):
    """Runs points by `studies.runner`.

    capacity: points that it runs at a time, or None if it queues any number. resources: for each point.
    """

    capacity: int | None
    resources: Resources

    def submit(self, folders: Sequence[Path]) -> list[Job]:
        """Start or queue the points of these folders, in this order."""

    def script(self, count: int) -> str:
        """The job script that `submit` would write for this many points; empty without one."""

    def stop(self) -> None:
        """End at an interruption: return once everything that depends on this process has saved its state."""


def make_launcher(root: Path, options: LaunchOptions) -> Launcher:
    """The launcher that the options choose. root: folder of the study. Raises UserError if it cannot run here."""
    if options.launcher not in LAUNCHERS:
        raise ArgumentError(f'`launcher`={options.launcher}: choose one of {", ".join(LAUNCHERS)}')
    return importlib.import_module(LAUNCHERS[options.launcher]).make_launcher(root, options)
