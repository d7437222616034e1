"""When calls are recorded and replayed. Recording itself needs a GPU; see tests/test_cuda.py."""

import contextlib
from typing import Any

import pytest
import torch

from torch_utils import cuda_graphs
from torch_utils.cuda_graphs import ReplayedFunction
from torch_utils.misc import layout
from training.denoiser import ReplayedDenoiser


class StandIn:
    """Stands in for a recording; counts how often it is replayed."""

    def __init__(self, function, inputs):
        self.replays = 0

    def replay(self, inputs):
        self.replays += 1
        return ('replayed',)


def called(*inputs) -> Any:
    return ('called',)


@pytest.fixture
def free_bytes(monkeypatch):
    """Replace the parts that need a GPU. Each call needs 10 bytes; the returned list holds the free bytes."""
    free = [100]
    monkeypatch.setattr(cuda_graphs, 'Recording', StandIn)
    monkeypatch.setattr(cuda_graphs, 'measured', lambda function, inputs: (function(*inputs), 10))
    monkeypatch.setattr(cuda_graphs, 'available', lambda: free[0])
    monkeypatch.setattr(torch.cuda, 'device', lambda device: contextlib.nullcontext())
    return free


def test_calls_are_replayed_from_the_third_with_the_same_shapes(free_bytes):
    function: Any = ReplayedFunction(called)
    small, large, labels = torch.zeros(2), torch.zeros(3), torch.zeros(2, dtype=torch.int64)
    for inputs in ((small, None), (large, None), (small, labels), (small.double(), None)):
        assert [function(*inputs)[0] for _ in range(4)] == ['called', 'called', 'replayed', 'replayed']
    assert [recording.replays for recording in function.recordings.values()] == [2, 2, 2, 2]


def test_calls_that_need_much_memory_are_not_recorded(free_bytes):
    free_bytes[0] = 40
    function: Any = ReplayedFunction(called)
    assert [function(torch.zeros(2))[0] for _ in range(5)] == ['called'] * 5
    assert not function.recordings


def test_a_denoiser_is_replayed_in_inference_mode_only(free_bytes):
    class Net(torch.nn.Module):
        label_dim = 7

        def forward(self, x, sigma, class_labels=None):
            return x

    net: Any = Net()
    denoiser, x = ReplayedDenoiser(net), torch.zeros(2)
    assert denoiser.label_dim == 7
    for _ in range(4):
        assert denoiser(x, 1.0) is x
    with torch.inference_mode():
        assert denoiser(x, 1.0) is x
        assert denoiser(x, torch.tensor(1.0)) is x
        assert denoiser(x, 1.0) == 'replayed'


def test_float32_is_contiguous_on_a_gpu_only():
    assert layout('cuda', 'fp32') == layout(torch.device('cuda', 1), 'tf32') == torch.contiguous_format
    assert {layout('cuda', 'bf16'), layout('cuda', 'fp16'), layout('cpu', 'fp32')} == {torch.channels_last}
