"""`SlurmLauncher` runs points as jobs on a Slurm cluster, using submitit. Each submission is one job array.

Shortly before its time limit, or when the cluster preempts it, a job stops its point gracefully and requeues itself; it
resumes the point later. `slurm.json` in a point's folder identifies its job, so that the next emm.py finds the job.
"""

import contextlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnlib.typed import read_json
from dnnlib.util import ArgumentError, UserError, counted, write_json
from studies.commands import ROOT, Resources
from studies.launchers.contract import Job, Launcher
from studies.launchers.slurm_job import SECONDS_TO_STOP, PointJob
from studies.study_options import LaunchOptions

# Slurm sends this signal to a job's processes before the job's time limit. Unlike SIGUSR1 and SIGUSR2, it is ignored by
# default. Therefore it does not end the training run; it only makes submitit stop the point gracefully.
WARNING_SIGNAL = 'URG'
# How many seconds before the time limit the signal is sent.
WARNING_SECONDS = SECONDS_TO_STOP + 30
# How many times a job that reaches its time limit is requeued; after that, an unfinished point counts as failed.
MAX_TIMEOUTS = 100
# Shortest time between two queries of the cluster, in seconds; in between, the last answer is used.
SECONDS_BETWEEN_QUERIES = 5.0

RECORD = 'slurm.json'  # file in a point's folder: the job array's name and number, and the job's index in the array
NAME_PREFIX = 'emm-'

# Options of sbatch that users cannot set, because the launcher sets them itself or depends on their values.
RESERVED_OPTIONS = {
    *('account', 'array', 'chdir', 'cpus-per-task', 'error', 'gpus-per-node', 'job-name', 'mem', 'nodes', 'ntasks'),
    *('ntasks-per-node', 'open-mode', 'output', 'partition', 'qos', 'requeue', 'no-requeue', 'signal', 'time', 'wckey'),
}


def make_launcher(root: Path, options: LaunchOptions) -> Launcher:
    return SlurmLauncher(root / 'slurm', options)


class SlurmLauncher:
    """Queues points as jobs on the cluster that this machine belongs to.

    log_dir: a folder visible to all nodes, for the jobs' scripts and logs.
    Raises UserError if submitit or the Slurm commands are missing, or if an option cannot be passed to sbatch.
    """

    def __init__(self, log_dir: Path, options: LaunchOptions) -> None:
        _check_installed()
        if options.jobs_per_gpu > 1:
            raise ArgumentError('`jobs_per_gpu` requires `launcher`=local')
        self.capacity: int | None = None
        self.log_dir = log_dir.resolve()
        self.resources = Resources(options.nodes_per_job, gpus_of(options))
        self.parameters = sbatch_parameters(options)
        self.queue = _Queue()
        self.jobs: list[SlurmJob] = []

    def require_resources(self) -> None:
        pass  # Slurm refuses jobs that ask for too much

    def submit(self, folders: Sequence[Path]) -> list[Job]:
        """Queue the points in these folders as one job array, except points whose job is already waiting or running.

        Returns one job per folder, in order. Raises UserError with sbatch's message if sbatch refuses.
        """
        self.queue.refresh()
        known = {folder: job for folder in folders if (job := self._job_of(folder)) and not job.done()}
        self.jobs += known.values()
        if known:
            print(f'Already on the cluster: {counted(len(known), "point", "d")}.', flush=True)
        missing = [folder for folder in folders if folder not in known]
        if missing:
            known.update(zip(missing, self._submit_array(missing), strict=True))
        return [known[folder] for folder in folders]

    def script(self, count: int) -> str:
        """The job script that `submit` would pass to sbatch for an array of `count` points."""
        executor = self._executor(f'{NAME_PREFIX}…')
        executor.parameters |= {'map_count': count} if count > 1 else {}
        return f'\nJob script:\n{executor._make_submission_file_text(executor._submitit_command_str, "")}'

    def stop(self) -> None:
        """Leave the jobs running on the cluster, and print how to cancel them."""
        left = sorted({job.array_id for job in self.jobs} - {''})
        if left:
            print(
                'The jobs continue on the cluster. To follow them, run the same command again; to cancel them: '
                f'scancel {" ".join(left)}',
                flush=True,
            )

    def log_of(self, folder: Path) -> Path:
        record = read_json(folder / RECORD, dict[str, Any]) or {'job': None, 'index': 0}
        names = f'{record["job"]}_{record["index"]}_0_log.err', f'{record["job"]}_0_log.err'  # in an array, or alone
        return next((path for name in names if (path := self.log_dir / name).exists()), self.log_dir)

    def _job_of(self, folder: Path) -> 'SlurmJob | None':
        record = read_json(folder / RECORD, dict[str, Any])
        return SlurmJob(self.queue, record['name'], record['index']) if record else None

    def _submit_array(self, folders: Sequence[Path]) -> list['SlurmJob']:
        # The array's name is saved before the array is submitted. If this process dies before it learns the array's
        # number, the jobs can still be found by the name.
        name = f'{NAME_PREFIX}{uuid.uuid4().hex[:12]}'
        for index, folder in enumerate(folders):
            _write_record(folder, name, index, None)
        executor = self._executor(name)
        given = self.resources.nodes, self.resources.gpus_per_node, Path.cwd()
        tasks = [PointJob(folder.resolve(), *given) for folder in folders]
        number = _sbatch(lambda: executor.submit_array(tasks)[0].job_id).split('_')[0]
        for index, folder in enumerate(folders):
            _write_record(folder, name, index, number)
        jobs = [SlurmJob(self.queue, name, index) for index in range(len(folders))]
        self.queue.add(jobs, number)
        self.jobs += jobs
        print(
            f'Submitted to the cluster: {counted(len(folders), "point", "d")}, as job {number}; output: {self.log_dir}',
            flush=True,
        )
        return jobs

    def _executor(self, name: str) -> Any:
        import submitit

        executor = submitit.SlurmExecutor(self.log_dir, max_num_timeout=MAX_TIMEOUTS)
        executor.update_parameters(job_name=name, **self.parameters)
        return executor


def sbatch_parameters(options: LaunchOptions) -> dict[str, Any]:
    """The parameters for submitit's Slurm executor. Raises UserError if an option cannot be passed to sbatch."""
    extra = extra_options(options.sbatch)
    chosen = {
        'partition': options.partition,
        'account': options.account,
        'qos': options.qos,
        'mem': options.mem,
        'cpus_per_task': options.cpus_per_job,
        'gpus_per_node': gpus_of(options) or None,
        'array_parallelism': options.jobs or sys.maxsize,  # submitit's own default is 256
    }
    for name, value in {**chosen, **extra}.items():
        # Each option becomes a line of a shell script, so a line break could add a command to the script.
        if any(not character.isprintable() for character in str(value)):
            raise UserError(f'sbatch option {name!r} contains a line break or another control character; remove it')
    cores = [] if options.cpus_per_job is None else [f'--cpus-per-task={options.cpus_per_job}']
    return {
        'time': options.time_limit,
        'nodes': options.nodes_per_job,
        'ntasks_per_node': 1,
        # srun does not inherit --cpus-per-task from sbatch.
        'srun_args': ['--kill-on-bad-exit=1', *cores],
        'setup': [f'export SUBMITIT_PREEMPT_SIGNAL={WARNING_SIGNAL}'],
        'additional_parameters': {
            'chdir': str(ROOT),
            'requeue': True,
            'signal': f'{WARNING_SIGNAL}@{WARNING_SECONDS}',
            **extra,
        },
        **{key: value for key, value in chosen.items() if value is not None},
    }


def gpus_of(options: LaunchOptions) -> int:
    """The number of GPUs per point on each node; by default one."""
    return 1 if options.gpus_per_job is None else options.gpus_per_job


def extra_options(words: Iterable[str]) -> dict[str, str | bool]:
    """Parse additional sbatch options, with a value (such as constraint=a100) or without (such as exclusive).

    Raises UserError if a word is not a long option, or if the launcher itself sets the option.
    """
    found = {name: value if equals else True for name, equals, value in (word.partition('=') for word in words)}
    for name in found:
        if not re.fullmatch('[a-z][a-z0-9-]*', name):
            raise UserError(f'{name!r} is not a long option of sbatch; omit the leading dashes, as in constraint=a100')
        if name in RESERVED_OPTIONS:
            raise UserError(f'the sbatch option {name!r} is set by the study; remove it from `sbatch`')
    return found


@dataclass(frozen=True)
class SlurmJob:
    """One job in an array, identified by the array's name and the job's index in the array."""

    queue: '_Queue'
    name: str
    index: int

    @property
    def array_id(self) -> str:
        """The array's number on the cluster; '' once the job has ended."""
        return self.queue.living().get((self.name, self.index), '')

    def done(self) -> bool:
        """Whether the job is no longer waiting or running."""
        return not self.array_id


class _Queue:
    """This user's waiting and running jobs, queried with squeue every few seconds."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, int], str] = {}
        self._next_query = 0.0

    def living(self) -> dict[tuple[str, int], str]:
        """Array numbers of waiting and running jobs, by (array name, index).

        If the cluster does not answer, the result of the previous query is returned.
        """
        if time.monotonic() >= self._next_query:
            with contextlib.suppress(UserError):
                self._jobs = _query()
            self._next_query = time.monotonic() + SECONDS_BETWEEN_QUERIES
        return self._jobs

    def add(self, jobs: Sequence[SlurmJob], number: str) -> None:
        """Add jobs that the cluster has just accepted."""
        self._jobs |= {(job.name, job.index): number for job in jobs}

    def refresh(self) -> None:
        """Query the cluster now. Raises UserError if squeue does not answer."""
        self._jobs = _query()
        self._next_query = time.monotonic() + SECONDS_BETWEEN_QUERIES


def _query() -> dict[tuple[str, int], str]:
    command = ['squeue', '--noheader', '--array', f'--user={os.getuid()}', '--format=%j %K %F']
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(f'squeue does not answer ({_last_line(result.stderr)}); try again when the cluster is up')
    jobs = {}
    for line in result.stdout.splitlines():
        match line.split():
            case [name, index, number] if name.startswith(NAME_PREFIX):
                # squeue shows no index for a job that is not in an array.
                jobs[name, int(index) if index.isdigit() else 0] = number
    return jobs


def _write_record(folder: Path, name: str, index: int, job: str | None) -> None:
    write_json(folder / RECORD, {'name': name, 'index': index, 'job': job})


def _check_installed() -> None:
    if importlib.util.find_spec('submitit') is None:
        raise UserError(
            '`launcher`=slurm requires submitit, which is not installed: pip install -r requirements-slurm.txt'
        )
    missing = [program for program in ('sbatch', 'srun', 'squeue') if shutil.which(program) is None]
    if missing:
        raise UserError(
            f'`launcher`=slurm requires {missing[0]}, which is not installed; use a machine that can submit jobs to '
            'the cluster, or '
            '`launcher`=local'
        )


def _sbatch(submit: Callable[[], str]) -> str:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the exception also contains the reason
            return submit()
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(f'sbatch refuses the jobs ({_last_line(str(error))}); change the launcher options') from error


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ['no message'])[-1]
