"""When every rank fails with the same error, even while parsing the options, the error is printed once."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from dnnlib import util
from tests.helpers import ROOT, environment, run_script

MISTAKES = [
    ['train.py', '--outdir=x', '--data=digits', '--batch=0'],
    ['train.py', '--outdir=x'],
    ['generate.py', '--network=x', '--outdir=y', '--seeds=1-'],
    ['generate.py', '--network=x', '--outdir=y', '--sigma_min=3', '--sigma_max=2'],
    ['generate_optim.py', '--data=digits', '--outdir=x', '--nonsense'],
    ['mem_ratio.py', '--expdir=x', '--network=y', 'z'],
    ['fid.py', 'calc', '--ref=x', '--num=1'],
    ['fid.py', 'nonsense'],
    ['diagnose.py', 'levels', '--levels=a'],
]


@pytest.mark.parametrize('arguments', MISTAKES, ids=' '.join)
def test_an_error_in_the_options_is_printed_only_by_the_first_rank(arguments):
    code = (
        f'import sys; sys.argv = {arguments}\n'
        'from dnnlib import util; util.SECONDS_TO_REPORT = 0\n'
        f'import runpy; runpy.run_path({arguments[0]!r}, run_name="__main__")'
    )

    def run(rank: int) -> subprocess.CompletedProcess:
        variables = {**environment(), 'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': '2'}
        return subprocess.run(
            [sys.executable, '-c', code], cwd=ROOT, env=variables, capture_output=True, text=True, check=False
        )

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, range(2))
    assert (first.returncode, second.returncode) == (2, 2)
    assert first.stderr.count('Error: ') == 1
    assert second.stderr == second.stdout == ''


def test_other_ranks_wait_for_the_main_rank_to_report_an_error(monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(util.time, 'sleep', waited.append)
    monkeypatch.setitem(os.environ, 'RANK', '1')
    assert not util._is_main_rank('a mistake')
    monkeypatch.setitem(os.environ, 'RANK', '0')
    assert util._is_main_rank('a mistake')
    assert waited == [util.SECONDS_TO_REPORT]


@pytest.mark.slow
def test_a_wrong_option_is_printed_once_under_torchrun():
    result = run_script('generate.py', '--network=x', '--outdir=y', '--seeds=1-', ranks=2, check=False)
    assert [line for line in result.stderr.splitlines() if line.startswith('Error: ')] == [
        "Error: Invalid value for '--seeds': '1-' is neither a seed nor a range of seeds; give one such as 7 or 0-63"
    ]
