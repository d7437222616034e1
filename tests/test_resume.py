"""A training run that was stopped at any moment and resumed ends with the same bytes as an uninterrupted one."""

import contextlib
import os
import signal
import subprocess
import time

import psutil
import pytest

from tests.helpers import TINY, command, environment, run_script
from training.snapshot import list_snapshots, list_states

# A training run with every source of randomness (dropout, augmentation, shuffling window), which saves a training state
# about every 40 steps.
OPTIONS = [*TINY, '--augment=0.2', '--window-size=0.5', '--batch=24', '--epochs=160', '--tick=1', '--snap=1',
           '--seed=7', '--nosubdir', '--ema_mode=mode1', '--ema=10', '--xflip=1', '--batch-gpu=12']  # fmt: skip
LAST_KIMG = 3


def arguments(digits_20, run_dir):
    return ['train.py', f'--outdir={run_dir}', f'--data={digits_20}', *OPTIONS]


def last_snapshot(run_dir):
    kimg, path = list_snapshots(run_dir)[-1]
    assert kimg == LAST_KIMG
    return path.read_bytes()


def start(digits_20, run_dir, ranks):
    """Start a training run in its own session, so that it can be killed with all its ranks."""
    return subprocess.Popen(
        command(*arguments(digits_20, run_dir), ranks=ranks),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill_all(process):
    """Kill a training run and all its ranks, each of which torchrun starts in its own session."""
    if process.poll() is not None:
        return
    ranks = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for rank in ranks:
        with contextlib.suppress(psutil.NoSuchProcess):
            rank.kill()


def wait_for(condition, process, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, 'the training run makes no progress'
        time.sleep(0.005)


def has_state(run_dir, kimg):
    return run_dir.is_dir() and any(found >= kimg for found, _ in list_states(run_dir))


@pytest.fixture(scope='module')
def uninterrupted(digits_20, tmp_path_factory):
    """A function that returns the last snapshot of an uninterrupted training run on a given number of ranks."""
    found = {}

    def get(ranks):
        if ranks not in found:
            run_dir = tmp_path_factory.mktemp(f'ranks{ranks}')
            run_script(*arguments(digits_20, run_dir), ranks=ranks)
            found[ranks] = last_snapshot(run_dir)
        return found[ranks]

    return get


@pytest.mark.slow
@pytest.mark.parametrize('ranks', [1, 2, 3])
def test_a_killed_and_resumed_training_run_ends_with_the_same_bytes(digits_20, tmp_path, uninterrupted, ranks):
    run_dir = tmp_path / 'run'
    # The run is killed three times: when its folder appears, after its first training state, and while it writes a
    # later file.
    moments = [
        lambda: run_dir.is_dir(),
        lambda: has_state(run_dir, 1),
        lambda: any(run_dir.glob('*.partial')) or has_state(run_dir, 2),
    ]
    killed = 0
    for moment in moments:
        process = start(digits_20, run_dir, ranks)
        wait_for(moment, process)
        killed += process.poll() is None
        kill_all(process)
    assert killed >= 2
    run_script(*arguments(digits_20, run_dir), ranks=ranks)
    assert last_snapshot(run_dir) == uninterrupted(ranks)


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_saves_the_state_and_ends_cleanly(digits_20, tmp_path, uninterrupted, number):
    run_dir = tmp_path / 'run'
    process = subprocess.Popen(
        command(*arguments(digits_20, run_dir)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: has_state(run_dir, 1), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert 'Stopped at' in out
    assert 'Traceback' not in err
    run_script(*arguments(digits_20, run_dir))
    assert last_snapshot(run_dir) == uninterrupted(1)


def test_running_a_finished_training_run_again_changes_nothing(digits_20, tmp_path):
    run_script(*arguments(digits_20, tmp_path))
    before = last_snapshot(tmp_path)
    again = run_script(*arguments(digits_20, tmp_path))
    assert 'Resuming from training-state-000003.pt' in again.stdout
    assert last_snapshot(tmp_path) == before
    longer = run_script(*arguments(digits_20, tmp_path), '--epochs=200')
    assert '200 epochs' in longer.stdout
    assert list_snapshots(tmp_path)[-1][0] == 4


def test_resuming_with_another_option_is_refused_by_name(digits_20, tmp_path):
    run_script(*arguments(digits_20, tmp_path))
    for option, started in [('--lr=0.5', '0.001'), ('--seed=8', '7'), ('--num-channels=16', '8')]:
        failed = run_script(*arguments(digits_20, tmp_path), option, check=False)
        assert failed.returncode == 1
        assert failed.stderr.startswith(f'Error: {option} differs from {started}')


def test_resume_takes_a_run_folder_or_a_training_state(digits_20, tmp_path, uninterrupted):
    short = [option for option in arguments(digits_20, tmp_path / 'run') if not option.startswith('--epochs')]
    run_script(*short, '--epochs=80')
    state = list_states(tmp_path / 'run')[-1][1]
    for target in (state, tmp_path / 'run'):
        run_script('train.py', '--outdir=elsewhere', f'--data={digits_20}', f'--resume={target}', '--epochs=160')
        assert last_snapshot(tmp_path / 'run') == uninterrupted(1)
    assert not (tmp_path / 'elsewhere').exists()


def test_resuming_with_other_images_is_refused(digits_20, tmp_path):
    run_script(*arguments(digits_20, tmp_path / 'run'))
    whole = digits_20.read_bytes()
    copy = tmp_path / 'digits-20.zip'
    copy.write_bytes(whole)
    run_script(*arguments(copy, tmp_path / 'other'))
    run_script(
        '-m', 'dataset_utils', 'size', '--source=digits', f'--dest={copy}', '--max-images=20', '--seed=3', '--overwrite'
    )
    failed = run_script(*arguments(copy, tmp_path / 'other'), check=False)
    assert failed.returncode == 1
    assert 'differs from the training set that this run was started with' in failed.stderr
    copy.unlink()
    failed = run_script('train.py', f'--resume={tmp_path}/other', check=False)
    assert f'gives the training set as {copy}, which is not found from this folder; give its' in failed.stderr


@pytest.mark.slow
def test_training_on_two_nodes_equals_training_on_two_ranks_of_one_node(digits_20, tmp_path, uninterrupted):
    def node(rank):
        launcher = ['-m', 'torch.distributed.run', '--nnodes=2', f'--node_rank={rank}', '--nproc_per_node=1',
                    '--master_addr=127.0.0.1', '--master_port=29731']  # fmt: skip
        plain = command(*arguments(digits_20, tmp_path / 'run'))
        return subprocess.Popen(
            [plain[0], *launcher, *plain[1:]],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    nodes = [node(0), node(1)]
    outputs = [process.communicate(timeout=180)[0] for process in nodes]
    assert [process.returncode for process in nodes] == [0, 0], outputs
    assert last_snapshot(tmp_path / 'run') == uninterrupted(2)
