"""Images per second of training, for each precision, layout and compilation, next to a plain loop in the same run.

    python -m benchmarks.training_speed
    python -m benchmarks.training_speed --network=demo --batch-demo=256 --compile

The plain loop is eager float32 with contiguous tensors and torch.optim.Adam over the parameters one by one. Plain and measured
steps alternate in short turns, and their median times are compared, so that drifting machine speed cancels out.
"""

import statistics
import time
from collections.abc import Callable

import click
import torch

from benchmarks.benchmark_networks import Measured, measured_networks, ways
from dnnlib.util import report_errors
from torch_utils.distributed import choose_device
from torch_utils.flat_parameters import FlatParameters
from torch_utils.misc import configure_backends, place
from training.loss import VPLoss

Step = Callable[[], None]


@click.command()
@click.option(
    '--network',
    metavar='paper|demo|all',
    type=click.Choice(['paper', 'demo', 'all']),
    default='all',
    show_default=True,
    help='What to train.',
)
@click.option('--batch-paper', metavar='INT', default=16, show_default=True, help="Batch of the paper's network.")
@click.option('--batch-demo', metavar='INT', default=128, show_default=True, help="Batch of the demo's network.")
@click.option(
    '--seconds',
    metavar='FLOAT',
    default=10.0,
    show_default=True,
    help='Time for each way and as much for the plain loop.',
)
@click.option('--compile', 'compiled', is_flag=True, help='Compiled networks as well; a minute or two each.')
@click.option('--device', metavar='auto|cuda|cpu', default='auto', show_default=True, help='Where to compute.')
@report_errors
def main(network: str, batch_paper: int, batch_demo: int, seconds: float, compiled: bool, device: str) -> None:
    """Measure images per second of training."""
    chosen = choose_device(device)
    for measured in measured_networks(batch_paper, batch_demo):
        if network not in ('all', measured.name.split(':')[0]):
            continue
        print(f'\n{measured.name}, batch {measured.batch_size}, {chosen.type}, {torch.get_num_threads()} threads, '
              f'{torch.backends.cpu.get_cpu_capability()}')  # fmt: skip
        plain = plain_step(measured, chosen)
        for precision, channels_last, with_compile in ways(chosen, compiled):
            step = our_step(measured, chosen, precision, channels_last, with_compile)
            rate, ratio = compare(step, plain, measured.batch_size, seconds, chosen)
            layout = 'channels_last' if channels_last else 'contiguous'
            mode = 'compiled' if with_compile else 'eager'
            print(f'{precision}  {layout:<14} {mode:<9} {rate:>10.1f} img/s  {ratio:>6.2f}x', flush=True)


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


def compare(step: Step, plain: Step, batch_size: int, seconds: float, device: torch.device) -> tuple[float, float]:
    """Images per second of `step`, and their ratio to the images per second of `plain`."""
    times: dict[bool, list[float]] = {True: [], False: []}
    for action in (step, plain):
        action()
    deadline = time.perf_counter() + 2 * seconds
    while time.perf_counter() < deadline or len(times[False]) < 3:
        for is_plain, action in ((False, step), (True, plain)):
            for _ in range(3):
                start = time.perf_counter()
                action()
                if device.type == 'cuda':
                    torch.cuda.synchronize()
                times[is_plain].append(time.perf_counter() - start)
    ours, theirs = (statistics.median(times[key]) for key in (False, True))
    return batch_size / ours, theirs / ours


if __name__ == '__main__':
    main()
