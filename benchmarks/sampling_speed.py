"""Images per second of the 18-step sampler (35 evaluations), relative to eager float32 with contiguous tensors.

    python -m benchmarks.sampling_speed

Plain and measured evaluations are timed in turn in the same run, and their medians are compared.
"""

import click
import torch

from benchmarks.benchmark_networks import Measured, measured_networks, ways
from benchmarks.training_speed import Step, compare
from dnnlib.util import report_errors
from torch_utils.distributed import choose_device
from torch_utils.misc import configure_backends, place

EVALUATIONS = 35


@click.command()
@click.option(
    '--network',
    metavar='paper|demo|all',
    type=click.Choice(['paper', 'demo', 'all']),
    default='all',
    show_default=True,
    help='What to sample.',
)
@click.option('--batch-paper', metavar='INT', default=16, show_default=True, help="Batch of the paper's network.")
@click.option('--batch-demo', metavar='INT', default=256, show_default=True, help="Batch of the demo's network.")
@click.option(
    '--seconds',
    metavar='FLOAT',
    default=5.0,
    show_default=True,
    help='Time for each way and as much for the plain one.',
)
@click.option('--compile', 'compiled', is_flag=True, help='Compiled networks as well; a minute or two each.')
@click.option('--device', metavar='auto|cuda|cpu', default='auto', show_default=True, help='Where to compute.')
@report_errors
def main(network: str, batch_paper: int, batch_demo: int, seconds: float, compiled: bool, device: str) -> None:
    """Measure images per second of sampling."""
    chosen = choose_device(device)
    for measured in measured_networks(batch_paper, batch_demo):
        if network not in ('all', measured.name.split(':')[0]):
            continue
        print(f'\n{measured.name}, batch {measured.batch_size}, {chosen.type}, {torch.get_num_threads()} threads, '
              f'{torch.backends.cpu.get_cpu_capability()}')  # fmt: skip
        plain = evaluation(measured, chosen, 'fp32', channels_last=False, compiled=False)
        for precision, channels_last, with_compile in ways(chosen, compiled):
            step = evaluation(measured, chosen, precision, channels_last, with_compile)
            rate, ratio = compare(step, plain, measured.batch_size, seconds, chosen)
            layout = 'channels_last' if channels_last else 'contiguous'
            mode = 'compiled' if with_compile else 'eager'
            print(f'{precision}  {layout:<14} {mode:<9} {rate / EVALUATIONS:>10.2f} img/s  {ratio:>6.2f}x', flush=True)


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


if __name__ == '__main__':
    main()
