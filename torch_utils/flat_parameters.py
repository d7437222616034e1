"""Stores all parameters of a module in one flat tensor, and all gradients in another.

A single operation can then update, average, zero or check the parameters or gradients. Gradients are summed over ranks
in the same order at every step, so a resumed run is bitwise identical to an uninterrupted one.
"""

from collections.abc import Callable, Iterator

import torch
import torch.distributed
from torch import Tensor, nn

# Parameters start at multiples of 64 bytes (16 float32 values), as if they had been allocated separately.
_ALIGNMENT = 16


class FlatParameters:
    """Moves a module's parameters into one float32 tensor `values` [P], and makes the module use views of it.

    values: an nn.Parameter that an optimizer can update; the padding between parameters is 0 and stays 0.
    gradients: a tensor [P], or None before `attach_gradients` is called.
    """

    def __init__(self, module: nn.Module):
        self.parameters = list(module.parameters())
        self.offsets, total = [], 0
        for parameter in self.parameters:
            self.offsets.append(total)
            total += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
        device = self.parameters[0].device
        self.values = nn.Parameter(torch.zeros(total, device=device), requires_grad=False)
        self.gradients: Tensor | None = None
        for parameter, view in zip(self.parameters, self.views(self.values), strict=True):
            view.copy_(parameter.detach())
            parameter.data = view

    def views(self, flat: Tensor) -> Iterator[Tensor]:
        """For each parameter, yield a view of `flat` [P] with the parameter's shape and memory layout."""
        for parameter, offset in zip(self.parameters, self.offsets, strict=True):
            yield flat.detach().as_strided(parameter.shape, parameter.stride(), offset)

    def attach_gradients(self) -> None:
        """Make every parameter's gradient a view of `gradients`."""
        self.gradients = torch.zeros_like(self.values)
        self.values.grad = self.gradients
        for parameter, view in zip(self.parameters, self.views(self.gradients), strict=True):
            parameter.grad = view


class GradientReducer:
    """Sums flat gradients over ranks during the backward pass.

    The gradient tensor is split at fixed positions into buckets, which are summed in a fixed order. A bucket's sum
    starts once its gradients are ready and the previous bucket's sum has started. Call `start()` before a step's last
    backward pass, and `finish()` after it.

    bucket_size: approximate number of elements in a bucket.
    """

    def __init__(self, flat: FlatParameters, bucket_size: int = 6 * 2**20):
        assert flat.gradients is not None
        self.gradients = flat.gradients
        self.is_active = False
        self.works: list[torch.distributed.Work] = []
        bounds = [len(flat.values)]
        for offset in reversed(flat.offsets):
            if bounds[-1] - offset >= bucket_size or offset == 0:
                bounds.append(offset)
        # The last parameters come first, because their gradients are ready first.
        self.buckets = list(zip(bounds[1:], bounds[:-1], strict=True))
        self.members = [0] * len(self.buckets)
        for parameter, offset in zip(flat.parameters, flat.offsets, strict=True):
            index = next(i for i, (low, _) in enumerate(self.buckets) if offset >= low)
            self.members[index] += 1
            parameter.register_post_accumulate_grad_hook(self._counter(index))

    def _counter(self, index: int) -> Callable[[Tensor], None]:
        def count(_: Tensor) -> None:
            if self.is_active:
                self.missing[index] -= 1
                self._launch()

        return count

    def _launch(self) -> None:
        while len(self.works) < len(self.buckets) and self.missing[len(self.works)] == 0:
            low, high = self.buckets[len(self.works)]
            work = torch.distributed.all_reduce(self.gradients[low:high], async_op=True)
            assert work is not None
            self.works.append(work)

    def start(self) -> None:
        """Sum gradients over ranks during the next backward pass, which must be the step's last."""
        self.is_active = True
        self.missing = list(self.members)

    def finish(self) -> None:
        """Wait until all gradients have been summed over ranks. A parameter that received no gradient contributes 0."""
        self.missing = [0] * len(self.buckets)
        self._launch()
        for work in self.works:
            work.wait()
        self.works = []
        self.is_active = False
