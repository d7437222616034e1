"""Which points of a study are run, and when, with known ratios instead of training runs."""

import dataclasses
import fcntl
import json
import math
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TextIO

import pytest

from dnnlib.locks import is_locked, locked
from dnnlib.util import UserError
from studies.folder import claim, open_study
from studies.points import (
    DONE,
    FAILED,
    LEFT,
    LOCK_FILE,
    RUNNING,
    STOPPED,
    Status,
    make_point,
    read_status,
    write_json,
    write_status,
)
from studies.report.tables import status_text, table_text
from studies.results import collect
from studies.run_study import run_study
from studies.runner import commands_of
from studies.session import carry_out, report_failures
from studies.study_options import SessionOptions
from tests.helpers import environment
from tests.studies.stand_in import FakeLauncher, make_study, run


def test_every_size_and_repeat_is_run_once(tmp_path):
    study = make_study(sizes={'values': [10, 20]}, repeats={'count': 2})
    order, results = run(study, tmp_path, lambda size: 10 / size)
    assert order == [(10, 0), (10, 1), (20, 0), (20, 1)]
    assert str(results.outcomes[0].emm.estimate) == '12.0'[:2]  # 100 % at 10 and 50 % at 20 give 90 % at 12
    assert run(study, tmp_path, lambda size: 0.0)[0] == []  # a finished point is never run again


def test_an_enlarged_study_runs_only_the_new_points(tmp_path):
    run(make_study(sizes={'values': [10, 20]}), tmp_path, lambda size: 10 / size)
    order, results = run(make_study(sizes={'values': [20, 40]}), tmp_path, lambda size: 10 / size)
    assert order == [(40, 0)]
    assert [ratios.size for ratios in results.outcomes[0].ratios] == [10, 20, 40]


def test_new_measurements_of_a_finished_point_run_in_its_folder(tmp_path):
    def order_of(diagnose):
        study = make_study(sizes={'values': [10]}, diagnose=diagnose)
        order, results = run(study, tmp_path, lambda size: 0.5)
        assert [result.status.state for result in results.points] == [DONE]
        assert results.set_aside == []
        return order

    levels = {'levels': {'num': 20}}
    assert order_of({}) == [(10, 0)]
    assert order_of(levels) == [(10, 0)]
    folder = tmp_path / 'points/all/000010-r0'
    assert list(commands_of(folder)) == ['data', 'train', 'evaluate', 'levels']
    assert order_of(levels) == []
    assert order_of({}) == []  # existing measurements are kept
    assert order_of({'levels': {'num': 30}}) == [(10, 0)]
    assert commands_of(folder)['levels'][-1] == '--num=30'


def test_a_failed_measurement_keeps_the_ratio_until_it_is_removed_or_changed(tmp_path):
    def results_of(ratio, **diagnose):
        order, results = run(make_study(sizes={'values': [10, 20]}, diagnose=diagnose), tmp_path, lambda size: ratio)
        assert [ratios.mean for ratios in results.outcomes[0].ratios] == [0.5, 0.5]
        return len(order), results

    results_of(0.5)
    clocks = {'test': 'overlapping.zip'}
    assert results_of(None, clocks=clocks)[0] == 2
    count, results = results_of(None, clocks=clocks)
    assert count == 0  # failed points run again only on request
    assert 'test: 2 done without a measurement' in status_text(results)
    assert 'Error: no luck' in status_text(results)
    with pytest.raises(UserError, match='a measurement of 2 points failed, but the ratios are kept'):
        report_failures(results)
    assert results_of(None, clocks={'test': 'other.zip'})[0] == 2
    count, results = results_of(0.5)
    assert (count, results.counts()[DONE]) == (2, 2)
    assert 'clocks' not in commands_of(tmp_path / 'points/all/000010-r0')


def test_reordering_the_factors_runs_nothing_again(tmp_path):
    factors = {
        'w': {'option': 'train.batch', 'values': [1, 2]},
        'skips': {'option': 'train.skip-connections', 'values': [[1, 0, 2], [1, 2, 0]]},
    }
    first, reordered = (
        make_study(sizes={'values': values}, factors=dict(order))
        for values, order in (([10], factors.items()), ([10, 20], reversed(factors.items())))
    )
    assert len(run(first, tmp_path, lambda size: 0.5)[0]) == 4
    order, results = run(reordered, tmp_path, lambda size: 0.5)
    assert order == [(20, 0)] * 4
    assert results.set_aside == []
    assert {path.name for path in (tmp_path / 'points').iterdir()} == {
        f'w={width},skips={skips}' for width in (1, 2) for skips in ('1,0,2', '1,2,0')
    }


def test_a_size_removed_from_the_study_stays_in_the_results_but_is_not_run_again(tmp_path):
    run(make_study(sizes={'values': [10, 20, 30]}), tmp_path, lambda size: None if size == 20 else 1.0)
    write_status(tmp_path / 'points/all/000030-r0', Status(STOPPED, 'train'))
    (tmp_path / 'points/all/000030-r0/result.json').unlink()
    study = make_study(sizes={'values': [40]}, repeats={'count': 2})
    order, results = run(study, tmp_path, lambda size: 0.5, retry=True)
    assert order == [(40, 0), (40, 1)]
    assert [(result.point.size, result.status.state) for result in results.points] == [
        (10, DONE),
        (40, DONE),
        (40, DONE),
    ]


def test_added_repeats_of_a_search_run_only_at_its_sizes(tmp_path):
    sizes = {'search': [10, 1000], 'tolerance': 0.1}
    first, _ = run(make_study(sizes=sizes), tmp_path, lambda size: 1.0 if size < 100 else 0.0)
    again, _ = run(make_study(sizes=sizes, repeats={'count': 2}), tmp_path, lambda size: 1.0 if size < 100 else 0)
    assert again == [(size, 1) for size, _ in first]
    wider = make_study(sizes={'search': [10, 1000], 'tolerance': 1.0}, repeats={'count': 3})
    assert len(run(wider, tmp_path, lambda size: 1.0 if size < 100 else 0.0)[0]) < len(first)


@pytest.mark.parametrize(
    'damaged',
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b'[]',
        lambda whole: whole.replace(b'"num_images": 1000', b'"num_images": 0'),
        lambda whole: whole.replace(b'"num_memorized": 500', b'"num_memorized": 5000'),
        lambda whole: whole.replace(b'"epochs"', b'"epoch"'),
    ],
    ids=['cut short', 'no table', 'no images', 'more copies than images', 'a number missing'],
)
def test_a_point_with_a_damaged_result_is_resumed(tmp_path, damaged):
    study = make_study(sizes={'values': [10]})
    run(study, tmp_path, lambda size: 0.5)
    path = tmp_path / 'points/all/000010-r0/result.json'
    path.write_bytes(damaged(path.read_bytes()))
    assert collect(study, tmp_path).points[0].status.state == STOPPED
    order, results = run(study, tmp_path, lambda size: 0.25)
    assert order == [(10, 0)]
    assert results.outcomes[0].ratios[0].mean == 0.25


@pytest.mark.parametrize(
    ('text', 'status'),
    [
        ('[]', Status()),
        ('{"state": "failed", "step": "train", "failures": 2, "other": 1}', Status(FAILED, 'train', 2)),
        ('{"state": "cancelled"}', Status()),
        ('{"state": "failed", "failures": "two"}', Status()),
        ('{"state": ["failed"]}', Status()),
        ('{"state": "done', Status()),
    ],
)
def test_a_point_with_a_damaged_status_counts_as_never_started(tmp_path, text, status):
    (tmp_path / 'status.json').write_text(text)
    assert read_status(tmp_path) == status


def test_reading_the_status_of_a_point_does_not_prevent_running_it(tmp_path):
    stop = threading.Event()

    def look():
        while not stop.is_set():
            is_locked(tmp_path / LOCK_FILE)

    watchers = [threading.Thread(target=look) for _ in range(3)]
    (tmp_path / LOCK_FILE).touch()
    for thread in watchers:
        thread.start()
    try:
        for _ in range(200):
            with locked(tmp_path / LOCK_FILE) as descriptor:
                assert descriptor is not None
    finally:
        stop.set()
        for thread in watchers:
            thread.join()


def test_processes_that_prepare_a_point_simultaneously_set_nothing_aside(tmp_path):
    study = make_study(sizes={'values': list(range(10, 40))})
    points = [
        make_point(study, tmp_path, study.combinations[0], size, 0) for size in study.combinations[0].sizes.values
    ]
    barrier = threading.Barrier(4)

    def prepare():
        for point in points:
            barrier.wait()
            point.prepare()

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(prepare) for _ in range(4)]:
            future.result()
    assert collect(study, tmp_path).set_aside == []
    assert all(point.matches() for point in points)


def test_a_point_with_other_settings_is_set_aside_and_run_again(tmp_path):
    run(make_study(sizes={'values': [10]}), tmp_path, lambda size: 0.5)
    changed = make_study(sizes={'values': [10]}, train={'preset': 'digits', 'lr': 1e-3})
    assert collect(changed, tmp_path).outcomes[0].ratios == []
    order, results = run(changed, tmp_path, lambda size: 0.25)
    assert order == [(10, 0)]
    assert [path.name for path in results.set_aside] == ['000010-r0.set-aside-1']
    assert json.loads((results.set_aside[0] / 'result.json').read_bytes())['num_memorized'] == 500
    assert results.outcomes[0].ratios[0].mean == 0.25
    assert 'set aside' in status_text(results)
    changed = make_study(sizes={'values': [10]}, train={'preset': 'digits', 'lr': 1e-4})
    point = make_point(changed, tmp_path, changed.combinations[0], 10, 0)
    assert point.prepare() == tmp_path / 'points/all/000010-r0.set-aside-2'
    assert point.prepare() is None


def test_a_changed_evaluation_keeps_the_training_and_its_records(tmp_path):
    run(make_study(sizes={'values': [10]}), tmp_path, lambda size: 0.5)
    folder = tmp_path / 'points/all/000010-r0'
    (folder / 'run').mkdir()
    (folder / 'run/mem_traj.jsonl').write_text('earlier\n')
    (folder / 'run/training-state-000001.pt').write_text('trained')
    changed = make_study(sizes={'values': [10]}, evaluate={'seeds': '0-99'})
    assert collect(changed, tmp_path).outcomes[0].ratios == []
    order, results = run(changed, tmp_path, lambda size: 0.25)
    assert (order, results.set_aside) == ([(10, 0)], [])
    assert json.loads((folder / 'point.json').read_bytes())['evaluate'] == {'seeds': '0-99'}
    assert (folder / 'run/training-state-000001.pt').read_text() == 'trained'
    # The result is the best of all records, so records of the earlier evaluation must be set aside.
    assert not (folder / 'run/mem_traj.jsonl').exists()
    assert (folder / 'run/mem_traj.jsonl.set-aside-1').read_text() == 'earlier\n'
    assert results.outcomes[0].ratios[0].mean == 0.25
    assert read_status(folder).seconds == 10.0


@pytest.mark.parametrize(('low', 'high', 'tolerance'), [(10, 1000, 0.1), (100, 170, 0.02), (50, 60, 1.0)])
def test_a_search_measures_no_more_sizes_than_its_bound(tmp_path, low, high, tolerance):
    study = make_study(sizes={'search': [low, high], 'tolerance': tolerance})
    most = 2 + max(0, math.ceil(math.log2(math.log(high / low) / math.log(1 + tolerance))))
    truth = math.sqrt(low * high) * 1.01
    order, results = run(study, tmp_path, lambda size: 1.0 if size <= truth else 0.5)
    assert len(order) <= most
    ratios = results.outcomes[0].ratios
    start = max(r.size for r in ratios if r.mean >= 0.9)
    end = min(r.size for r in ratios if r.mean < 0.9)
    assert start <= truth < end <= start * (1 + tolerance) + 1
    assert run(study, tmp_path, lambda size: 0.0)[0] == []


@pytest.mark.parametrize(('ratio', 'answer', 'sizes'), [(1.0, '≥ 100', [10, 100]), (0.0, '< 10', [10])])
def test_a_search_range_without_a_crossing_gives_an_inequality(tmp_path, ratio, answer, sizes):
    order, results = run(make_study(sizes={'search': [10, 100]}), tmp_path, lambda size: ratio)
    assert [size for size, _ in order] == sizes
    assert str(results.outcomes[0].emm.estimate) == answer
    assert answer in table_text(results)
    assert f'EMM so far: {answer}' in status_text(results)


def test_a_search_averages_all_repeats_of_a_size_before_it_continues(tmp_path):
    # With 32 and 56 images, the mean ratio lies on one side of 90 %. The first, the last and two of three ratios lie on
    # the other side.
    ratios = {10: [1.0] * 3, 32: [0.85, 1.0, 0.88], 56: [1.0, 0.5, 0.95], 42: [1.0] * 3, 100: [0.0] * 3}
    left = {size: list(repeats) for size, repeats in ratios.items()}
    study = make_study(sizes={'search': [10, 100], 'tolerance': 0.5}, repeats={'count': 3})
    order, results = run(study, tmp_path, lambda size: left[size].pop(0))
    assert order == [(size, repeat) for size in (10, 100, 32, 56, 42) for repeat in range(3)]
    found = {ratio.size: ratio.mean for ratio in results.outcomes[0].ratios}
    assert found == pytest.approx({size: sum(repeats) / 3 for size, repeats in ratios.items()})


def test_a_search_does_not_continue_after_a_failed_point(tmp_path):
    study = make_study(sizes={'search': [10, 100]})
    order, results = run(study, tmp_path, lambda size: None if size == 100 else 1.0)
    assert order == [(10, 0), (100, 0)]
    assert results.counts()[FAILED] == 1


def test_a_failed_point_is_run_again_only_on_request_and_at_most_three_times(tmp_path):
    study = make_study(sizes={'values': [10, 20]})

    def curve(size):
        return None if size == 20 else 1.0

    assert run(study, tmp_path, curve)[0] == [(10, 0), (20, 0)]
    order, results = run(study, tmp_path, curve)
    assert order == []
    text = status_text(results)
    assert '1 done' in text
    assert '1 failed' in text
    assert 'Error: no luck' in text
    assert run(study, tmp_path, curve, retry=True)[0] == [(20, 0)]
    assert run(study, tmp_path, curve, retry=True)[0] == [(20, 0)]
    order, results = run(study, tmp_path, curve, retry=True)
    assert order == []
    assert results.points[1].status.failures == 3


def test_a_point_that_another_process_runs_is_waited_for(tmp_path):
    study = make_study(sizes={'values': [10]})
    point = make_point(study, tmp_path, study.combinations[0], 10, 0)
    point.prepare()
    launcher = FakeLauncher(lambda size: 1.0)
    locked = threading.Event()

    def run_elsewhere():
        with open(point.folder / LOCK_FILE, 'a') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            locked.set()
            time.sleep(0.2)
            launcher.finish(point.folder)

    thread = threading.Thread(target=run_elsewhere)
    thread.start()
    locked.wait()
    assert point.status().state == RUNNING
    results = run_study(study, tmp_path, launcher, False, lambda *_: None, lambda *_: None)
    thread.join()
    assert launcher.order == [(10, 0)]  # run only by the other process
    assert results.counts()[DONE] == 1


def test_a_running_point_without_a_process_counts_as_stopped_and_is_resumed(tmp_path):
    study = make_study(sizes={'values': [10]})
    point = make_point(study, tmp_path, study.combinations[0], 10, 0)
    assert point.status().state == LEFT
    point.prepare()
    write_status(point.folder, Status(RUNNING, 'train', seconds=3.0))
    (point.folder / 'log.txt').write_text('tick 1\rtick 2\n\n')
    assert point.status() == Status(STOPPED, 'train', seconds=3.0, message='tick 2')
    assert run(study, tmp_path, lambda size: 1.0)[0] == [(10, 0)]


def test_settings_of_a_running_point_cannot_change(tmp_path):
    study = make_study(sizes={'values': [10]})
    point = make_point(study, tmp_path, study.combinations[0], 10, 0)
    point.prepare()
    changed = dataclasses.replace(point, seeds={'train': 1, 'select': None})
    with open(point.folder / LOCK_FILE, 'a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match='is running with other settings'):
            changed.prepare()


def test_a_study_folder_is_refused_for_another_study(tmp_path):
    study = make_study(sizes={'values': [10]})
    claim(tmp_path / 's', study)
    assert open_study(tmp_path / 's') == study
    with pytest.raises(UserError, match="contains the study 'test', not 'other'; choose another"):
        claim(tmp_path / 's', dataclasses.replace(study, name='other'))
    with pytest.raises(UserError, match="contains the study 'test', not 'other'"):
        carry_out(dataclasses.replace(study, name='other'), tmp_path / 's', SessionOptions(dry_run=True))
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'thesis.tex').write_text('')
    with pytest.raises(UserError, match='is neither empty nor the folder of a study'):
        claim(tmp_path / 'full', study)
    with pytest.raises(UserError, match=r'contains no study\.json'):
        open_study(tmp_path / 'full')


def test_a_process_stops_as_soon_as_another_version_of_the_study_is_started(tmp_path):
    study, other = make_study(sizes={'values': [10, 20]}), make_study(sizes={'values': [10, 40]})
    claim(tmp_path, study)

    def curve(size):
        claim(tmp_path, dataclasses.replace(study, steps={'all': 1}))  # as another process with the same file does
        if size == 20:
            claim(tmp_path, other)
        return 0.5

    launcher = FakeLauncher(curve)
    with pytest.raises(UserError, match='has started another version of this study'):
        run_study(study, tmp_path, launcher, False, lambda *_: None, lambda *_: None)
    assert launcher.order == [(10, 0), (20, 0)]


@pytest.mark.parametrize('text', ['', '[]', '{"name": "test", "docu'])
def test_a_damaged_study_json_is_written_again(tmp_path, text):
    study = make_study(sizes={'values': [10]})
    (tmp_path / 'study.json').write_text(text)
    claim(tmp_path, study)
    assert open_study(tmp_path) == study


@pytest.mark.parametrize('steps', [5, {'all': 'ten'}, {'all': 0}])
def test_invalid_search_steps_in_study_json_are_named_in_the_error(tmp_path, steps):
    claim(tmp_path, make_study(sizes={'search': [10, 20]}))
    write_json(tmp_path / 'study.json', json.loads((tmp_path / 'study.json').read_bytes()) | {'steps': steps})
    with pytest.raises(UserError, match=r'study\.json: steps.* must be .*; run the study again'):
        open_study(tmp_path)


def test_two_processes_make_a_source_only_once(tmp_path):
    sources = {'zeros': {'selection': 'one-class', 'source': 'digits', 'class-name': '0'}}
    study = make_study(sizes={'values': [10]}, sources=sources)
    script = (
        'import json, pathlib, sys; from studies.folder import make_sources; from studies.study_file import read_study;'
        'make_sources(pathlib.Path(sys.argv[1]), read_study(json.loads(sys.argv[2]), "test", "x"))'
    )
    words = [sys.executable, '-c', script, str(tmp_path), json.dumps(study.document)]
    processes = [subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(output.count(b'$ python -m dataset_utils') for output in outputs) == 1


def test_a_point_taken_by_another_process_is_resumed_after_that_process_stops(tmp_path):
    study = make_study(sizes={'values': [10]})
    point = make_point(study, tmp_path, study.combinations[0], 10, 0)
    files: list[TextIO] = []

    class LateLauncher(FakeLauncher):
        """Simulates that another process locks the point just before the first submission, and ends 0.2 s later."""

        def submit(self, folders):
            if files:
                return super().submit(folders)
            files.append(open(point.folder / LOCK_FILE, 'a'))  # noqa: SIM115
            fcntl.flock(files[0], fcntl.LOCK_EX)
            threading.Timer(0.2, files[0].close).start()
            return [self]

    ended = []
    results = run_study(
        study, tmp_path, LateLauncher(lambda size: 1.0), False, lambda *_: None, lambda r, _: ended.append(r)
    )
    assert [result.status.state for result in ended] == [DONE]
    assert results.counts()[DONE] == 1
