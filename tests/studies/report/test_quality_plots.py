"""Plots of quality and memorization, and galleries of copied training images, from handmade records and images."""

import json
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dataset_utils import open_source
from evaluation.best_images import BEST_NAME, BestSnapshot, write_best
from studies.report.copied_facts import copied_parts
from studies.report.quality_plots import measured_records, quality_figures


def record(kimg, ratio=0.5, to_training=9.0, to_test=None, num_test=None, **others):
    frechet = {
        'to_training': to_training, 'num_generated': 12, 'num_training': 20, 'to_test': to_test, 'num_test': num_test,
    }  # fmt: skip
    numbers = {
        'num_images': 12, 'num_memorized': 6, 'num_duplicates': 0, 'ratio': ratio, 'ratio_low': 0.2, 'ratio_high': 0.8,
        'mean_distance': 3.0,
    }  # fmt: skip
    name = f'network-snapshot-{kimg:06d}.safetensors'
    measured = {'metrics': {'frechet': frechet}, 'measured': {'metrics': ['frechet']}}
    return {'snapshot': name, 'kimg': kimg, 'epochs': 10.0 * kimg, **numbers, **measured, **others}


def write_run(folder, records):
    (folder / 'run').mkdir(parents=True)
    (folder / 'run' / 'mem_traj.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in records))


def outcome(tmp_path, name, values, by_size) -> Any:
    points = []
    for size, records in by_size.items():
        write_run(tmp_path / name / str(size), records)
        point = SimpleNamespace(size=size, folder=tmp_path / name / str(size))
        points.append(SimpleNamespace(point=point, record=records[-1]))
    return SimpleNamespace(combination=SimpleNamespace(name=name, values=values), points=points)


def heights(figure, panel):
    return [np.asarray(line.get_ydata()).tolist() for line in figure.axes[panel].lines]


def test_quality_is_shown_by_size_and_over_training(tmp_path):
    small = [record(1, 0.1, 30.0, 40.0, 50), record(2, 0.9, 5.0, 60.0, 50)]
    large = [record(1, 0.0, 31.0, 32.0, 50), record(2, 0.2, 20.0, 21.0, 50)]
    study = SimpleNamespace(title='Width')
    results: Any = SimpleNamespace(study=study, outcomes=[outcome(tmp_path, 'a', {'w': '1'}, {20: small, 50: large})])
    (size, caption, by_size), (name, _, over_training) = quality_figures(results)
    assert (size, name) == ('quality-size', 'quality-epochs-w=1')
    expected = 'the Fréchet distance between 12 generated images and 50 held-out images, by number of training images.'
    assert caption == f'Memorized images, and {expected}'
    assert heights(by_size, 0) == [[90.0, 20.0]]
    assert heights(by_size, 1) == [[60.0, 21.0]]
    assert heights(over_training, 1) == [[40.0, 60.0], [32.0, 21.0]]
    assert np.asarray(over_training.axes[1].lines[0].get_xdata()).tolist() == [10.0, 20.0]


def test_a_note_warns_of_distances_for_different_numbers_of_images(tmp_path):
    large = record(2)
    large['metrics'] = {'frechet': {**large['metrics']['frechet'], 'num_training': 50}}
    results: Any = SimpleNamespace(
        study=SimpleNamespace(title=''), outcomes=[outcome(tmp_path, 'a', {}, {20: [record(2)], 50: [large]})]
    )
    ((_, caption, _),) = quality_figures(results)
    assert 'and 20 or 50 training images' in caption
    assert 'Distances computed from different numbers of images cannot be compared.' in caption


def test_only_records_with_the_newest_settings_are_plotted(tmp_path):
    plain = record(2)
    del plain['metrics'], plain['measured']
    other = record(1, measured={'metrics': ['frechet', 'authenticity']})
    write_run(tmp_path, [record(3), other, record(2), plain, record(1)])
    assert [found['kimg'] for found in measured_records(tmp_path)] == [1, 2, 3]
    write_run(tmp_path / 'none', [plain])
    assert measured_records(tmp_path / 'none') == []


@pytest.fixture
def folder(digits_20, tmp_path):
    """Folder of a point whose best snapshot copies training image 4 twice and training image 7 once."""
    settings = record(2)
    write_run(tmp_path, [settings])
    shutil.copy(digits_20, tmp_path / 'data.zip')
    indices = torch.tensor([[4, 0], [4, 0], [7, 1], [2, 3]])
    squared = torch.tensor([[0, 90], [1, 90], [0, 5], [80, 90]])
    images = torch.zeros([4, 1, 8, 8], dtype=torch.uint8)
    best = BestSnapshot(torch.arange(4), images, torch.full([4], -1), indices, squared)
    write_best(tmp_path / 'run' / BEST_NAME, settings, best)
    return tmp_path


def test_the_page_shows_which_training_images_are_copied(folder):
    facts, figure = copied_parts(folder, num_duplicates=5)
    labels = open_source(folder / 'data.zip').labels
    assert facts == [
        ('Training images copied', '2 of 15 (13.3 %)'),
        ('Classes copied most often (number of copies)', f'{labels[4]} (2), {labels[7]} (1)'),
    ]
    assert figure.caption == 'Training images that are copied, each with up to two of its copies'
    assert figure.data.startswith(b'\x89PNG')


def test_without_its_training_set_a_point_shows_no_copied_images(folder):
    (folder / 'data.zip').write_bytes(b'')
    assert copied_parts(folder, 0) == ([], None)
    (folder / 'data.zip').unlink()
    assert copied_parts(folder, 0) == ([], None)
