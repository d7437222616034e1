"""Runs points on this machine, several at a time, and assigns devices to each point."""

import itertools
import os
import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dnnlib.util import ArgumentError, UserError
from studies.commands import Resources
from studies.launchers.contract import Job, Launcher
from studies.points import Status
from studies.runner import PointRun
from studies.study_options import LaunchOptions


def make_launcher(root: Path, options: LaunchOptions) -> Launcher:
    if options.nodes_per_job > 1:
        raise ArgumentError('`nodes_per_job` requires `launcher`=slurm')
    devices = visible_gpus()
    gpus_per_job = (1 if devices else 0) if options.gpus_per_job is None else options.gpus_per_job
    if options.jobs_per_gpu == 1:
        return LocalLauncher(options.jobs or 1, gpus_per_job, devices)
    if gpus_per_job != 1:
        raise ArgumentError('`jobs_per_gpu` requires a GPU and `gpus_per_job`=1')
    shares = devices * options.jobs_per_gpu
    return LocalLauncher(options.jobs or len(shares), 1, shares)


class LocalLauncher:
    """Runs up to `jobs` points at once, each on `gpus_per_job` GPUs.

    devices: ids of the GPUs; an id that is listed n times is shared by n points. An empty list means the CPU, whose
    cores the points share evenly unless OMP_NUM_THREADS is set.
    """

    def __init__(self, jobs: int = 1, gpus_per_job: int = 0, devices: Sequence[str] = ()):
        self.capacity: int | None = jobs
        self.gpus = jobs * gpus_per_job, len(devices)
        self.resources = Resources(gpus_per_node=gpus_per_job)
        self.shares: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for number in range(jobs):
            self.shares.put(share_of(number, jobs, gpus_per_job, devices))
        self.pool = ThreadPoolExecutor(jobs)
        self.running: dict[Path, PointRun] = {}
        self.stopped = False

    def require_resources(self) -> None:
        needed, found = self.gpus
        if needed > found:
            raise UserError(
                f'`jobs`={self.capacity} with `gpus_per_job`={self.resources.gpus_per_node} needs {needed} GPUs, but '
                f'there are {found}; lower `jobs` or `gpus_per_job`'
            )

    def submit(self, folders: Sequence[Path]) -> list[Job]:
        return [LocalJob(self.pool.submit(self._run, folder)) for folder in folders]

    def script(self, count: int) -> str:
        return ''

    def log_of(self, folder: Path) -> Path:
        return folder / 'log.txt'

    def _run(self, folder: Path) -> Status | None:
        if self.stopped:
            return None
        share = self.shares.get()
        try:
            run = self.running[folder] = PointRun(folder, self.resources, environ=share)
            if self.stopped:
                run.stop()
            return run.run()
        finally:
            self.running.pop(folder, None)
            self.shares.put(share)

    def stop(self) -> None:
        self.stopped = True
        for run in list(self.running.values()):
            run.stop()
        self.pool.shutdown(cancel_futures=True)


class LocalJob:
    """A point in the thread pool.

    If running the point raised an error, for example on a full disk, `done` raises this error again.
    """

    def __init__(self, future: Future):
        self.future = future

    def done(self) -> bool:
        if not self.future.done():
            return False
        if not self.future.cancelled():
            self.future.result()
        return True


def share_of(
    number: int, jobs: int, gpus_per_job: int, devices: Sequence[str], environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Environment variables that assign GPUs, or a share of the cores, to job `number` of `jobs`."""
    if gpus_per_job:
        return {'CUDA_VISIBLE_DEVICES': ','.join(devices[number * gpus_per_job : (number + 1) * gpus_per_job])}
    if jobs == 1 or 'OMP_NUM_THREADS' in environ:
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return {'OMP_NUM_THREADS': str(max(1, cores // jobs))}


def visible_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Ids of the GPUs that this process can use, as listed in CUDA_VISIBLE_DEVICES."""
    named = environ.get('CUDA_VISIBLE_DEVICES')
    if named is not None:
        names = [name.strip() for name in named.split(',') if name.strip()]
        return list(itertools.takewhile(lambda name: name != '-1', names))  # CUDA ignores -1 and the ids after it
    import torch  # imported here because launching on a cluster does not need torch

    return [str(index) for index in range(torch.cuda.device_count())]
