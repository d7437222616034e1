"""The commands of emm.py on small studies with real training runs: results, interruptions and errors."""

import csv
import json
import os
import re
import signal
import subprocess
import time
import tomllib
from typing import Any

import pytest
from click.testing import CliRunner

import emm
from dnnlib.util import UserError
from evaluation.agreement import cosines
from evaluation.diagnosis_options import SAME_SEED
from studies import session
from studies.points import STOPPED, Status, make_point, write_status
from studies.results import collect
from studies.study_file import read_study
from tests.helpers import TINY, command, environment, run_script
from training.dataset import load_dataset
from training.sampling import SamplerOptions, generate_images, seed_batches
from training.snapshot import list_snapshots, load_network

STUDY = """
title = "Two widths"

[data]
selection = "size"
source = "digits"

[train]
num-channels = 8
num-blocks = 1
attn-resolutions = [4]
precond = "vp"
augment = 0
epochs = { images = 2000 }
warmup = { images = 1000 }
batch = 10
snapshots = 2

[evaluate]
seeds = "0-15"
batch = 8

[sizes]
values = [10, 20]
"""


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / 'two.toml'
    path.write_text(STUDY)
    return path


def tables_of(folder):
    return [(folder / name).read_bytes() for name in ('ratios.csv', 'emm.csv', 'tables.json')]


def kill_with_children(process):
    """Kill emm.py and all of its child processes at the same moment, as a power failure would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_killed_and_resumed_study_gives_the_same_tables(study_file, tmp_path):
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    output = run_script('emm.py', 'sweep', study_file, f'--outdir={whole}', '--jobs=2').stdout
    assert output.splitlines()[0].startswith(f'Page: {whole}/report.html')
    assert '$ python train.py --outdir=' in output
    moments = [
        lambda: list(killed.glob('points/all/*/data.zip')),
        lambda: list(killed.glob('points/all/*/run/training-state-*.pt')),
        lambda: list(killed.glob('points/all/000010-r0/result.json')),
    ]
    for reached in moments:
        process = subprocess.Popen(
            command('emm.py', 'sweep', study_file, f'--outdir={killed}'),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not reached():
            assert process.poll() is None
            time.sleep(0.02)
        kill_with_children(process)
    run_script('emm.py', 'sweep', study_file, f'--outdir={killed}')
    assert tables_of(killed) == tables_of(whole)
    for name in ('000010-r0', '000020-r0'):
        (first,) = (whole / 'points/all' / name / 'run').glob('network-snapshot-000002.safetensors')
        assert first.read_bytes() == (killed / 'points/all' / name / 'run' / first.name).read_bytes()
    check_reports(whole)


@pytest.mark.slow
def test_a_study_evaluates_closed_forms_alongside_networks(study_file, tmp_path):
    network, optimal, gaussian = '{}', '{ evaluate.denoiser = "optimal" }', '{ evaluate.denoiser = "gaussian" }'
    values = f'values = {{ network = {network}, optimal = {optimal}, gaussian = {gaussian} }}'
    study_file.write_text(f'{STUDY.replace("[10, 20]", "[10]")}\n[factors.denoiser]\n{values}\n')
    folder = tmp_path / 'study'
    output = run_script('emm.py', 'sweep', study_file, f'--outdir={folder}').stdout
    assert 'Done: denoiser optimal, 10 images: ratio 100.00 %' in output
    assert output.count('$ python train.py') == 1
    with open(folder / 'ratios.csv', newline='') as file:
        rows = {row['denoiser']: (int(row['memorized']), int(row['images'])) for row in csv.DictReader(file)}
    assert rows.keys() == {'network', 'optimal', 'gaussian'}
    assert (rows['optimal'], rows['gaussian']) == ((16, 16), (0, 16))
    page = (folder / 'report.html').read_text()
    assert page.count('16 of 16 images, closest to the threshold first') == 3
    assert page.count('Training seed') == page.count('Best snapshot') == 1
    records = {path: path.stat().st_mtime_ns for path in folder.glob('points/*/*/run/mem_traj.jsonl')}
    assert len(records) == 3
    assert '$ python' not in run_script('emm.py', 'sweep', study_file, f'--outdir={folder}').stdout
    assert {path: path.stat().st_mtime_ns for path in records} == records
    for words in ('status', 'table', 'plot', 'report'):
        assert CliRunner().invoke(emm.main, [words, str(folder)]).exit_code == 0


@pytest.mark.slow
def test_measurements_are_reported_and_adding_one_trains_nothing(study_file, tmp_path):
    options = '{ test = "sources.half-b", num = 10'
    text = STUDY.replace('"digits"', '"sources.half-a"').replace('[10, 20]', '[10]')
    text += '\n[sources]\nhalf = { selection = "split", source = "digits", max-images = 20 }\n'
    study_file.write_text(f'{text}\n[diagnose]\nlevels = {options}, levels = 3, from = "train,test" }}\n')
    folder = tmp_path / 'study'
    run_script('emm.py', 'sweep', study_file, f'--outdir={folder}')
    run = folder / 'points/all/000010-r0/run'
    trained = {path.name: path.stat().st_mtime_ns for path in run.glob('*.safetensors')}
    # A header and six rows: three levels for each of two sources, at the last snapshot.
    assert len((folder / 'levels.csv').read_text().splitlines()) == 7
    assert not (folder / 'clocks.csv').exists()
    agreement = 'agreement = { seeds = "0-4" }'
    study_file.write_text(study_file.read_text() + f'clocks = {options}, allow-overlap = true }}\n{agreement}\n')
    run_script('emm.py', 'sweep', study_file, f'--outdir={folder}')
    assert {path.name: path.stat().st_mtime_ns for path in run.glob('*.safetensors')} == trained
    (clocks,) = csv.DictReader((folder / 'clocks.csv').open())
    record = json.loads((run / 'clocks.json').read_bytes())[0]['clocks']
    assert clocks['tau_gen'] == str(record['tau_gen']['time'])
    networks = [list_snapshots(folder / 'points/all/000010-r0' / name)[-1][1] for name in ('run', 'run-b')]
    batches = list(seed_batches(range(5), 64))
    made = [next(generate_images(load_network(path), batches, SamplerOptions(), 'cpu')).images for path in networks]
    with open(folder / 'agreement.csv', newline='') as file:
        means = {row['pairs']: float(row['mean']) for row in csv.DictReader(file)}
    assert means[SAME_SEED] == pytest.approx(float(cosines(*made).mean()))
    halves = [load_dataset(str(folder / 'points/all/000010-r0' / name)).images for name in ('data.zip', 'data-b.zip')]
    assert not (halves[0][:, None] == halves[1][None]).flatten(2).all(dim=2).any()  # the halves are disjoint
    page = (folder / 'report.html').read_text()
    assert f'{means[SAME_SEED]:.3f}' in page
    assert 'Errors of the last snapshot by noise level: 10 training images.' in page
    assert 'Clocks of each training run, in kimg' in page
    CliRunner().invoke(emm.main, ['plot', str(folder)])
    assert {path.name for path in (folder / 'figures').iterdir()} >= {
        'levels-all-10.png',
        'agreement-all.png',
        'clocks-all.svg',
    }


def check_reports(folder):
    """Check what `status`, `table`, `plot` and `report` show for a finished study."""

    def output_of(*arguments):
        result = CliRunner().invoke(emm.main, [*arguments, str(folder)])
        assert result.exit_code == 0, result.output
        return result.output

    assert '2 done' in output_of('status')
    assert '95 % interval' in output_of('table')
    output_of('plot')
    assert {path.name for path in (folder / 'figures').iterdir()} >= {'ratios.png', 'ratios.svg', 'epochs-10.png'}
    page = folder / 'report.html'
    page.unlink()
    output_of('report')
    assert '<h1' in page.read_text()
    commands = (folder / 'points/all/000010-r0/commands.sh').read_text().splitlines()
    assert [line.split()[1] for line in commands] == ['-m', 'train.py', 'mem_ratio.py']


@pytest.mark.slow
def test_a_search_reports_an_inequality_and_stops_at_ctrl_c(tmp_path):
    folder = tmp_path / 'search'
    arguments = [
        'emm.py',
        'search',
        f'--outdir={folder}',
        '--source=digits',
        '--range=10-100',
        '--seeds=0-7',
        '--',
        *TINY,
    ]
    arguments += ['--epochs=200', '--batch=10', '--snapshots=1']
    process = subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    while not list(folder.glob('points/all/*/data.zip')):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert 'the same command resumes the study' in output
    output = run_script(*arguments).stdout
    assert 'at most 7 sizes |D| from 10 to 100' in output  # 2 + ceil(log2(ln 10 / ln 1.1)) = 2 + ceil(4.6)
    assert '< 10' in output
    assert len(list(folder.glob('points/all/*-r0'))) == 1


@pytest.mark.slow
def test_a_failed_point_is_reported_with_its_log_and_run_again_on_request(study_file, tmp_path):
    # The learning rate is so large that the loss is not finite.
    study_file.write_text(
        STUDY.replace('values = [10, 20]', 'values = [10]').replace('batch = 10', 'batch = 10\nlr = 1e30', 1)
    )
    folder = tmp_path / 'study'
    failed = run_script('emm.py', 'sweep', study_file, f'--outdir={folder}', check=False)
    assert failed.returncode == 1
    assert 'have not been finite since step' in failed.stderr
    assert str(folder / 'points/all/000010-r0/log.txt') in failed.stderr
    assert '1 point failed; fix the cause, and run again with --retry' in failed.stderr
    assert 'Traceback' not in failed.stderr
    status_path = folder / 'points/all/000010-r0/status.json'
    status_path.write_text(status_path.read_text().replace('"failures": 1', '"failures": 2'))
    failed = run_script('emm.py', 'sweep', study_file, f'--outdir={folder}', '--retry', check=False)
    assert '1 point failed 3 times' in failed.stderr
    assert 'remove status.json' in failed.stderr
    assert status_path.read_text().count('"failures": 3') == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['sweep', 'nothing.toml'], 'nothing.toml: no such file'),
        (['sweep', 'STUDY', '--jobs=2', '--gpus-per-job=1000'], '--jobs=2 with --gpus-per-job=1000 needs 2000 GPUs'),
        (['sweep', 'STUDY', '--nodes-per-job=2'], '--nodes-per-job requires --launcher=slurm'),
        (['status', '.'], 'contains no study.json'),
        (['search', '--outdir=x', '--source=digits', '--range=100-10'], "'100-10' is not a range of sizes"),
        (['search', '--outdir=x', '--source=digits', '--range=11-19'], 'contains no multiple of 10'),
        (['search', '--outdir=x', '--source=digits', '--range=10-5000'], 'all, 5000 images:'),
        (
            ['search', '--outdir=x', '--source=digits', '--range=10-20', '--', '--widht=3'],
            "the search: [train]: No such option '--widht'",
        ),
        (['search', '--outdir=x', '--source=digits', '-n', '--preset=digits'], 'options of train.py go after --'),
        (['search', '--outdir=x', '--data=digits'], 'makes its own training sets; give the images as --source'),
        (['sweep', 'STUDY', '--data=digits'], 'give the images as source in the table [data] of the study file'),
        (
            ['sweep', 'STUDY', '--epochs=3'],
            '--epochs: options of train.py belong in the table [train] of the study file',
        ),
        (['search', '--outdir=x', '--source=digits', '--range=10-20', '--', '-n'], '-n: write options as --name=value'),
        (
            ['search', '--outdir=x', '--source=digits', '--range=10-20', '--selection=sise'],
            "[data]: unknown selection = 'sise'",
        ),
    ],
)
def test_a_mistake_gives_a_one_sentence_error_and_leaves_no_files(arguments, message, study_file, tmp_path):
    words = [str(study_file) if word == 'STUDY' else word for word in arguments]
    failed = run_script('emm.py', *words, check=False, cwd=tmp_path)
    assert failed.returncode in (1, 2)
    assert message in failed.stderr.replace('\n', ' ')
    assert 'Traceback' not in failed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['two.toml']


def test_a_dry_run_needs_no_gpus(study_file, tmp_path):
    output = run_script('emm.py', 'sweep', study_file, '--gpus-per-job=2', '-n', cwd=tmp_path).stdout
    assert 'torchrun --standalone --nproc_per_node=2' in output


def test_a_dry_run_prints_the_points_and_writes_nothing(study_file, tmp_path):
    output = run_script('emm.py', 'sweep', study_file, '-n', cwd=tmp_path).stdout
    assert output.count('$ python train.py') == 2
    lines = dict(re.split(r':\s+', line, maxsplit=1) for line in output.splitlines() if re.match(r'\w+:  ', line))
    assert lines['Points'] == '2'
    assert re.fullmatch('about .* with 1 point at a time .short measurements on cpu.', lines['Time'])
    assert [path.name for path in tmp_path.iterdir()] == ['two.toml']


class Stoppable:
    stopped = 0

    def stop(self):
        self.stopped += 1


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_training_stops_when_emm_py_is_terminated_or_its_terminal_closes(number):
    launcher: Any = Stoppable()
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), session.stopping(launcher):
        signal.raise_signal(number)
    assert launcher.stopped == 1
    assert signal.getsignal(number) == before


def test_closing_the_terminal_does_not_stop_a_study_under_nohup():
    launcher: Any = Stoppable()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with session.stopping(launcher):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_training_stops_even_if_the_reader_of_the_output_has_ended(monkeypatch):
    launcher: Any = Stoppable()

    def closed(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr('builtins.print', closed)
    with pytest.raises(BrokenPipeError), session.stopping(launcher):
        print('Point')
    assert launcher.stopped == 1


def test_a_stopped_point_ends_the_study_with_a_one_sentence_error(tmp_path):
    document = tomllib.loads(STUDY.replace('[10, 20]', '[10]'))
    study = read_study(document, 'two', 'two.toml')
    point = make_point(study, tmp_path, study.combinations[0], 10, 0)
    point.prepare()
    write_status(point.folder, Status(STOPPED, 'train'))
    with pytest.raises(UserError, match='1 point stopped before the end; run the same command to resume'):
        session.report_stopped(collect(study, tmp_path))


def test_the_folder_of_a_search_can_be_renamed(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(session, 'carry_out', lambda study, root, options: found.append(study.name))
    for name in ('first', 'second', '.'):
        arguments = ['search', f'--outdir={tmp_path / name}', '--source=digits', '--range=10-100', '--', '--batch=10']
        assert CliRunner().invoke(emm.main, arguments).exit_code == 0
    assert len(set(found)) == 1


def test_a_search_with_the_large_default_network_warns_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(session, 'carry_out', lambda study, root, options: None)
    arguments = ['search', f'--outdir={tmp_path}', '--source=digits', '--range=10-100']
    for words, warned in [([], True), (['--', '--lr=1e-3'], True), (['--', '--preset=digits'], False), (['-n'], False)]:
        assert ('or estimate the cost' in CliRunner().invoke(emm.main, [*arguments, *words]).output) == warned
    assert 'or estimate' not in CliRunner().invoke(emm.main, [*arguments, '--', *TINY]).output


def test_a_selection_is_split_into_words_as_in_a_shell(tmp_path):
    arguments = ['search', f'--outdir={tmp_path / "x"}', '--source=digits', '--range=10-100', '-n']
    printed = CliRunner().invoke(emm.main, [*arguments, '--selection=one-class --class-name="0"'])
    assert '--class-name=0 ' in printed.output
    printed = CliRunner().invoke(emm.main, [*arguments, '--selection=one-class --class-name="0'])
    assert printed.exit_code == 2
    assert 'use quotes as in a shell' in printed.output


def test_a_search_can_evaluate_snapshots_in_a_race(tmp_path):
    arguments = ['search', f'--outdir={tmp_path / "x"}', '--source=digits', '--range=10-100', '-n']
    assert '--race' not in CliRunner().invoke(emm.main, arguments).output
    printed = CliRunner().invoke(emm.main, [*arguments, '--race'])
    assert printed.exit_code == 0, printed.output
    assert '--race=True' in printed.output
