"""The full, resolved configuration of one training, as it stands in `training_options.json`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec

from dnnlib.util import UserError, atomic_file
from training.schedule import Schedule
from training.snapshot import NetworkConfig

OPTIONS_FILE = 'training_options.json'


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """The training set. label_dim: 0 for an unconditional network. window_size, xflip: see `training.dataset`.

    cache: keep all images in memory; otherwise `workers` threads decode them as they are drawn.
    """

    path: str
    name: str
    size: int
    resolution: int
    channels: int
    label_dim: int
    xflip: bool
    window_size: float
    cache: bool
    workers: int


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam (betas 0.9 and 0.999, eps 1e-8) or SGD (momentum); weight_decay is an L2 term in the gradient."""

    name: str
    lr: float
    weight_decay: float
    momentum: float


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Everything that a training depends on.

    loss: 'VPLoss', 'VELoss' or 'EDMLoss'. augment: probability. loss_scaling: factor of the loss, not divided out
    again.
    batch_gpu: most images of one forward pass on one device. tick_images: images between two status lines.
    snapshots, states: numbers of images, ascending, at which the first step that reaches them is followed by a file.
    options: the command line's values, by option, for comparing on continuation.
    """

    dataset: DatasetConfig
    network: NetworkConfig
    loss: str
    augment: float
    optimizer: OptimizerConfig
    schedule: Schedule
    batch_gpu: int
    seed: int
    loss_scaling: float
    tick_images: int
    snapshots: list[int]
    states: list[int]
    precision: str
    compile: bool
    deterministic: bool
    benchmark: bool
    transfer: str | None
    world_size: int
    options: dict[str, Any]

    def save(self, run_dir: Path) -> None:
        """Write `training_options.json`."""
        with atomic_file(run_dir / OPTIONS_FILE) as file:
            file.write(json.dumps(msgspec.to_builtins(self), indent=2).encode() + b'\n')


def read_options(run_dir: Path) -> dict[str, Any]:
    """The command line's values that a run was started with. Raises UserError where they cannot be read."""
    path = run_dir / OPTIONS_FILE
    try:
        options = json.loads(path.read_bytes())['options']
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such file; continuing needs the folder that train.py made') from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: not the options of a training ({error}); it cannot be continued') from error
    if not isinstance(options, dict):
        raise UserError(f'{path}: not the options of a training; it cannot be continued')
    return options
