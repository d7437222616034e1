"""The runner of a point, without running its commands."""

import json

from evaluation.records import settings_of
from evaluation.saved_arrays import write_arrays
from studies import runner
from studies.commands import Resources
from studies.points import read_status
from studies.runner import PointRun, best_of_evaluation
from tests.studies.stand_in import record_of


def test_the_result_of_a_point_is_the_best_record_of_the_evaluation_that_just_ended(tmp_path):
    names = ('network-snapshot-000001.safetensors', 'network-snapshot-000002.safetensors')
    own = [
        {**record_of(ratio), 'seeds': '0-999', 'snapshot': name} for name, ratio in zip(names, (0.5, 0.25), strict=True)
    ]
    by_hand = [{**record, 'seeds': '0-1999', 'num_images': 2000, 'ratio': 1.0} for record in own]
    (tmp_path / 'mem_traj.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in own + by_hand))
    write_arrays(tmp_path / 'mem_best.npz', settings_of(own[0]), {})
    assert best_of_evaluation(tmp_path) == own[0]


def test_a_point_whose_images_are_lost_after_the_evaluation_is_stopped_and_says_why(tmp_path, monkeypatch):
    record = {**record_of(0.5), 'seeds': '0-999', 'snapshot': 'network-snapshot-000001.safetensors'}
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'mem_traj.jsonl').write_text(json.dumps(record) + '\n')
    monkeypatch.setattr(runner, 'commands_of', lambda folder: {'evaluate': ['-m', 'json.tool', '--help']})
    status = PointRun(tmp_path, Resources()).run()
    assert (status.state, status.step, status.failures) == ('stopped', 'evaluate', 0)
    assert status.message == 'run/mem_best.npz was lost after the evaluation; resuming makes it again.'
    assert read_status(tmp_path) == status
    assert not (tmp_path / 'result.json').exists()
    write_arrays(tmp_path / 'run' / 'mem_best.npz', settings_of(record), {})
    assert PointRun(tmp_path, Resources()).run().state == 'done'
    assert json.loads((tmp_path / 'result.json').read_text()) == record
