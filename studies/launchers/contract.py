"""The interface of launchers, which start or queue points; `make_launcher` makes the launcher that the user chose.

To add a launcher, write a module with a function `make_launcher(root, options)`, and add the module to `LAUNCHERS`.
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
        """Whether the point is neither waiting nor running. The status in its folder shows how it ended."""


class Launcher(Protocol):
    """Runs points with `studies.runner`.

    capacity: largest number of points that the launcher accepts at a time; None means any number. resources: the
    resources for each point.
    """

    capacity: int | None
    resources: Resources

    def require_resources(self) -> None:
        """Raise UserError if the points cannot run here. A study that is only planned (`-n`) does not call this."""

    def submit(self, folders: Sequence[Path]) -> list[Job]:
        """Start or queue the points in these folders, in this order."""

    def script(self, count: int) -> str:
        """The job script that `submit` would write for `count` points; empty if no script is needed."""

    def log_of(self, folder: Path) -> Path:
        """The log of the last job that was to run the point in this folder, or the folder of all logs."""

    def stop(self) -> None:
        """Stop local points after an interruption or an error, and wait until they have saved their state and ended.
        Jobs on a cluster continue."""


def make_launcher(root: Path, options: LaunchOptions) -> Launcher:
    """Make the chosen launcher. root: the study's folder. Raises UserError if the launcher cannot be used here."""
    if options.launcher not in LAUNCHERS:
        raise ArgumentError(f'`launcher`={options.launcher}: choose one of {", ".join(LAUNCHERS)}')
    return importlib.import_module(LAUNCHERS[options.launcher]).make_launcher(root, options)
