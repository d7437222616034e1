"""Run denoisers on a sharded training set, with a thread for each rank."""

import itertools
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.closed_form.rows import ImageRows


def on_ranks(
    count: int,
    images: Tensor,
    labels: Tensor | None,
    compute: Callable[[ImageRows], Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> list[Tensor]:
    """Call `compute` on `count` ranks, each with its own shard of the images; returns the results in rank order."""
    bounds = [len(images) * rank // count for rank in range(count + 1)]
    barrier, local, box, results = threading.Barrier(count, timeout=60), threading.local(), {}, {}

    def gather(value: object) -> list:
        box[local.rank] = value
        barrier.wait()
        values = [box[rank] for rank in range(count)]
        barrier.wait()
        return values

    def all_gather(parts: list[Tensor], tensor: Tensor) -> None:
        for part, value in zip(parts, gather(tensor), strict=True):
            part.copy_(value)

    def all_reduce_sum(tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(gather(tensor.clone())).sum(dim=0))

    def run(rank: int, start: int, stop: int) -> None:
        local.rank = rank
        own = None if labels is None else labels[start:stop]
        results[rank] = compute(ImageRows(images[start:stop], own, torch.device('cpu'), sharded=True))

    with monkeypatch.context() as patch:
        patch.setattr('torch_utils.distributed.gather', gather)
        patch.setattr('torch_utils.distributed.rank', lambda: local.rank)
        patch.setattr('torch_utils.distributed.world_size', lambda: count)
        patch.setattr('torch.distributed.all_gather', all_gather)
        patch.setattr('training.closed_form.gaussian.all_reduce_sum', all_reduce_sum)
        threads = [
            threading.Thread(target=run, args=(rank, *share)) for rank, share in enumerate(itertools.pairwise(bounds))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return [results[rank] for rank in range(count)]
