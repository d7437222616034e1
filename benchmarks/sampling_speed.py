"""Time 18-step sampling (35 network evaluations), compared with eager float32 and contiguous tensors.

python -m benchmarks.sampling_speed
"""

from functools import partial
from typing import Any

import torch

from benchmarks.benchmark_networks import Measured, NetworkWork, Step, Variant
from torch_utils.cuda_graphs import Replay
from torch_utils.misc import configure_backends

EVALUATIONS = 35


def edm_evaluation(measured: Measured, device: torch.device, networks: Any, losses: Any) -> Step:
    net = measured.build_edm(networks).eval().requires_grad_(False).to(device)
    x = measured.images().to(device, torch.float64)

    def step() -> None:
        with torch.no_grad():
            net(x, torch.ones([], device=device))

    return step


def evaluation(measured: Measured, device: torch.device, variant: Variant) -> Step:
    net = measured.build().eval().requires_grad_(False)
    net.to(device, memory_format=variant.layout)  # type: ignore[call-overload]
    net.set_precision(variant.precision)
    denoiser: Any = torch.compile(net) if variant.compiled else net
    replay = Replay()
    x = measured.images().to(device, torch.float64)  # the sampler's state

    def step() -> None:
        configure_backends(variant.precision)
        with torch.inference_mode():
            if variant.replayed:
                replay(lambda *inputs: (denoiser(*inputs),), x, torch.ones([], device=device))
            else:
                denoiser(x, torch.ones([], device=device))

    return step


plain = partial(evaluation, variant=Variant('fp32', channels_last=False))
WORK = NetworkWork('sampling', EVALUATIONS, plain, edm_evaluation, evaluation)
main = WORK.command('Measure images per second of sampling.')

if __name__ == '__main__':
    main()
