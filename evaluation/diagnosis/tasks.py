"""Distributes the independent parts of a measurement over ranks, and resumes an interrupted measurement."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from evaluation.saved_arrays import read_arrays, write_arrays
from torch_utils import distributed

SECONDS_BETWEEN_SAVES = 5.0

Arrays = dict[str, np.ndarray]


def run_tasks(
    names: Sequence[str],
    compute: Callable[[str], Mapping[str, Tensor]],
    description: str,
    partial: Path,
    settings: Mapping[str, Any],
) -> dict[str, Arrays]:
    """Compute each task on one rank; return all results on every rank, in the order of the names.

    compute: maps a task's name to CPU tensors, which must not depend on the rank.
    partial: an `.npz` file that stores finished tasks until all are done; the caller removes it after saving the
    results. settings: everything that determines the results. A file that is corrupt or has other settings is ignored.
    """
    done = distributed.on_main(lambda: _read(partial, settings))
    todo = [name for name in names if name not in done]
    rank, world_size = distributed.rank(), distributed.world_size()
    last_save = time.monotonic()
    with distributed.progress_bar(len(names), description, unit='it') as bar:
        bar.update(len(names) - len(todo))
        for start in range(0, len(todo), world_size):
            mine = todo[start:][rank : rank + 1]
            for part in distributed.gather(distributed.on_every_rank(functools.partial(_compute, compute, mine))):
                done |= part
                bar.update(len(part))
            if distributed.is_main() and time.monotonic() - last_save > SECONDS_BETWEEN_SAVES:
                _save(partial, settings, done)
                last_save = time.monotonic()
        if distributed.is_main() and todo:
            _save(partial, settings, done)
    return {name: done[name] for name in names}


def joined(results: Mapping[str, Arrays], axis: int) -> Arrays:
    """For each array name, concatenate the arrays with this name from all tasks, in order, along an axis."""
    names = dict.fromkeys(name for arrays in results.values() for name in arrays)
    return {
        name: np.concatenate([arrays[name] for arrays in results.values() if name in arrays], axis) for name in names
    }


def _compute(compute: Callable[[str], Mapping[str, Tensor]], names: Sequence[str]) -> dict[str, Arrays]:
    return {name: {key: tensor.numpy() for key, tensor in compute(name).items()} for name in names}


def _read(path: Path, settings: Mapping[str, Any]) -> dict[str, Arrays]:
    done: dict[str, Arrays] = {}
    for entry, array in (read_arrays(path, settings) or {}).items():
        task, _, name = entry.rpartition('|')
        done.setdefault(task, {})[name] = array
    return done


def _save(path: Path, settings: Mapping[str, Any], done: Mapping[str, Arrays]) -> None:
    arrays = {f'{task}|{name}': array for task, found in done.items() for name, array in found.items()}
    write_arrays(path, settings, arrays)
