"""What runs points: a `Launcher` starts or queues them, on this machine (local.py) or on a cluster (slurm.py)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from studies.commands import Resources


class Job(Protocol):
    """A point that a launcher was given."""

    def done(self) -> bool:
        """Whether nothing runs or waits for it any more; its folder's status says how it ended."""


class Launcher(Protocol):
    """Runs points by `studies.runner`.

    capacity: points that it runs at a time, or None where it queues any number. resources: of each point.
    """

    capacity: int | None
    resources: Resources

    def submit(self, folders: Sequence[Path]) -> list[Job]:
        """Start or queue the points of these folders, in this order."""

    def stop(self) -> None:
        """End at an interruption: return once whatever depends on this process has saved its state."""
