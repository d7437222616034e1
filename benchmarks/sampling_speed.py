"""Images per second of the 18-step sampler (35 evaluations), relative to eager float32 with contiguous tensors.

    python -m benchmarks.sampling_speed

Plain and measured evaluations are timed in turn in the same run, and their medians are compared.
"""

from functools import partial

import torch

from benchmarks.benchmark_networks import Measured, Step, speed_command
from torch_utils.misc import configure_backends, place

EVALUATIONS = 35


def evaluation(measured: Measured, device: torch.device, precision: str, channels_last: bool, compiled: bool) -> Step:
    net = measured.build().eval().requires_grad_(False).to(device)
    net.set_precision(precision)
    if channels_last:
        place(net, device)
    forward = torch.compile(net) if compiled else net
    x = measured.images().to(device, torch.float64)  # the sampler's state

    def step() -> None:
        configure_backends(precision)
        with torch.inference_mode():
            forward(x, torch.ones([], device=device))

    return step


plain = partial(evaluation, precision='fp32', channels_last=False, compiled=False)
main = speed_command(plain, evaluation, EVALUATIONS, 'Measure images per second of sampling.')

if __name__ == '__main__':
    main()
