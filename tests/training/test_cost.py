"""Estimated memory of training, compared with what autograd actually keeps."""

import dataclasses

import pytest
import torch

from training import cost
from training.config import SavedRun, resolve
from training.cost import activation_bytes, weight_bytes
from training.dataset import DatasetInfo
from training.trainer import Trainer
from training.training_options import RunOptions, TrainingOptions
from training.training_run import with_threads


def config_of(preset, resolution):
    options = TrainingOptions(preset=preset)
    return resolve(options, DatasetInfo('', 'set', 1000, resolution, 1, 0))


@pytest.mark.parametrize('count', [1, 32])
def test_estimated_activations_match_a_real_forward_pass(count):
    config = config_of('digits', 8)
    net = config.network.build().train()
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = net(torch.zeros(count, 1, 8, 8), torch.ones(count))
    real = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)
    assert result.requires_grad
    assert abs(activation_bytes(config.network, count=count) / real - 1) < 0.1


def test_copies_of_the_weights_in_bf16_count_only_once():
    memory = {
        precision: [
            cost.cost_of(dataclasses.replace(config_of('digits', 8), precision=precision, batch_gpu=count), None).memory
            for count in (1, 2, 64)
        ]
        for precision in ('fp32', 'bf16')
    }
    for one, two, many in memory.values():
        assert many - one == 63 * (two - one)
    each = {precision: two - one for precision, (one, two, _) in memory.items()}
    assert 0.5 < each['bf16'] / each['fp32'] < 0.6  # almost all tensors that are kept have 16 bits


def test_with_adam_the_weights_take_five_times_their_size():
    config = config_of('digits', 8)
    parameters = sum(p.numel() for p in config.network.build('meta').parameters())
    assert weight_bytes(config) == 4 * 5 * parameters  # weights, average, gradients, two moments


@pytest.mark.parametrize('precision', ['fp32', 'tf32'])
def test_speed_is_measured_with_the_arithmetic_of_the_run(monkeypatch, precision):
    found = []

    class Recorded(Trainer):
        def accumulate(self, images, labels):
            found.append((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))

    monkeypatch.setattr(cost, 'Trainer', Recorded)
    monkeypatch.setattr(cost, 'SECONDS_MEASURED', 0.0)
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    config = dataclasses.replace(config_of('digits', 8), precision=precision)
    assert cost.images_per_second(config, torch.device('cpu')) > 0
    assert set(found) == {(precision == 'tf32', 'high' if precision == 'tf32' else 'highest')}
    assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == before


@pytest.mark.parametrize(
    ('chosen', 'environ', 'started_with', 'preset', 'expected'),
    [
        ('auto', None, None, 'digits', 1),  # a small network
        ('auto', None, None, 'paper', 2),
        ('auto', '2', None, 'digits', 2),
        ('auto', None, 2, 'digits', 2),  # a resumed run keeps its number of threads
        (3, '2', 2, 'digits', 3),
    ],
)
def test_the_number_of_threads_follows_option_environment_and_saved_run(
    monkeypatch, chosen, environ, started_with, preset, expected
):
    numbers: list[int] = []
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    monkeypatch.setattr(torch, 'set_num_threads', numbers.append)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    if environ is not None:
        monkeypatch.setenv('OMP_NUM_THREADS', environ)
    config = config_of(preset, 32 if preset == 'paper' else 8)
    saved = None if started_with is None else SavedRun(RunOptions(), config.network, 1, started_with)
    assert with_threads(config, chosen, saved).threads == expected
    assert numbers == [expected]
