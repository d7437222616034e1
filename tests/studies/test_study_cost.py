"""Estimated costs of a study, compared with counts made by hand."""

from typing import Any

import torch

from studies import study_cost as study_cost_module
from studies.commands import Resources
from studies.points import STOPPED, Status, make_point, write_status
from studies.study_cost import Costs, largest_sizes, study_cost
from studies.study_file import read_study
from studies.validation import Validator
from torch_utils.misc import layout
from training.dataset import DatasetInfo

INFO = DatasetInfo('', 'set', 20, 8, 1, 10)
BASE: dict[str, Any] = {
    'data': {'selection': 'size', 'source': 'digits'},
    'train': {'preset': 'digits', 'epochs': {'images': 6400}, 'snapshots': 3, 'keep-states': 1},
    'evaluate': {'seeds': '0-49', 'steps': 10},
}


def study(**tables):
    return read_study(BASE | tables, 'test', 'test.toml')


def test_the_cost_of_a_point_follows_from_its_options(tmp_path, monkeypatch):
    monkeypatch.setattr('studies.study_cost.SECONDS_MEASURED', 0.0)
    found = study(sizes={'values': [20]})
    costs = Costs(found, tmp_path, Validator(), Resources())
    (training,), evaluation = costs.of_point(found.combinations[0], 20)
    assert (training.images, training.calls) == (6400, 100)
    assert (evaluation.images, evaluation.calls) == (150, 150 * 19)
    parameters = sum(p.numel() for p in costs.config(['train.py', '--data=digits', '--preset=digits'], INFO)
                     .network.build('meta').parameters())  # fmt: skip
    # The run saves three snapshots, a training state (weights, average and two moments) and the training set.
    assert training.disk == 4 * parameters * 3 + 4 * parameters * 4 + 20 * 64
    keeping = study(sizes={'values': [20]}, evaluate=BASE['evaluate'] | {'keep-best': True})
    ((kept,), _) = Costs(keeping, tmp_path, Validator(), Resources()).of_point(keeping.combinations[0], 20)
    assert training.disk - kept.disk == 4 * parameters * 2


def test_the_time_of_gpu_jobs_is_not_estimated_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    found = study(sizes={'values': [20]})
    costs = Costs(found, tmp_path, Validator(), Resources(gpus_per_node=8))
    (training,), evaluation = costs.of_point(found.combinations[0], 20)
    assert training.seconds is evaluation.seconds is None


def test_the_cost_of_a_search_is_computed_from_its_largest_possible_sizes(tmp_path):
    found = study(sizes={'search': [10, 80]})
    found = Validator().with_steps(found, tmp_path)
    sizes = largest_sizes(found.combinations[0], found)
    assert sizes[0] == 10
    assert sizes[-2:] == [70, 80]
    assert sizes == sorted(set(sizes))


def test_the_cost_says_that_an_interrupted_point_counts_in_full(tmp_path, monkeypatch):
    monkeypatch.setattr('studies.study_cost.SECONDS_MEASURED', 0.0)
    found = study(sizes={'values': [20, 30]})

    def points():
        return study_cost(found, tmp_path, tmp_path, Validator(), Resources(), jobs=1).splitlines()[0]

    assert points().split(maxsplit=1) == ['Points:', '2']
    point = make_point(found, tmp_path, found.combinations[0], 20, 0)
    point.folder.mkdir(parents=True)
    point.prepare()
    write_status(point.folder, Status(STOPPED, 'train'))
    assert points().endswith('2; interrupted points count in full')


def test_speeds_are_measured_separately_in_each_precision(tmp_path, monkeypatch):
    def train_rate(config, device, seconds):
        return {'fp32': 10.0, 'bf16': 40.0}[config.precision]

    def sample_rate(net, batch_size, device, seconds):
        assert next(p for p in net.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1).is_contiguous(
            memory_format=layout(device, net.precision)
        )
        assert torch.get_float32_matmul_precision() == ('high' if net.precision == 'tf32' else 'highest')
        return {'fp32': 1.0, 'bf16': 2.0, 'tf32': 5.0}[net.precision]

    monkeypatch.setattr(study_cost_module, 'images_per_second', train_rate)
    monkeypatch.setattr(study_cost_module, 'denoiser_rate', sample_rate)

    def seconds(option, precisions):
        factor = {'option': option, 'values': precisions}
        found = study(sizes={'values': [20]}, factors={'precision': factor})
        costs = Costs(found, tmp_path, Validator(), Resources())
        pairs = [costs.of_point(combination, 20) for combination in found.combinations]
        return [(training.seconds, evaluation.seconds) for (training,), evaluation in pairs]

    calls = 3 * 50 * 19  # snapshots, seeds, and evaluations of the network for each image
    assert seconds('train.precision', ['fp32', 'bf16']) == [(640, calls), (160, calls / 2)]
    assert seconds('evaluate.precision', ['fp32', 'tf32']) == [(640, calls), (640, calls / 5)]
