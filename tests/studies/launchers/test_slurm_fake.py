"""The Slurm launcher with stand-ins for sbatch and squeue (tests/test_slurm.py uses a real cluster)."""

import json
import os
import pickle
import shlex
import signal
import stat
import sys
import threading
import time
from pathlib import Path

import pytest

from dnnlib.util import UserError
from studies.launchers import slurm
from studies.launchers.slurm import SlurmLauncher, sbatch_parameters
from studies.launchers.slurm_job import PointJob, rendezvous
from studies.points import LEFT
from studies.run_study import run_study
from studies.session import ended_line, report_left
from studies.study_options import LaunchOptions
from tests.helpers import ROOT
from tests.studies.stand_in import make_study

pytest.importorskip('submitit')


class FakeCluster:
    """Stand-ins for Slurm's programs, which save their arguments in a folder; squeue prints a given text."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.program('srun', 'exit 1')
        self.program('sbatch', f'cp "$1" {folder}/$(ls {folder} | grep -c sh$).sh; echo Submitted batch job 71')
        self.program('squeue', f'echo "$@" > {folder}/asked; cat {folder}/queue')
        self.answer()

    def program(self, name: str, script: str) -> None:
        path = self.folder / 'bin' / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\n{script}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def answer(self, *lines: str) -> None:
        (self.folder / 'queue').write_text(''.join(f'{line}\n' for line in lines))

    @property
    def scripts(self) -> list[str]:
        return [path.read_text() for path in sorted(self.folder.glob('*.sh'))]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    folder = tmp_path / 'cluster'
    folder.mkdir()
    monkeypatch.setenv('PATH', f'{folder}/bin:{os.environ["PATH"]}')
    monkeypatch.setattr(slurm, 'SECONDS_BETWEEN_QUERIES', 0)
    return FakeCluster(folder)


@pytest.fixture
def folders(tmp_path):
    folders = [tmp_path / 'points' / name for name in 'abcd']
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


def launcher(tmp_path: Path, **options) -> SlurmLauncher:
    return SlurmLauncher(tmp_path / 'logs', LaunchOptions(launcher='slurm', **options))


def sbatch_options(script: str) -> dict[str, str]:
    """Options in the #SBATCH lines of a batch script; an option without a value maps to ''."""
    words = [shlex.split(line)[1] for line in script.splitlines() if line.startswith('#SBATCH ')]
    return {name: value for name, _, value in (word.removeprefix('--').partition('=') for word in words)}


def record(folder: Path) -> dict:
    return json.loads((folder / 'slurm.json').read_text())


def test_points_are_submitted_as_one_array_with_the_requested_resources(cluster, folders, tmp_path):
    options = {'partition': 'gpu', 'account': 'lab', 'qos': 'long', 'mem': '64G', 'sbatch': ('constraint=a100|h100',)}
    resources = {'nodes_per_job': 2, 'gpus_per_job': 8, 'cpus_per_job': 16, 'jobs': 3}
    cluster_launcher = launcher(tmp_path, time_limit=90, **resources, **options)
    planned = cluster_launcher.script(len(folders))
    assert not cluster.scripts
    cluster_launcher.submit(folders)
    (script,) = cluster.scripts
    for line in script.splitlines():  # the planned script differs only in the job's name
        assert line in planned or 'emm-' in line
    name = record(folders[0])['name']
    given = sbatch_options(script)
    assert {key: value for key, value in given.items() if key not in ('output', 'error', 'wckey')} == {
        'account': 'lab',
        'array': '0-3%3',
        'chdir': str(ROOT),
        'constraint': 'a100|h100',
        'cpus-per-task': '16',
        'gpus-per-node': '8',
        'job-name': name,
        'mem': '64G',
        'nodes': '2',
        'ntasks-per-node': '1',
        'open-mode': 'append',
        'partition': 'gpu',
        'qos': 'long',
        'requeue': '',
        'signal': 'URG@120',
        'time': '90',
    }
    assert given['output'].startswith(f'{tmp_path}/logs/')
    assert 'export SUBMITIT_PREEMPT_SIGNAL=URG' in script
    (command,) = [line for line in script.splitlines() if line.startswith('srun ')]
    assert '--cpus-per-task=16' in command
    assert f' {sys.executable} ' in command
    assert [record(folder) for folder in folders] == [{'name': name, 'index': i, 'job': '71'} for i in range(4)]


def test_without_a_number_of_jobs_the_cluster_decides_how_many_run_at_a_time(cluster, tmp_path):
    assert '#SBATCH --array=0-599%600\n' in launcher(tmp_path).script(600)


def test_a_point_that_never_started_is_reported_with_the_log_of_its_job(cluster, tmp_path, capsys):
    study = make_study(sizes={'values': [10, 20, 40]})
    cluster_launcher = launcher(tmp_path)
    arguments = study, tmp_path / 'study', cluster_launcher, False, lambda *_: None
    results = run_study(*arguments, lambda result, _: print(ended_line(result, cluster_launcher)))
    assert [result.status.state for result in results.points] == [LEFT] * 3
    logs = tmp_path / 'logs'
    (logs / '71_1_0_log.err').touch()
    assert f'10 images: its job ended before the point started; see {logs}\n' in capsys.readouterr().out
    with pytest.raises(UserError, match='3 points did not start, because the jobs were cancelled or failed'):
        report_left(results, cluster_launcher)
    assert f'20 images: its job ended before the point started; see {logs}/71_1_0_log.err\n' in capsys.readouterr().err


def test_each_job_of_an_array_runs_its_own_point(cluster, folders, tmp_path):
    launcher(tmp_path, nodes_per_job=2, gpus_per_job=8).submit(folders)
    tasks = [pickle.loads((tmp_path / 'logs' / f'71_{i}_submitted.pkl').read_bytes()).function for i in range(4)]
    assert [(task.folder, task.nodes, task.gpus_per_node) for task in tasks] == [(f, 2, 8) for f in folders]


def test_one_gpu_is_requested_by_default(cluster, folders, tmp_path):
    launcher(tmp_path).submit(folders[:1])
    assert sbatch_options(cluster.scripts[0])['gpus-per-node'] == '1'


def test_no_gpu_is_requested_for_points_on_the_cpu(cluster, folders, tmp_path):
    launcher(tmp_path, gpus_per_job=0).submit(folders[:1])
    assert not [name for name in sbatch_options(cluster.scripts[0]) if 'gpu' in name or 'gres' in name]


def test_a_point_with_an_active_job_is_not_submitted_again(cluster, folders, tmp_path):
    launcher(tmp_path).submit(folders)
    name = record(folders[0])['name']
    cluster.answer(f'{name} 1 71', 'someone else 3 5', f'{name} 3 71')
    jobs = launcher(tmp_path).submit([folders[3], folders[1]])
    assert len(cluster.scripts) == 1
    assert [job.done() for job in jobs] == [False, False]
    cluster.answer(f'{name} 1 71')
    assert [job.done() for job in jobs] == [True, False]


def test_only_the_points_whose_jobs_are_gone_are_submitted_again(cluster, folders, tmp_path):
    launcher(tmp_path).submit(folders)
    first = record(folders[0])['name']
    cluster.answer(f'{first} 1 71')
    jobs = launcher(tmp_path).submit(folders)
    assert sbatch_options(cluster.scripts[1])['array'].startswith('0-2%')
    second = record(folders[0])['name']
    assert [(record(folder)['name'], record(folder)['index']) for folder in folders] == [
        (second, 0),
        (first, 1),
        (second, 1),
        (second, 2),
    ]
    cluster.answer(f'{first} 1 71', f'{second} 2 72')
    assert [job.done() for job in jobs] == [True, False, True, False]


def test_a_job_whose_number_was_not_saved_before_a_crash_is_found_by_its_name(cluster, folders, tmp_path):
    (folders[0] / 'slurm.json').write_text('{"name": "emm-0123456789ab", "index": 0, "job": null}')
    cluster.answer('emm-0123456789ab N/A 71')
    (job,) = launcher(tmp_path).submit(folders[:1])
    assert (cluster.scripts, job.done()) == ([], False)


def test_only_the_jobs_of_this_user_are_queried(cluster, folders, tmp_path):
    launcher(tmp_path).submit(folders)
    assert f'--user={os.getuid()}' in (cluster.folder / 'asked').read_text().split()


def test_jobs_count_as_active_while_the_cluster_does_not_answer(cluster, folders, tmp_path):
    cluster_launcher = launcher(tmp_path)
    jobs = cluster_launcher.submit(folders)
    cluster.program('squeue', 'echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1')
    assert not any(job.done() for job in jobs)
    with pytest.raises(UserError, match='Unable to contact slurm controller'):
        cluster_launcher.submit(folders)
    assert len(cluster.scripts) == 1


def test_stopping_emm_py_keeps_the_jobs_and_prints_how_to_cancel_them(cluster, folders, tmp_path, capsys):
    cluster_launcher = launcher(tmp_path)
    cluster_launcher.submit(folders)
    cluster.answer(f'{record(folders[0])["name"]} 2 71')
    cluster_launcher.stop()
    assert 'scancel 71' in capsys.readouterr().out


def test_an_error_message_of_sbatch_is_shown_unchanged(cluster, folders, tmp_path, capfd):
    cluster.program('sbatch', 'echo "sbatch: error: invalid partition specified: gpuu" >&2; exit 1')
    with pytest.raises(UserError, match='invalid partition specified: gpuu'):
        launcher(tmp_path, partition='gpuu').submit(folders)
    assert capfd.readouterr().err == ''


def test_a_machine_without_sbatch_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(UserError, match='requires sbatch, which is not installed'):
        launcher(tmp_path)


def test_a_missing_submitit_is_named_in_the_error(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=r'pip install -r requirements-slurm\.txt'):
        launcher(tmp_path)


@pytest.mark.parametrize(
    ('options', 'problem'),
    [
        ({'partition': 'gpu\nrm -rf'}, 'line break'),
        ({'sbatch': ['comment=a\rb']}, 'line break'),
        ({'sbatch': ['--constraint=a100']}, 'omit the leading dashes'),
        ({'sbatch': ['array=0-9']}, "'array' is set by the study"),
    ],
)
def test_invalid_options_for_sbatch_are_refused(options, problem):
    with pytest.raises(UserError, match=problem):
        sbatch_parameters(LaunchOptions(**options))


def test_additional_options_are_passed_to_sbatch(cluster, folders, tmp_path):
    launcher(tmp_path, sbatch=('constraint=a=b', 'exclusive')).submit(folders)
    given = sbatch_options(cluster.scripts[0])
    assert (given['constraint'], given['exclusive']) == ('a=b', '')


def test_nodes_rendezvous_at_the_first_node():
    environ = {'SLURM_NODEID': '3', 'SLURM_LAUNCH_NODE_IPADDR': '10.0.0.7', 'SLURM_JOB_ID': '1234567'}
    # The port is 20000 + (1234567 mod 10000).
    assert rendezvous(environ) == {'NODE_RANK': '3', 'MASTER_ADDR': '10.0.0.7', 'MASTER_PORT': '24567'}


def test_a_job_near_its_time_limit_waits_for_its_point_to_stop(tmp_path, monkeypatch):
    """The signal arrives while the job waits for the child process that runs its point, as on a real cluster."""
    stand_in = tmp_path / 'python'
    stand_in.write_text(f'#!/bin/sh\ntrap "sleep 0.3; touch {tmp_path}/saved; exit 143" TERM\ntouch {tmp_path}/up\n'
                        'while :; do sleep 0.05; done\n')  # fmt: skip
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(stand_in))
    monkeypatch.setenv('SLURM_NODEID', '0')
    job = PointJob(tmp_path, 1, 0, tmp_path)
    found = {}

    def near_the_end(*_):
        found['next'] = job.checkpoint()
        found['saved'] = (tmp_path / 'saved').exists()

    def warn():
        while not (tmp_path / 'up').exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGURG)

    before = signal.signal(signal.SIGURG, near_the_end)
    start = time.monotonic()
    try:
        threading.Thread(target=warn).start()
        with pytest.raises(SystemExit, match='the point is not done'):
            job()
    finally:
        signal.signal(signal.SIGURG, before)
    assert found['saved']
    assert time.monotonic() - start < 20
    again = found['next'].function
    assert (again.folder, again.nodes, again.gpus_per_node, again.process) == (tmp_path, 1, 0, None)
