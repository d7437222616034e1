import pytest

from studies import run_study


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(run_study, 'SECONDS_BETWEEN_LOOKS', 0.001)
