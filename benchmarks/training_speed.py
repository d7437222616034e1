"""Images per second of training, for each precision, layout and compilation, next to a plain loop in the same run.

    python -m benchmarks.training_speed
    python -m benchmarks.training_speed --network=demo --compile

The plain loop is eager float32 with contiguous tensors and torch.optim.Adam over the parameters one by one. Plain and measured
steps alternate in short turns, and their median times are compared, so that drifting machine speed cancels out.
"""

import torch

from benchmarks.benchmark_networks import Measured, Step, speed_command
from torch_utils.flat_parameters import FlatParameters
from torch_utils.misc import configure_backends, place
from training.loss import VPLoss


def plain_step(measured: Measured, device: torch.device) -> Step:
    net, images, loss = measured.build().to(device), measured.images().to(device), VPLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss(net, images).sum().backward()
        optimizer.step()

    return step


def our_step(measured: Measured, device: torch.device, precision: str, channels_last: bool, compiled: bool) -> Step:
    net, images, loss = measured.build().to(device), measured.images().to(device), VPLoss()
    net.set_precision(precision)
    if channels_last:
        place(net, device)
        images = images.to(memory_format=torch.channels_last)
    flat = FlatParameters(net)
    flat.attach_gradients()
    gradients = flat.gradients
    assert gradients is not None
    optimizer = torch.optim.Adam([flat.values], lr=1e-4, fused=True)
    forward = torch.compile(net) if compiled else net

    def step() -> None:
        configure_backends(precision)
        gradients.zero_()
        loss(forward, images).sum().backward()
        optimizer.step()

    return step


main = speed_command(plain_step, our_step, 1, 'Measure images per second of training.')

if __name__ == '__main__':
    main()
