"""Ranks are the processes that torchrun starts, one per device. Without torchrun, there is a single rank.

Collective operations on Python objects and CPU tensors work with any device and with a single rank.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed

# This module is imported before a process group exists. Otherwise, an optimizer's first step would import it, and the
# default arguments of its functions would keep a reference to the group. The group would then never be freed, and
# gloo's threads could abort the process at interpreter exit.
import torch.distributed.nn
from tqdm import tqdm

from dnnlib import util
from dnnlib.progress import ProgressBar
from dnnlib.util import UserError

T = TypeVar('T')


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the ranks that torchrun started, with nccl for CUDA and gloo otherwise; leave the group at the end."""
    tasks = int(os.environ.get('SLURM_STEP_NUM_TASKS', '1'))
    if 'WORLD_SIZE' not in os.environ and tasks > 1:
        raise UserError(
            f'srun started {tasks} tasks, which would all do the same work; start one task per node with srun, and run '
            f'torchrun in it'
        )
    if 'WORLD_SIZE' not in os.environ or int(os.environ['WORLD_SIZE']) == 1:
        yield
        return
    backend = 'cpu:gloo,cuda:nccl' if device.type == 'cuda' else 'gloo'
    torch.distributed.init_process_group(backend, timeout=timedelta(hours=1))
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def _first_to_report(text: str) -> bool:
    """Whether this rank is the first to report this text, according to a counter in torchrun's store."""
    if world_size() == 1:
        return True
    try:
        address, port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
        store = torch.distributed.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=10))
        return store.add(f'reported {hashlib.sha256(text.encode(errors="replace")).hexdigest()}', 1) == 1
    except (KeyError, ValueError, RuntimeError):
        return is_main()


util.first_to_report = _first_to_report


def rank() -> int:
    return int(os.environ.get('RANK', '0'))


def world_size() -> int:
    return int(os.environ.get('WORLD_SIZE', '1'))


def is_main() -> bool:
    """Whether this is the rank that prints and writes files."""
    return rank() == 0


def print0(*args: Any) -> None:
    """Print on the main rank."""
    if is_main():
        print(*args, flush=True)


def progress_bar(
    total: int, description: str, unit: str = 'img', folder: Path | None = None, done: int = 0, lines: bool = True
) -> tqdm:
    """A progress bar that only the main rank shows and writes to `folder`; see `dnnlib.progress.ProgressBar`."""
    return ProgressBar(description, total, folder if is_main() else None, done, unit, not is_main(), lines)


def choose_device(name: str) -> torch.device:
    """Choose this rank's device. name: 'auto', 'cuda', 'mps', 'cpu', or a specific device such as 'cuda:1'.

    Raises UserError if this machine has no such device.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f'`device`={name}: no such device; choose auto, cuda, mps or cpu') from error
    found = {'cuda': torch.cuda.is_available(), 'mps': torch.backends.mps.is_available()}
    if not found.get(device.type, True):
        raise UserError(f'`device`={name}: this machine has no such device; choose `device`=auto')
    if device.type == 'cuda':
        index = int(os.environ.get('LOCAL_RANK', '0')) if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise UserError(
                f'`device`={name}: rank {rank()} needs GPU {index}, but this machine has only '
                f'{torch.cuda.device_count()} GPUs (numbered from 0); start fewer ranks'
            )
        device = torch.device('cuda', index)
        torch.cuda.set_device(device)
    return device


def barrier() -> None:
    if world_size() > 1:
        broadcast(None)


def broadcast(value: T) -> T:
    """Return the main rank's value on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=torch.device('cpu'))
    return box[0]


def gather(value: T) -> list[T]:
    """Return the values of all ranks, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over ranks, in place."""
    if world_size() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def on_main(action: Callable[[], T]) -> T:
    """Run an action on the main rank only. All ranks return its result, or raise its UserError or OSError."""
    outcome: tuple[Any, Exception | None] = (None, None)
    if is_main():
        try:
            outcome = action(), None
        except (UserError, OSError) as error:
            outcome = None, error
    value, failure = broadcast(outcome)
    if failure is not None:
        raise failure
    return value


def kept_on_main(action: Callable[[], T]) -> list[T]:
    """Like `on_main`, but does not send the result: returns [result] on the main rank, and [] on the other ranks."""
    results: list[T] = []
    on_main(lambda: results.append(action()))
    return results


def on_every_rank(action: Callable[[], T]) -> T:
    """Run an action on every rank; return this rank's result. If any rank raises UserError or OSError, all raise it."""
    outcome: list[T] = []
    failure: Exception | None = None
    try:
        outcome.append(action())
    except (UserError, OSError) as error:
        failure = error
    failures = [error for error in gather(failure) if error is not None]
    if failures:
        raise failures[0]
    return outcome[0]
