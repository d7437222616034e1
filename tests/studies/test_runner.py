"""The runner of a point, without running commands."""

import json

from evaluation.records import settings_of
from evaluation.saved_arrays import write_arrays
from studies.runner import best_of_evaluation
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
