"""Studies on a real Slurm cluster, which these tests start on the loopback interface: `make test-slurm`."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import command, environment
from tests.slurm_cluster import ClusterNotHere, running_cluster

pytest.importorskip('submitit')
pytestmark = pytest.mark.slurm

SECONDS_TO_FINISH = 600  # two idle cores need less than two minutes

STUDY = """
[data]
selection = 'size'
source = 'digits'

[train]
preset = 'digits'
num-channels = 8
num-blocks = 1
attn-resolutions = 4
precond = 'vp'
batch = 20
epochs = {{ images = {images} }}
warmup = 1
snapshots = 2
tick = 1

[evaluate]
seeds = '0-49'
steps = 4

[sizes]
values = {sizes}
"""


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    """Start a cluster and yield its environment variables; its daemons are stopped even if the tests are terminated."""
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.exit('terminated'))
    try:
        with running_cluster(tmp_path_factory.mktemp('cluster')) as environ:
            yield {**environment(), **environ}
    except ClusterNotHere as error:
        pytest.skip(f'no Slurm cluster: {error}')
    finally:
        signal.signal(signal.SIGTERM, before)


class Study:
    """A study that emm.py runs on the cluster."""

    def __init__(self, folder: Path, environ: dict[str, str], sizes: list[int], images: int, *options: str):
        self.root = folder / 'study'
        self.environ = environ
        self.sizes = sizes
        (folder / 'four.toml').write_text(STUDY.format(sizes=sizes, images=images))
        arguments: list[str | Path] = ['sweep', folder / 'four.toml', f'--outdir={self.root}']
        self.command = command(
            'emm.py', *arguments, '--launcher=slurm', '--gpus-per-job=0', '--time-limit=10', *options
        )

    def start(self) -> subprocess.Popen:
        process = subprocess.Popen(
            self.command, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        end = threading.Timer(SECONDS_TO_FINISH, process.kill)
        end.daemon = True
        end.start()
        return process

    def run(self) -> str:
        done = subprocess.run(self.command, env=self.environ, capture_output=True, text=True, timeout=SECONDS_TO_FINISH)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def point(self, size: int) -> Path:
        return self.root / 'points' / 'all' / f'{size:06d}-r0'

    def job(self, size: int) -> str:
        """Slurm's identifier of a point's job."""
        record = json.loads((self.point(size) / 'slurm.json').read_text())
        return record['job'] if len(self.sizes) == 1 else f'{record["job"]}_{record["index"]}'

    def log(self, size: int) -> str:
        path = self.point(size) / 'log.txt'
        return path.read_text() if path.exists() else ''

    def done(self, size: int) -> bool:
        return (self.point(size) / 'result.json').exists()

    def scripts(self) -> list[Path]:
        return sorted((self.root / 'slurm').glob('*_submission.sh'))

    def slurm(self, *words: str) -> str:
        return subprocess.run(words, env=self.environ, capture_output=True, text=True, check=True).stdout

    def jobs_that(self, states: str) -> set[str]:
        return set(self.slurm('squeue', '--noheader', '--array', f'--states={states}', '--format=%i').split())

    def wait_until_requeued(self, job: str) -> None:
        """Wait until a job is requeued, and shorten its delay from Slurm's two minutes to three seconds.

        Without this delay, the node could refuse the job. When the first run ends, the node revokes its credentials. It
        then also rejects new credentials for the job that were issued in the same second.
        """
        wait_for(lambda: job in self.jobs_that('pending'), f'requeued job {job}')
        self.slurm('scontrol', 'update', f'jobid={job}', 'starttime=now+3')


def wait_until_printed(process: subprocess.Popen, words: str) -> None:
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return
    raise AssertionError(f'{words!r} is not in:\n{"".join(lines)}')


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f'no {what} within {seconds} s'
        time.sleep(0.1)


def test_a_study_survives_being_killed_and_cancelled_and_requeued_jobs(cluster, tmp_path):
    study = Study(tmp_path, cluster, [20, 30, 40, 50], 4000, '--jobs=3')
    first = study.start()
    wait_until_printed(first, 'Submitted to the cluster: 4 points')
    first.kill()
    first.communicate()
    jobs = {size: study.job(size) for size in (20, 30, 40, 50)}

    second = study.start()
    wait_until_printed(second, 'Already on the cluster: ')
    second.terminate()
    assert f'scancel {jobs[20].partition("_")[0]}' in second.communicate()[0]

    wait_for(lambda: all('tick 1 ' in study.log(size) for size in (20, 30, 40)), 'three trainings')
    assert study.jobs_that('running') == {jobs[20], jobs[30], jobs[40]}
    study.slurm('scancel', jobs[20])
    study.slurm('scontrol', 'requeue', jobs[30])
    study.slurm('scancel', '--signal=URG', jobs[40])  # the signal that warns of the time limit
    study.wait_until_requeued(jobs[30])
    study.wait_until_requeued(jobs[40])
    wait_for(lambda: jobs[20] not in study.jobs_that('pending,running,completing'), 'end of the cancelled job')

    study.run()
    assert all(study.done(size) for size in jobs)
    assert all('Resuming from training-state-' in study.log(size) for size in (20, 30, 40))
    assert 'Resuming from' not in study.log(50)
    assert len(study.scripts()) == 2
    assert {size for size in jobs if study.job(size) != jobs[size]} == {20}
    assert not study.jobs_that('pending,running,completing')


def test_a_point_on_two_nodes_resumes_after_its_time_limit(cluster, tmp_path):
    study = Study(tmp_path, cluster, [20], 2500, '--nodes-per-job=2')
    run = study.start()
    try:
        wait_for(lambda: 'tick 1 ' in study.log(20), 'training')
        study.slurm('scancel', '--signal=URG', study.job(20))
        study.wait_until_requeued(study.job(20))
        output, _ = run.communicate(timeout=SECONDS_TO_FINISH)
    finally:
        run.kill()
    assert run.returncode == 0, output
    assert study.done(20)
    assert 'Resuming from training-state-' in study.log(20)
    assert len(study.scripts()) == 1
    assert 'on 2 ranks' in study.log(20)
    assert (
        'Run folder:' not in (study.point(20) / 'log-1.txt').read_text()
    )  # printed by the main rank, on the first node
