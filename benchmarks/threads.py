"""Time training on one core and on all cores, with threads that spin or sleep while they wait, under the current load.

    python -m benchmarks.threads

Each case runs in its own process, because OpenMP reads the waiting policy only once per process.
"""

import os
import subprocess
import sys
import time

import click

POLICIES = ('ACTIVE', 'PASSIVE')  # values of OMP_WAIT_POLICY


@click.command()
@click.option('--seconds', metavar='FLOAT', default=5.0, show_default=True, help='Seconds for each measurement.')
@click.option('--batch-paper', metavar='INT', default=2, show_default=True, help="Batch size of the paper's network.")
@click.option('--batch-demo', metavar='INT', default=32, show_default=True, help="Batch size of the demo's network.")
@click.option('--case', metavar='INT,INT', help='Index of a network and number of threads to time in this process.')
def main(seconds: float, batch_paper: int, batch_demo: int, case: str | None) -> None:
    """Time training with one thread and with one thread per core."""
    if case is not None:
        measure(seconds, batch_paper, batch_demo, *map(int, case.split(',')))
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    print(f'{cores} cores, load {os.getloadavg()[0]:.1f}')
    for network in (0, 1):
        for threads, policy in [(1, 'PASSIVE'), *((cores, policy) for policy in POLICIES)]:
            command = [sys.executable, '-m', 'benchmarks.threads', *sys.argv[1:], f'--case={network},{threads}']
            environ = {**os.environ, 'OMP_WAIT_POLICY': policy, 'OMP_NUM_THREADS': str(threads)}
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
            print(f'{done.stdout.strip()}, {policy.lower()} waiting', flush=True)


def measure(seconds: float, batch_paper: int, batch_demo: int, network: int, threads: int) -> None:
    import torch  # not at the top: the parent process does not need torch

    from benchmarks.benchmark_networks import Variant, measured_networks
    from benchmarks.training_speed import our_step

    measured = measured_networks(batch_paper, batch_demo)[network]
    step = our_step(measured, torch.device('cpu'), Variant('fp32'))
    step()
    start, steps = time.monotonic(), 0
    while time.monotonic() < start + seconds:
        step()
        steps += 1
    rate = steps * measured.batch_size / (time.monotonic() - start)
    print(f'{measured.name}: {threads} thread{"s" * (threads > 1)}: {rate:.3g} images/s')


if __name__ == '__main__':
    main()
