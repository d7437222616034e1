"""Reports on studies whose points have known ratios instead of training runs."""

import dataclasses
import json
import os
import re

import pytest

from dnnlib.locks import locked
from dnnlib.progress import PROGRESS_FILE
from dnnlib.text_tables import csv_text
from studies.points import (
    LOCK_FILE,
    RUNNING,
    Status,
    last_line,
    make_point,
    write_json,
    write_status,
)
from studies.report.tables import ratio_rows, status_text, table_text, tables, write_tables
from studies.results import collect
from studies.session import Display
from studies.study import Repeats
from studies.time_left import progress_lines, resuming_text, study_seconds_left
from tests.dataset_utils.commands import make
from tests.studies.stand_in import make_study, record_of, run
from train import next_commands


def test_tables_contain_the_counts_behind_each_ratio(tmp_path):
    study = make_study(
        sizes={'values': [10, 20]}, repeats={'count': 2}, factors={'w': {'option': 'train.batch', 'values': [1, 2]}}
    )
    _, results = run(study, tmp_path, lambda size: 0.95 if size == 10 else 0.75)
    rows = ratio_rows(results)
    assert [(row['w'], row['size'], row['memorized'], row['images']) for row in rows] == [
        ('1', 10, 1900, 2000),
        ('1', 20, 1500, 2000),
        ('2', 10, 1900, 2000),
        ('2', 20, 1500, 2000),
    ]
    assert rows[0]['interval'] == 't over repeats'
    write_tables(results)
    saved = json.loads((tmp_path / 'tables.json').read_bytes())
    assert saved == tables(results)
    assert saved['emm'][0]['emm'] == pytest.approx(12.5)  # a quarter of the way from 95 % to 75 %
    lines = (tmp_path / 'ratios.csv').read_text().splitlines()
    assert lines[0].startswith('w,size,repeats,images,memorized,ratio,')
    assert lines[1].startswith('1,10,2,2000,1900,0.95,')
    assert csv_text([], ['size']) == 'size\n'


def test_the_tables_of_an_unfinished_study_say_that_they_can_change(tmp_path):
    study = make_study(sizes={'values': [10, 20]})
    _, results = run(study, tmp_path, lambda size: 0.5)
    assert 'can change' not in table_text(results)
    (results.points[1].point.folder / 'status.json').unlink()
    (results.points[1].point.folder / 'result.json').unlink()
    text = 'Not all points are done (1 done, 1 left), so these results can change.'
    assert text in table_text(collect(study, tmp_path)).splitlines()


def test_a_warning_is_given_if_ratios_rise_with_size(tmp_path):
    _, results = run(make_study(sizes={'values': [10, 20]}), tmp_path, lambda size: size / 40)
    assert '20 training images are memorized more (50.0 %) than 10 (25.0 %)' in results.warnings[0]
    assert 'Warning: 20 training images' in table_text(results)


def test_a_warning_is_given_if_the_source_changes_between_points(tmp_path):
    def results_of(sizes, name):
        make('one-class', 'digits', tmp_path / 'source.zip', f'--class-name={name}', '--overwrite')
        data = {'selection': 'size', 'source': str(tmp_path / 'source.zip')}
        _, results = run(make_study(sizes={'values': sizes}, data=data), tmp_path / 'study', lambda size: 0.5)
        for result in results.points:
            path = result.point.folder / 'data.zip'
            if not path.exists():
                make('size', data['source'], path, f'--max-images={result.point.size}')
        return results

    assert results_of([10], '0').warnings == []
    assert results_of([10, 20], '0').warnings == []
    (warning,) = results_of([10, 20, 30], '1').warnings
    assert warning.startswith(f'{tmp_path / "source.zip"} changed between points: the')
    assert 'training sets of 10 images and of 30 images' in warning


def test_the_time_left_is_estimated_from_points_of_the_nearest_size(tmp_path):
    study = make_study(sizes={'values': [10, 40]}, repeats={'count': 3})
    run(dataclasses.replace(study, repeats=Repeats(count=1)), tmp_path, lambda size: 1.0)
    # The stand-in launcher reports a time of one second per training image, so two points of 10 s and two of 40 s are
    # left.
    results = collect(study, tmp_path)
    assert study_seconds_left(results) == pytest.approx(100)
    assert study_seconds_left(results, jobs=2) == pytest.approx(50)
    assert 'About 1m 40s left with 1 point at a time' in status_text(results)


def test_a_study_without_results_is_reported_as_such(tmp_path):
    results = collect(make_study(sizes={'values': [10]}), tmp_path)
    assert table_text(results) == 'No point is done yet.'
    assert study_seconds_left(results) is None


def test_the_progress_of_a_running_point_includes_earlier_attempts(tmp_path, monkeypatch):
    monkeypatch.setattr('time.time', lambda: 1000.0)
    study = make_study(sizes={'values': [10]}, repeats={'count': 2})
    point = make_point(study, tmp_path, study.combinations[0], 10, 0)
    point.prepare()
    (point.folder / 'run').mkdir()
    write_status(point.folder, Status(RUNNING, 'train', seconds=30.0, started=980.0))
    write_json(point.folder / 'run' / PROGRESS_FILE, {'phase': 'train', 'done': 27_000, 'total': 77_000, 'rate': 500.0})
    with locked(point.folder / LOCK_FILE):
        results = collect(study, tmp_path)
        # The running repeat still needs 100 s: 50,000 images at 500 images/s. It has already taken 50 s, including 30 s
        # in an earlier attempt. The other repeat is therefore expected to take 150 s.
        assert progress_lines(results, jobs=1) == [
            '10 images: training, 35 % of 77,000 images, 1m 40s left for this training, 500 images/s',
            'Study: 1 running, 1 left; more than 4m 10s left',
        ]
        assert progress_lines(results, jobs=2)[-1].endswith('more than 2m 30s left')


def test_once_a_point_is_done_the_time_left_includes_steps_after_training(tmp_path, monkeypatch):
    monkeypatch.setattr('time.time', lambda: 1000.0)
    study = make_study(sizes={'values': [10]}, repeats={'count': 2})
    run(dataclasses.replace(study, repeats=Repeats(count=1)), tmp_path, lambda size: 1.0)  # takes 10 s
    point = make_point(study, tmp_path, study.combinations[0], 10, 1)
    point.prepare()
    (point.folder / 'run').mkdir()
    write_json(point.folder / 'run' / PROGRESS_FILE, {'phase': 'train', 'done': 50, 'total': 100, 'rate': 10.0})
    lines = []
    for seconds in (2.0, 8.0, 20.0):
        write_status(point.folder, Status(RUNNING, 'train', started=1000 - seconds))
        with locked(point.folder / LOCK_FILE):
            lines.append(progress_lines(collect(study, tmp_path), jobs=1))
    # By its progress, training needs 5 s more. By the other repeat, which took 10 s, the point needs 8 s, 2 s and 0 s
    # more after 2, 8 and 20 s. The longer of these two estimates is shown.
    assert [re.search(r'\w+ left for [\w ]+', own)[0] for own, _ in lines] == [
        '8s left for all steps',
        '5s left for this training',
        '5s left for this training',
    ]
    assert lines[0][-1] == 'Study: 1 done, 1 running; about 8s left'


def test_the_time_left_of_a_slow_point_is_never_zero(tmp_path, monkeypatch):
    monkeypatch.setattr('time.time', lambda: 1000.0)
    study = make_study(sizes={'values': [10]}, repeats={'count': 2})
    run(dataclasses.replace(study, repeats=Repeats(count=1)), tmp_path, lambda size: 1.0)
    point = make_point(study, tmp_path, study.combinations[0], 10, 1)
    point.prepare()
    (point.folder / 'run').mkdir()
    write_json(point.folder / 'run' / PROGRESS_FILE, {'phase': 'evaluate', 'done': 0, 'total': 256, 'rate': 0.0})
    write_status(point.folder, Status(RUNNING, 'evaluate', started=900.0))
    with locked(point.folder / LOCK_FILE):
        assert progress_lines(collect(study, tmp_path), jobs=1) == [
            '10 images, repeat 2: evaluation, 0 % of 256 images',
            'Study: 1 done, 1 running',
        ]


def test_lines_that_are_too_long_for_the_terminal_end_in_an_ellipsis(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('sys.stdout.isatty', lambda: True)
    monkeypatch.setattr('shutil.get_terminal_size', lambda: os.terminal_size((11, 24)))
    monkeypatch.setattr('studies.session.progress_lines', lambda results, jobs: ['a line of 20 letters', '0123456789'])
    Display().watch(collect(make_study(sizes={'values': [10]}), tmp_path))
    assert capsys.readouterr().out == 'a line of…\n0123456789\n'


def test_the_status_of_a_stopped_point_says_how_to_resume_it(tmp_path):
    study = make_study(sizes={'values': [10]})
    point = make_point(study, tmp_path, study.combinations[0], 10, 0)
    point.prepare()
    (point.folder / 'log.txt').write_text('Stopped at 5.5 kimg.\nResume: python train.py --resume=a/run\n')
    write_status(point.folder, Status(RUNNING, 'train'))  # written by a process that no longer exists
    lines = status_text(collect(study, tmp_path)).splitlines()
    assert lines[1:] == [
        'stopped: 10 images, step training: Stopped at 5.5 kimg.',
        'To resume the study, run the same emm.py command.',
    ]


def test_the_length_of_a_resumed_run_is_shown_without_an_exponent(tmp_path):
    point = make_point(study := make_study(sizes={'values': [10]}), tmp_path, study.combinations[0], 10, 0)
    (point.folder / 'run').mkdir(parents=True)
    (point.folder / 'run' / 'training-state-12345.pt').touch()
    write_json(point.folder / 'run' / 'training_options.json', {'schedule': {'total_images': 2_000_000_000}})
    assert resuming_text(point) == 'Resuming at 12,345 of 2,000,000 kimg.'


def test_the_reason_of_a_failure_under_torchrun_is_the_error_of_the_script(tmp_path):
    report = ['train.py FAILED', '-' * 60, '  exitcode  : 1 (pid: 1201)', '  error_file: <N/A>', '=' * 60]
    log = tmp_path / 'log.txt'
    log.write_text('\n'.join(['Error: an earlier one', 'Error: no such file', 'W1126 Sending process', *report, '']))
    assert last_line(log) == 'Error: no such file'
    log.write_text('\n'.join(['Segmentation fault', *report]))
    assert last_line(log) == '=' * 60


@pytest.mark.parametrize(
    ('stopped_by', 'line'), [(15, 'Stopped.'), (0, 'Last snapshot: RUN/network-snapshot-000003.safetensors')]
)
@pytest.mark.parametrize('world_size', [1, 2])
def test_the_hints_at_the_end_of_a_training_run_are_not_the_last_line(tmp_path, stopped_by, line, world_size):
    (tmp_path / 'network-snapshot-000003.safetensors').touch()
    (tmp_path / 'log.txt').write_text(f'Stopped.\n{next_commands(tmp_path, stopped_by, world_size)}\n')
    assert last_line(tmp_path / 'log.txt') == line.replace('RUN', str(tmp_path))


def test_images_far_from_data_are_flagged_in_tables(tmp_path):
    _, results = run(make_study(sizes={'values': [10, 20]}), tmp_path, lambda size: 0.0)
    folder = results.outcomes[0].at(20)[0].point.folder
    write_json(folder / 'result.json', record_of(0.0) | {'mean_distance': 90.0, 'num_far': 300})
    results = collect(results.study, tmp_path)
    assert [row['far'] for row in ratio_rows(results)] == [0, 1]
    assert [row['far_share'] for row in ratio_rows(results)] == [None, 0.3]
    text = table_text(results)
    assert '90.0  30 %' in text
    assert '1.0    no' in text  # a record without num_far
    assert 'far: the share of generated images that are far from any data' in text


@pytest.mark.parametrize(
    ('ratios', 'history', 'advice'),
    [
        ({10: 1.0, 20: 0.95}, [], 'measure training sets of more than 20 images'),
        ({10: 0.1, 20: 0.0}, [], 'measure training sets of fewer than 10 images, or train longer'),
        ({10: 0.5, 20: 0.0}, [(1, 0.1), (2, 0.5)], 'train longer: the ratio at 10 training images was still rising'),
        ({10: 0.5, 20: 0.0}, [(1, 0.6), (2, 0.5)], 'measure training sets of fewer than 10 images'),
    ],
)
def test_an_emm_that_is_only_a_bound_comes_with_advice(tmp_path, ratios, history, advice):
    _, results = run(make_study(sizes={'values': [10, 20]}), tmp_path, ratios.get)
    run_dir = results.outcomes[0].at(10)[0].point.folder / 'run'
    run_dir.mkdir()
    lines = [
        record_of(ratio) | {'snapshot': str(kimg), 'kimg': kimg, 'ratio_high': ratio + 0.02} for kimg, ratio in history
    ]
    (run_dir / 'mem_traj.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    assert f'Next: {advice}' in table_text(results)


def test_tables_show_an_emm_whose_interval_is_one_bound_without_repeating_it(tmp_path):
    _, results = run(make_study(sizes={'values': [10, 20]}), tmp_path, {10: 0.1, 20: 0.0}.get)
    assert re.search(r'^ *< 10 +< 10 +10 \(10\.0 %\)$', table_text(results), re.MULTILINE)
    assert 'EMM so far: < 10\n' in status_text(results) + '\n'
