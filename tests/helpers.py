"""Helpers shared by tests: paths of reference data, options of a small network, and functions that run the scripts."""

import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / 'tests' / 'data'
needs_cifar10 = pytest.mark.skipif('CIFAR10_ARCHIVE' not in os.environ, reason='CIFAR10_ARCHIVE is not set')

# Options of a network whose training steps take milliseconds.
TINY = ['--num-channels=8', '--num-blocks=1', '--attn-resolutions=4', '--precond=vp', '--augment=0', '--dropout=0.1']


def run_script(*arguments: str | Path, ranks: int = 1, check: bool = True, **kwargs) -> subprocess.CompletedProcess:
    """Run a script in a new process with one thread per rank, under torchrun if there are several ranks."""
    return subprocess.run(
        command(*arguments, ranks=ranks), check=check, capture_output=True, text=True, env=environment(), **kwargs
    )


def command(*arguments: str | Path, ranks: int = 1) -> list[str]:
    launcher = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={ranks}'] if ranks > 1 else []
    script, *rest = (str(argument) for argument in arguments)
    script = script if script.startswith('-') else str(ROOT / script)
    return [sys.executable, *launcher, script, *rest]


def environment() -> dict[str, str]:
    """Environment with the project on PYTHONPATH and one thread (tests run in parallel)."""
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}


def invoke(command: click.Command, *arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def refusal(result: Result, status: int = 1) -> str:
    """Return the error message of a command that failed; check that stderr has no traceback and no other line except
    usage hints."""
    assert result.exit_code == status, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    lines = [line for line in result.stderr.splitlines() if not line.startswith(('Usage:', 'Try ')) and line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith('Error: '), lines
    return lines[0]


def failure_of(command: click.Command, *arguments: object, status: int = 1) -> str:
    """Run a command that must fail, and return its error message."""
    return refusal(invoke(command, *arguments), status)


def cifar10_pixels(batch: str) -> np.ndarray:
    """Images of a CIFAR-10 batch, uint8 [10000, 3, 32, 32], read with pickle alone."""
    with tarfile.open(os.environ['CIFAR10_ARCHIVE']) as archive:
        file = archive.extractfile(f'cifar-10-batches-py/{batch}')
        assert file is not None
        return pickle.load(file, encoding='bytes')[b'data'].reshape(-1, 3, 32, 32)
