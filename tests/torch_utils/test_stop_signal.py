import itertools
import signal
import time

import pytest

from torch_utils import distributed
from torch_utils.stop_signal import StopSignal


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_remembered_and_the_old_handlers_are_restored(number):
    before, stop = signal.getsignal(number), StopSignal()
    with stop.listen():
        assert not stop.agreed()
        signal.raise_signal(number)
        assert stop.agreed()
    assert stop.number == number
    assert signal.getsignal(number) == before


@pytest.mark.parametrize('torchrun', [False, True])
def test_under_nohup_a_hangup_is_ignored_unless_torchrun_sends_it(monkeypatch, torchrun):
    if torchrun:
        monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'x')
    before, stop = signal.signal(signal.SIGHUP, signal.SIG_IGN), StopSignal()
    try:
        with stop.listen():
            signal.raise_signal(signal.SIGHUP)
        assert stop.number == (signal.SIGHUP if torchrun else 0)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_interrupts_at_once():
    stop = StopSignal()
    with stop.listen():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.number == signal.SIGINT


@pytest.mark.parametrize('seconds', [0.01, 1.0, 60.0])
def test_ranks_exchange_signals_rarely_but_notice_one_within_seconds(monkeypatch, seconds):
    """The clock is simulated: each step takes `seconds`, and another rank receives a signal after 400 seconds."""
    now, asked = [0.0], []

    def gather(number):
        asked.append(now[0])
        return [number, signal.SIGTERM if now[0] >= 400 else 0]

    monkeypatch.setattr(time, 'monotonic', lambda: now[0])
    monkeypatch.setattr(distributed, 'world_size', lambda: 2)
    monkeypatch.setattr(distributed, 'gather', gather)
    monkeypatch.setattr(distributed, 'broadcast', lambda value: value)
    stop = StopSignal()
    now[0] += seconds
    while not stop.agreed():
        now[0] += seconds
    assert stop.number == signal.SIGTERM
    assert now[0] <= 400 + max(5.0, seconds) + 1e-6
    gaps = [later - before for before, later in itertools.pairwise(asked)]
    assert max(gaps) <= max(5.0, seconds) + 1e-6
    assert min(gaps[12:], default=seconds) >= min(4.9, seconds) or seconds > 5
