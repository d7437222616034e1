"""Launchers are chosen by name, and a new one needs only a module and an entry in the registry."""

import sys
import types

import pytest

from dnnlib.util import ArgumentError, UserError
from studies.launchers.contract import LAUNCHERS, make_launcher
from studies.launchers.local import LocalLauncher
from studies.study_options import LaunchOptions


def test_a_new_launcher_needs_one_module_and_one_line(tmp_path, monkeypatch):
    module = types.ModuleType('my_launcher')
    module.make_launcher = lambda root, options: (root, options.jobs)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'my_launcher', module)
    monkeypatch.setitem(LAUNCHERS, 'mine', 'my_launcher')
    assert make_launcher(tmp_path, LaunchOptions(launcher='mine', jobs=3)) == (tmp_path, 3)


def test_launchers_are_chosen_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    launcher = make_launcher(tmp_path, LaunchOptions(jobs=2))
    assert isinstance(launcher, LocalLauncher)
    assert launcher.capacity == 2
    with pytest.raises(UserError, match='`launcher`=cloud: choose one of local, slurm'):
        make_launcher(tmp_path, LaunchOptions(launcher='cloud'))


def test_points_of_small_networks_share_the_gpus_evenly(tmp_path, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,3')
    launcher = make_launcher(tmp_path, LaunchOptions(jobs_per_gpu=2))
    assert isinstance(launcher, LocalLauncher)
    assert launcher.capacity == 4
    assert [launcher.shares.get()['CUDA_VISIBLE_DEVICES'] for _ in range(4)] == ['0', '3', '0', '3']
    with pytest.raises(UserError, match='`jobs`=5'):
        make_launcher(tmp_path, LaunchOptions(jobs_per_gpu=2, jobs=5)).require_resources()
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    with pytest.raises(ArgumentError, match='`jobs_per_gpu` requires a GPU'):
        make_launcher(tmp_path, LaunchOptions(jobs_per_gpu=2))
