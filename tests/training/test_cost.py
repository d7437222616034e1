"""The memory of a training against what autograd really keeps."""

import torch

from training.config import resolve
from training.cost import activation_bytes, training_memory
from training.dataset import DatasetInfo
from training.training_options import TrainingOptions, with_preset


def config_of(preset, resolution):
    options = with_preset(TrainingOptions(preset=preset), set())
    return resolve(options, DatasetInfo('', 'set', 1000, resolution, 1, 0))


def test_activations_are_those_of_a_real_forward_pass():
    config = config_of('digits', 8)
    net = config.network.build().train()
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = net(torch.zeros(1, 1, 8, 8), torch.ones(1))
    real = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)
    assert result.requires_grad
    assert abs(activation_bytes(config.network) / real - 1) < 0.1


def test_weights_take_five_times_their_size_with_adam():
    config = config_of('digits', 8)
    parameters = sum(p.numel() for p in config.network.build('meta').parameters())
    assert training_memory(config).weights == 4 * 5 * parameters  # weights, average, gradients, two moments
