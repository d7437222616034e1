"""Time training at each precision, with and without channels_last and compilation, compared with a plain loop.

    python -m benchmarks.training_speed
    python -m benchmarks.training_speed --network=demo --compile

The plain loop uses eager float32, contiguous tensors and torch.optim.Adam with one tensor per parameter. EDM's loop
also replaces non-finite gradients and averages the weights.
"""

import copy
from typing import Any

import torch

from benchmarks.benchmark_networks import Measured, NetworkWork, Step, Variant
from torch_utils.cuda_graphs import Replay
from torch_utils.flat_parameters import FlatParameters
from torch_utils.misc import configure_backends
from training.loss import VPLoss


def plain_step(measured: Measured, device: torch.device) -> Step:
    net, images, loss = measured.build().to(device), measured.images().to(device), VPLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss(net, images).sum().backward()
        optimizer.step()

    return step


def edm_step(measured: Measured, device: torch.device, networks: Any, losses: Any) -> Step:
    """One step of EDM's `training_loop`."""
    net, images, loss = measured.build_edm(networks).to(device), measured.images().to(device), losses.VPLoss()
    average = copy.deepcopy(net).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.9, 0.999), eps=1e-8)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(net, images).sum().mul(1 / len(images)).backward()
        for parameter in net.parameters():
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        optimizer.step()
        with torch.no_grad():
            for mean, parameter in zip(average.parameters(), net.parameters(), strict=True):
                mean.copy_(parameter.lerp(mean, 0.999))

    return step


def our_step(measured: Measured, device: torch.device, variant: Variant) -> Step:
    net = measured.build().to(device, memory_format=variant.layout)  # type: ignore[call-overload]
    images, loss = measured.images().to(device, memory_format=variant.layout), VPLoss()
    net.set_precision(variant.precision)
    flat = FlatParameters(net)
    flat.attach_gradients()
    gradients = flat.gradients
    assert gradients is not None
    optimizer = torch.optim.Adam([flat.values], lr=1e-4, fused=True)
    forward = torch.compile(net) if variant.compiled else net

    def add_gradients(images: torch.Tensor) -> tuple[()]:
        loss(forward, images).sum().backward()
        return ()

    replay = Replay()

    def step() -> None:
        configure_backends(variant.precision)
        gradients.zero_()
        replay(add_gradients, images) if variant.replayed else add_gradients(images)
        optimizer.step()

    return step


WORK = NetworkWork('training', 1, plain_step, edm_step, our_step)
main = WORK.command('Measure images per second of training.')

if __name__ == '__main__':
    main()
