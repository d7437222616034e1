import json

import pytest
import torch

from dnnlib.util import UserError
from evaluation.records import SETTINGS, PartialResults, append_record, find_record, format_seeds, read_records


def test_seeds_are_written_as_ranges():
    assert format_seeds([0, 1, 2, 7, 9, 10]) == '0-2,7,9-10'


def test_a_record_is_found_only_for_the_same_settings(tmp_path):
    path = tmp_path / 'mem_traj.jsonl'
    settings = {name: name for name in SETTINGS}
    append_record(path, {**settings, 'ratio': 0.1})
    append_record(path, {**settings, 'ratio': 0.2})
    assert find_record(read_records(path), settings)['ratio'] == 0.2
    for name in SETTINGS:
        assert find_record(read_records(path), {**settings, name: 'other'}) is None


def test_a_record_that_was_cut_short_is_left_out(tmp_path):
    path = tmp_path / 'mem_traj.jsonl'
    append_record(path, {'ratio': 1})
    with open(path, 'a') as file:
        file.write('{"ratio": 0.')
    assert read_records(path) == [{'ratio': 1}]


def test_a_broken_line_among_the_records_is_named(tmp_path):
    path = tmp_path / 'mem_traj.jsonl'
    path.write_text('[1]\n' + json.dumps({'ratio': 1}) + '\n')
    with pytest.raises(UserError, match='line 1 is not a record'):
        read_records(path)


def results(*rows):
    return torch.tensor(rows, dtype=torch.int64)


def test_partial_results_come_back_for_the_same_settings_only(tmp_path):
    path = tmp_path / 'partial.npz'
    partial = PartialResults(path, {'seeds': '0-1'})
    partial.add([4, 2], results([1, 0], [3, 5]), results([9, 10], [11, 2**40]))
    partial.save()
    indices, distances = PartialResults(path, {'seeds': '0-1'}).arrays([2, 4])
    assert indices.tolist() == [[3, 5], [1, 0]]
    assert distances.tolist() == [[11, 2**40], [9, 10]]
    assert not PartialResults(path, {'seeds': '0-2'}).found
    partial.remove()
    assert not path.exists()


def test_unreadable_partial_results_are_as_good_as_none(tmp_path):
    path = tmp_path / 'partial.npz'
    path.write_bytes(b'PK\x03\x04 cut short')
    assert not PartialResults(path, {}).found
