"""Replays all GPU kernels of a function together, because small networks otherwise wait for the CPU to launch each one.

Source: torch's CUDA graphs, https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

# Number of calls before the kernels are recorded; during these calls, libraries choose kernels and allocate workspaces.
WARM_UP = 2
# A recording keeps its memory, so a call that needs more than this share of the free memory is not recorded. Launching
# the kernels of such a large call does not take long compared with running them.
LARGEST_SHARE = 0.25

Inputs = tuple[Tensor | None, ...]
Function = Callable[..., tuple[Tensor, ...]]


class Replay:
    """Calls a function of tensors on a GPU; the third call with the same shapes records its kernels, and later calls
    replay them.

    Call it with the function, always the same one, and with the function's inputs: a tensor, then tensors or None. The
    function returns a tuple of tensors. It may change other tensors in place, if these are the same ones in each call.
    It must not wait for the GPU, must not seed random generators, and must not depend on anything on the CPU that
    changes. The results are those of the function itself, random numbers included.
    If the kernels cannot be recorded, every call launches them one by one instead.
    """

    def __init__(self) -> None:
        self.calls: Counter[tuple] = Counter()
        self.recordings: dict[tuple, Recording | None] = {}  # None: not to be recorded

    def __call__(self, function: Function, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        key = tuple(None if value is None else (value.shape, value.stride(), value.dtype) for value in inputs)
        self.calls[key] += 1
        if self.calls[key] == WARM_UP:
            outputs, needed = measured(function, inputs)
            if needed > LARGEST_SHARE * available():
                self.recordings[key] = None
            return outputs
        if self.calls[key] == WARM_UP + 1 and key not in self.recordings:
            self.recordings[key] = record(function, inputs)
        recording = self.recordings.get(key)
        return function(*inputs) if recording is None else recording.replay(inputs)


class Recording:
    """The recorded kernels of one call. They read and write fixed memory, so inputs are copied in and results out."""

    def __init__(self, function: Function, inputs: Inputs):
        self.inputs = [None if value is None else value.clone() for value in inputs]
        self.graph = torch.cuda.CUDAGraph()
        # Each recording has a stream of its own: recordings on the same stream would share cuBLAS's workspace, which
        # is freed with the first of them. Other threads may use the GPU meanwhile.
        with torch.cuda.graph(self.graph, stream=torch.cuda.Stream(), capture_error_mode='thread_local'):
            self.outputs = function(*self.inputs)

    def replay(self, inputs: Inputs) -> tuple[Tensor, ...]:
        for kept, value in zip(self.inputs, inputs, strict=True):
            if kept is not None and value is not None:
                kept.copy_(value)
        self.graph.replay()
        return tuple(output.clone() for output in self.outputs)


def record(function: Function, inputs: Inputs) -> Recording | None:
    """Record a call; None if this is impossible, for example because the function waits for the GPU."""
    stream = torch.cuda.current_stream()
    try:
        return Recording(function, inputs)
    except RuntimeError:
        torch.cuda.set_stream(stream)  # a failed recording can leave its own stream active
        return None


def measured(function: Function, inputs: Inputs) -> tuple[tuple[Tensor, ...], int]:
    """Call a function; also return the bytes of GPU memory that it needed."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return function(*inputs), torch.cuda.max_memory_allocated() - before


def available() -> int:
    """Bytes of GPU memory that this process can still use."""
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
