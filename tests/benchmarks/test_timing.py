"""Tests of the shared timing code, on work that takes a known time."""

import json
import sys
import time

import pytest
import torch

from benchmarks import all as everything
from benchmarks.edm_checkout import edm_modules
from benchmarks.timing import TimingOptions, Way, compare, peak_megabytes
from dnnlib.util import UserError

CPU = torch.device('cpu')


def working(seconds):
    """A function that uses this many seconds of processor time."""

    def run():
        start = time.process_time()
        while time.process_time() - start < seconds:
            pass

    return run


def test_implementations_run_in_turn_and_are_compared_with_the_fastest_baseline(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    order: list[str] = []

    def way(name, amount, seconds, plain):
        def run():
            order.append(name)
            working(seconds)()

        return Way(name, amount, run, plain)

    ways = [way('ours', 4, 0.01, False), way('slow', 1, 0.02, True), way('fast', 2, 0.02, True)]
    out = tmp_path / 'out.jsonl'
    timings = compare('work', 'units', ways, CPU, TimingOptions(seconds=0.05, out=out))
    assert order[:6] == ['ours', 'slow', 'fast'] * 2
    assert [timing.per_second for timing in timings] == pytest.approx([400, 50, 100], rel=0.2)
    assert [timing.times_plain for timing in timings] == pytest.approx([4, 0.5, 1], rel=0.2)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line['way'] for line in lines] == ['ours', 'slow', 'fast']
    assert all(line['torch'] == torch.__version__ and '1 thread' in line['machine'] for line in lines)
    assert capsys.readouterr().out.count('\n| ') == 4


def test_peak_memory_includes_only_the_timed_implementation():
    def large():
        return bytearray(300 * 10**6)

    ways = [Way('large', 1, large), Way('small', 1, lambda: None)]
    timings = compare('memory', 'units', ways, CPU, TimingOptions(seconds=0.01))
    assert timings[0].megabytes - timings[1].megabytes == pytest.approx(300, abs=60)


def test_peak_gpu_memory_does_not_include_what_was_allocated_before(monkeypatch):
    sizes = {'memory_allocated': 7_000_000_000, 'max_memory_allocated': 7_300_000_000}
    for name, size in sizes.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, size=size: size)
    for name in ('reset_peak_memory_stats', 'synchronize'):
        monkeypatch.setattr(torch.cuda, name, lambda device: None)
    assert peak_megabytes(lambda: None, torch.device('cuda')) == 300


def test_modules_of_an_edm_checkout_do_not_replace_ours(tmp_path):
    for name in ('training', 'torch_utils'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').touch()
    (tmp_path / 'torch_utils' / 'persistence.py').write_text('theirs = True\n')
    (tmp_path / 'training' / 'networks.py').write_text('from torch_utils.persistence import theirs\n')
    (tmp_path / 'training' / 'loss.py').write_text('name = "loss"\n')
    import training.loss

    networks, loss = edm_modules(tmp_path)
    assert networks.theirs
    assert loss.name == 'loss'
    assert sys.modules['training.loss'] is training.loss
    assert str(tmp_path) not in sys.path
    with pytest.raises(UserError, match='not a checkout of NVlabs/edm'):
        edm_modules(tmp_path / 'nowhere')


def test_the_main_benchmarks_run_on_any_device():
    assert len(everything.comparisons(everything.AllOptions(device='cpu'))) == 4
