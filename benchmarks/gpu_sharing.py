"""Measure how much faster several small training runs are if they share one GPU (`emm.py --jobs-per-gpu`).

python -m benchmarks.gpu_sharing
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from dnnlib.util import report_errors

COMMAND = ('train.py', '--data=digits', '--preset=digits', '--epochs=100000', '--tick=2', '--nosubdir', '--device=cuda')


@click.command()
@click.option('--jobs', default='1,2,4,8', help='Numbers of simultaneous runs.', show_default=True)
@click.option('--seconds', default=8.0, help='Seconds per number of runs, once all have started.', show_default=True)
@report_errors
def main(jobs: str, seconds: float) -> None:
    """Train the demo's network several times at once, and print the images per second over all runs."""
    print('| runs | images/s, all runs | relative to one run |\n|---|---|---|')
    alone = 0.0
    for count in map(int, jobs.split(',')):
        rate = total_rate(count, seconds)
        alone = alone or rate
        print(f'| {count} | {rate:.4g} | {rate / alone:.2f} |', flush=True)


def total_rate(count: int, seconds: float) -> float:
    """Images per second over `count` simultaneous runs."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, str(run)) for run in range(count)]
        commands = [[sys.executable, *COMMAND, f'--outdir={path}'] for path in paths]
        runs = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
        try:
            while not all(len(ticks(path)) > 1 for path in paths):
                if any(run.poll() is not None for run in runs):
                    raise click.ClickException('a training run has failed; see its message above')
                time.sleep(0.1)
            start = time.time()
            time.sleep(seconds)
            end = time.time()
        finally:
            for run in runs:
                run.send_signal(signal.SIGTERM)
            for run in runs:
                run.wait()
        return sum(rate([tick for tick in ticks(path) if start <= tick[0] <= end]) for path in paths)


def ticks(run_dir: Path) -> list[tuple[float, float]]:
    """The time of each tick so far, and the images seen until then."""
    path = run_dir / 'stats.jsonl'
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith('\n')]
    return [(entry['timestamp'], entry['Progress/kimg'] * 1000) for entry in entries]


def rate(found: list[tuple[float, float]]) -> float:
    """Images per second between the first and the last tick."""
    (first, before), (last, after) = found[0], found[-1]
    return (after - before) / (last - first)


if __name__ == '__main__':
    main()
