"""Which calls are recorded and replayed. Recording itself needs a GPU; see tests/test_cuda.py."""

from typing import Any

import pytest
import torch

from torch_utils import cuda_graphs
from torch_utils.cuda_graphs import Replay


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
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda: 'usual')
    return free


def test_calls_are_replayed_from_the_third_with_the_same_shapes(free_bytes):
    replay: Any = Replay()
    small, large, labels = torch.zeros(2), torch.zeros(3), torch.zeros(2, dtype=torch.int64)
    for inputs in ((small, None), (large, None), (small, labels), (small.double(), None)):
        assert [replay(called, *inputs)[0] for _ in range(4)] == ['called', 'called', 'replayed', 'replayed']
    assert [recording.replays for recording in replay.recordings.values()] == [2, 2, 2, 2]


def test_calls_that_need_much_memory_are_not_recorded(free_bytes):
    free_bytes[0] = 39
    replay: Any = Replay()
    assert [replay(called, torch.zeros(2))[0] for _ in range(5)] == ['called'] * 5
    assert list(replay.recordings.values()) == [None]


def test_calls_that_cannot_be_recorded_are_launched(free_bytes, monkeypatch):
    def fail(function, inputs):
        raise RuntimeError('operation not permitted when stream is capturing')

    streams: list[Any] = []
    monkeypatch.setattr(cuda_graphs, 'Recording', fail)
    monkeypatch.setattr(torch.cuda, 'set_stream', streams.append)
    replay: Any = Replay()
    assert [replay(called, torch.zeros(2))[0] for _ in range(5)] == ['called'] * 5
    assert streams == ['usual']
