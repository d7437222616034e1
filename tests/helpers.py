"""What several tests use: the reference data, small networks, and the scripts as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / 'tests' / 'data'

# A network that trains a step in milliseconds.
TINY = ['--num-channels=8', '--num-blocks=1', '--attn-resolutions=4', '--precond=vp', '--augment=0', '--dropout=0.1']


def run_script(*arguments: str | Path, ranks: int = 1, check: bool = True, **kwargs) -> subprocess.CompletedProcess:
    """Run a script of the project as a user does, under torchrun for more than one rank; one thread for each rank."""
    return subprocess.run(
        command(*arguments, ranks=ranks), check=check, capture_output=True, text=True, env=environment(), **kwargs
    )


def command(*arguments: str | Path, ranks: int = 1) -> list[str]:
    launcher = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={ranks}'] if ranks > 1 else []
    script, *rest = (str(argument) for argument in arguments)
    script = script if script.startswith('-') else str(ROOT / script)
    return [sys.executable, *launcher, script, *rest]


def environment() -> dict[str, str]:
    """One thread, since tests run beside one another, and the project on the path."""
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
