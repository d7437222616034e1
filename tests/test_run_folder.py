"""Conditions under which training and evaluation may change a run folder, or must refuse to."""

import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

import mem_ratio
import train
from dnnlib.locks import sole_use
from tests.helpers import TINY, failure_of, invoke
from training import training_loop

run = partial(invoke, train.main)
failure = partial(failure_of, train.main)


@pytest.fixture(scope='module')
def arguments(digits_20):
    return [f'--data={digits_20}', *TINY, '--batch=20', '--nosubdir', '--device=cpu', '--snapshots=1', '--seed=1']


@pytest.fixture
def run_dir(arguments, tmp_path):
    result = run(f'--outdir={tmp_path}/run', *arguments, '--epochs=1')
    assert result.exit_code == 0, result.output
    return tmp_path / 'run'


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_refused_attempt_to_resume_changes_no_files(run_dir, arguments):
    before = content(run_dir)
    for options in ([], ['--dry-run']):
        assert '--data=digits differs from the training set' in failure(
            f'--resume={run_dir}', '--outdir=x', '--data=digits', *options
        )
    with sole_use(run_dir / '.lock', 'it'):
        assert 'in use by another process' in failure(f'--outdir={run_dir}', *arguments, '--epochs=2')
    assert content(run_dir) == before


@pytest.mark.parametrize('nosubdir', [True, False])
def test_a_refused_new_run_leaves_no_folder(arguments, tmp_path, nosubdir):
    (tmp_path / 'broken.safetensors').write_bytes(bytes(100))
    given = arguments if nosubdir else [word for word in arguments if word != '--nosubdir']
    failure(f'--outdir={tmp_path}/run', *given, '--epochs=1', f'--transfer={tmp_path}/broken.safetensors')
    assert not (tmp_path / 'run').exists()


def test_a_folder_whose_name_is_not_utf8_is_refused(arguments, tmp_path):
    message = failure(f'--outdir={tmp_path}/bad\udcff', *arguments, '--epochs=1')
    assert 'bad\\udcff is not a UTF-8 name; choose another name for the run folder' in message
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_training_state_may_start_again_with_other_options(run_dir, arguments):
    for path in run_dir.glob('*.pt'):
        path.unlink()
    assert '--lr=0.5 differs from' in failure(f'--outdir={run_dir}', *arguments, '--lr=0.5')
    for path in run_dir.glob('network-snapshot-*'):
        path.unlink()
    assert run(f'--outdir={run_dir}', *arguments, '--lr=0.5', '--epochs=1').exit_code == 0
    assert json.loads((run_dir / 'training_options.json').read_text())['options']['lr'] == 0.5


def test_a_dry_run_of_a_resumed_run_estimates_the_time_for_the_remaining_images(run_dir, arguments, monkeypatch):
    monkeypatch.setattr('training.cost.images_per_second', lambda config, device: 10)
    before = content(run_dir)  # after 20 of 80 images
    result = run(f'--resume={run_dir}', '--epochs=4', '--dry-run')
    assert 'about 6s for the remaining 60 images at 10 images/s' in result.output
    assert content(run_dir) == before
    assert 'about 8s at 10 images/s' in run(f'--outdir={run_dir}/new', *arguments, '--epochs=4', '--dry-run').output


def test_a_length_that_does_not_fit_the_snapshots_of_a_resumed_run_is_named(arguments, tmp_path):
    run(f'--outdir={tmp_path}', *arguments, '--epochs=100', '--snapshots=3', '--samples=0')
    before = content(tmp_path)
    message = 'with --snapshots=3, snapshots 2 and 3 would both be at 1 kimg; change the length, or save less often'
    for dry_run in ([], ['--dry-run']):
        assert f'Error: --epochs=75: {message}' in failure(f'--resume={tmp_path}', '--epochs=75', *dry_run, status=2)
        both = failure(f'--resume={tmp_path}', '--epochs=75', '--snapshots=3', *dry_run, status=2)
        assert 'Error: --snapshots=3: snapshots 2 and 3 would both be at 1 kimg; save less often' in both
    assert content(tmp_path) == before


def test_status_lines_show_the_time_left(arguments, tmp_path, monkeypatch):
    seen: list[int] = []  # numbers of images, each of which takes 0.05 seconds
    monkeypatch.setattr(training_loop.Journal, 'progress', lambda self, images: seen.append(images))
    monkeypatch.setattr(training_loop, 'time', SimpleNamespace(monotonic=lambda: sum(seen) / 20, time=lambda: 0))
    found = []
    for epochs in (20, 50):  # the second run resumes at 400 of 1,000 images
        result = run(f'--outdir={tmp_path}', *arguments, '--batch=100', f'--epochs={epochs}')
        assert result.exit_code == 0, result.output
        found.append(re.findall(r'kimg (\S+) .* (\S+) left ', result.output))
    assert found[0] == [('0.1', '15s'), ('0.2', '10s'), ('0.3', '5s'), ('0.4', '0s')]
    assert found[1][0] == ('0.5', '25s')
    assert found[1][-1] == ('1.0', '0s')


def test_resuming_with_other_numbers_of_ranks_or_threads_is_reported(run_dir, arguments):
    saved = json.loads((run_dir / 'training_options.json').read_text())
    saved |= {'world_size': 2, 'threads': saved['threads'] + 2}
    (run_dir / 'training_options.json').write_text(json.dumps(saved))
    result = run(f'--outdir={run_dir}', *arguments, '--epochs=2')
    assert f'started with 2 ranks and {saved["threads"]} threads and resumes with 1 rank' in result.output
    assert 'started with' not in run(f'--outdir={run_dir}', *arguments, '--epochs=3').output


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('[' * 100_000, 'not a JSON file'),
        ('{}', 'lacks the key options'),
        ('{"options": {"outdir": "x", "data": "d", "batch": "many"}, "world_size": 1}', "batch must be .*, not 'many'"),
    ],
)
def test_damaged_options_give_a_one_sentence_error(run_dir, text, message):
    (run_dir / 'training_options.json').write_text(text)
    assert re.search(message, failure(f'--resume={run_dir}', '--outdir=x', '--data=d'))


def test_a_second_evaluation_of_the_same_run_at_once_is_refused(run_dir):
    with sole_use(run_dir / '.mem_traj.lock', 'it'):
        message = failure_of(mem_ratio.main, f'--expdir={run_dir}', '--seeds=0-3', '--steps=2')
    assert f'the log {run_dir}/mem_traj.log is in use by another process' in message


def test_a_resumed_run_that_has_already_reached_its_length_reports_this(run_dir, monkeypatch):
    monkeypatch.setattr('training.cost.images_per_second', lambda config, device: 10)
    text = 'the run has already reached this length'
    assert f'Time:           none, because {text}\n' in run(f'--resume={run_dir}', '--dry-run').output
    assert f'{text}, so it is not trained further' in run(f'--resume={run_dir}').output.replace('The', 'the')
    assert text not in run(f'--resume={run_dir}', '--epochs=2').output


def test_only_a_training_state_can_be_resumed(run_dir, digits_20):
    (snapshot,) = run_dir.glob('*.safetensors')
    for path in (digits_20, snapshot):
        assert f'--resume={path} is not a training state; give a run folder' in failure(f'--resume={path}')


@pytest.mark.parametrize('options', [[], ['--dry-run']])
def test_a_run_cannot_start_in_a_folder_of_images(arguments, tmp_path, options):
    (tmp_path / 'b.JPG').touch()
    message = failure(f'--outdir={tmp_path}', *arguments, '--epochs=1', *options)
    assert f'--outdir={tmp_path} contains images, such as b.JPG; choose another folder' in message
    assert [path.name for path in tmp_path.iterdir()] == ['b.JPG']


def test_an_interrupted_start_of_training_does_not_promise_that_the_same_command_resumes(
    arguments, tmp_path, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr('training.training_run.describe_dataset', interrupt)
    result = run(f'--outdir={tmp_path}', *arguments)
    assert (result.exit_code, result.stderr) == (130, 'Interrupted.\n')
