"""Replays all GPU kernels of a function together, because small networks otherwise wait for the CPU to launch each one.

Source: torch's CUDA graphs, https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

# Number of calls before the kernels are recorded, in which libraries choose their kernels and allocate workspaces.
WARM_UP = 2
# A recording keeps its memory. A call that needs more than this share of the free memory is not recorded; launching
# the kernels of such a large call does not take long compared with running them.
LARGEST_SHARE = 0.25


class ReplayedFunction:
    """Calls a function of tensors on a GPU; the third call with the same shapes records its kernels, and later calls
    replay them.

    function: takes a tensor and further tensors or None, and returns a tuple of tensors. It may change other tensors in
    place, if these are the same ones in each call. It must not wait for the GPU, and must not seed random generators.
    The results are those of the function itself, random numbers included.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]):
        self.function = function
        self.calls: Counter[tuple] = Counter()
        self.is_small: dict[tuple, bool] = {}
        self.recordings: dict[tuple, Recording] = {}

    def __call__(self, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        assert inputs[0] is not None
        with torch.cuda.device(inputs[0].device):
            return self._call(inputs)

    def _call(self, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        key = tuple(None if value is None else (value.shape, value.stride(), value.dtype) for value in inputs)
        if key in self.recordings:
            return self.recordings[key].replay(inputs)
        self.calls[key] += 1
        if self.calls[key] == WARM_UP:
            outputs, needed = measured(self.function, inputs)
            self.is_small[key] = needed < LARGEST_SHARE * available()
            return outputs
        if self.calls[key] < WARM_UP or not self.is_small[key]:
            return self.function(*inputs)
        self.recordings[key] = Recording(self.function, inputs)
        return self.recordings[key].replay(inputs)


class Recording:
    """The recorded kernels of one call. They read and write fixed memory, so inputs are copied in and results out."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor | None, ...]):
        self.inputs = [None if value is None else value.clone() for value in inputs]
        self.graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile.
        with torch.cuda.graph(self.graph, capture_error_mode='thread_local'):
            self.outputs = function(*self.inputs)

    def replay(self, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        for kept, value in zip(self.inputs, inputs, strict=True):
            if kept is not None and value is not None:
                kept.copy_(value)
        self.graph.replay()
        return tuple(output.clone() for output in self.outputs)


def measured(
    function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor | None, ...]
) -> tuple[tuple[Tensor, ...], int]:
    """Call a function; also return the bytes of GPU memory that it needed."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return function(*inputs), torch.cuda.max_memory_allocated() - before


def available() -> int:
    """Bytes of GPU memory that this process can still use."""
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
