import json
import math

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from evaluation.best_images import BestSnapshot, read_best, write_best
from evaluation.memorization import closeness
from evaluation.records import (
    SETTINGS,
    append_record,
    best_record,
    changed_settings,
    evaluations,
    find_record,
    format_seeds,
    newest_evaluation,
    read_records,
)

NUMBERS = {
    'num_images': 10, 'num_memorized': 1, 'num_duplicates': 0, 'ratio': 0.1, 'ratio_low': 0.0, 'ratio_high': 0.5,
    'mean_distance': 3.5, 'kimg': None, 'epochs': 2,
}  # fmt: skip


def test_seeds_are_written_as_ranges():
    assert format_seeds([0, 1, 2, 7, 9, 10]) == '0-2,7,9-10'


def test_a_record_is_found_only_for_the_same_settings(tmp_path):
    path = tmp_path / 'mem_traj.jsonl'
    settings = {name: name for name in SETTINGS}
    append_record(path, NUMBERS | settings)
    append_record(path, NUMBERS | settings | {'ratio': 0.2})
    assert find_record(read_records(path), settings)['ratio'] == 0.2
    for name in SETTINGS:
        assert find_record(read_records(path), {**settings, name: 'other'}) is None


def test_a_truncated_record_is_left_out(tmp_path):
    path = tmp_path / 'mem_traj.jsonl'
    append_record(path, NUMBERS)
    with open(path, 'a') as file:
        file.write('{"ratio": 0.')
    assert read_records(path) == [NUMBERS]


def test_an_invalid_line_among_the_records_is_named_in_the_error(tmp_path):
    path = tmp_path / 'mem_traj.jsonl'
    good = json.dumps(NUMBERS)
    for line, message in (
        ('[1]', r'line 2: the file must be a table, not \[1\]; remove this line'),
        ('{"ratio": 1}', 'line 2: the file lacks the key num_images; remove this line'),
        (good.replace('0.1', '"x"'), "line 2: ratio must be a number, not 'x'; remove this line"),
        (
            good.replace('"num_memorized": 1', '"num_memorized": 11'),
            'line 2: 11 copies out of 10 images is impossible; remove this line',
        ),
    ):
        path.write_text(f'{good}\n{line}\n{good}\n')
        with pytest.raises(UserError, match=message):
            read_records(path)


def test_the_best_record_has_the_highest_ratio_and_ties_go_to_the_latest_snapshot():
    columns = [(99, 0.5, 3), (99, 0.75, 1), (99, 0.75, 2), (99, 0.25, 4), (20, 0.95, 5)]
    records = [dict(zip(('num_images', 'ratio', 'kimg'), column, strict=True)) for column in columns]
    assert best_record(records) is records[2]
    assert best_record([{'num_images': 9, 'ratio': 0, 'kimg': None}])['ratio'] == 0


def best_of(count):
    random = np.random.default_rng(count)
    pairs = [torch.from_numpy(random.integers(0, 10**6, (count, 2))) for _ in range(2)]
    images = torch.from_numpy(random.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8))
    return BestSnapshot(torch.arange(count) + 1000, images, torch.full([count], -1), *pairs)


def test_images_of_the_best_snapshot_are_read_only_for_the_same_settings(tmp_path):
    path, best = tmp_path / 'mem_best.npz', best_of(200)
    settings = {name: name for name in SETTINGS}
    assert read_best(path, settings) is None
    write_best(path, {**settings, 'ratio': 0.5}, best)
    read = read_best(path, {**settings, 'ratio': 0.6})
    assert all(torch.equal(getattr(read, name), getattr(best, name)) for name in vars(best))
    for name in SETTINGS:
        assert read_best(path, {**settings, name: 'other'}) is None
    path.write_bytes(path.read_bytes()[:-300])
    assert read_best(path, settings) is None
    assert list(tmp_path.iterdir()) == [path]


def test_closeness_is_the_logarithm_of_the_distance_to_the_threshold():
    found = closeness(torch.tensor([[1, 9], [4, 9], [1, 81], [0, 5]]))
    assert found.tolist() == pytest.approx([0, math.log(2), math.log(3), math.inf])


def test_evaluations_are_told_apart_by_their_settings():
    own = {'dataset_sha256': 'a' * 64, 'sampler': {'num_steps': 18, 'rho': 7}, 'seeds': '0-9'}
    records = [{'snapshot': name, 'kimg': kimg, **own} for name, kimg in (('b', 2), ('a', 1))]
    other = {**records[0], 'dataset_sha256': 'b' * 64, 'sampler': {'num_steps': 9, 'rho': 7}}
    again = {**records[1], 'ratio': 0.5}
    assert evaluations([*records, other, again]) == [[*records, again], [other]]
    assert newest_evaluation([*records, other, again]) == [again, records[0]]
    assert newest_evaluation([*records, other]) == [other]
    assert newest_evaluation([]) == []
    assert changed_settings(again, records[0]) == ''
    text = 'dataset_sha256=bbbbbbbb instead of aaaaaaaa, num_steps=9 instead of 18'
    assert changed_settings(records[1], other) == text
    raced = [
        {**record, 'seeds': seeds, 'raced_seeds': '0-9'} for record, seeds in zip(records, ('0-4', '0-9'), strict=True)
    ]
    assert changed_settings(*raced) == ''
    assert changed_settings(records[0], raced[0]) == 'raced_seeds=0-9 instead of None'
