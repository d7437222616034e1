import subprocess
import sys

import pytest

from dnnlib.locks import is_locked, locked, sole_use
from dnnlib.util import UserError, remove_partial_files
from tests.helpers import environment

HOLD = """
import sys, time
from pathlib import Path
from dnnlib.locks import sole_use
with sole_use(Path(sys.argv[1]), 'it'):
    print('held', flush=True)
    time.sleep(60)
"""


def test_a_lock_refuses_other_processes_until_its_owner_dies(tmp_path):
    path = tmp_path / 'new' / '.lock'
    words = [sys.executable, '-c', HOLD, str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment()) as owner:
        assert owner.stdout.readline() == 'held\n'
        assert is_locked(path)
        with pytest.raises(UserError, match='the run is in use by another process'), sole_use(path, 'the run'):
            pass
        owner.kill()
    with sole_use(path, 'the run'):
        assert is_locked(path)
    assert not path.exists()


def test_a_removed_lock_file_is_never_held_by_two_processes(tmp_path):
    with locked(tmp_path / 'lock') as first:
        (tmp_path / 'lock').unlink()
        with locked(tmp_path / 'lock', seconds=0) as second:
            assert first is not None
            assert second is not None
            with locked(tmp_path / 'lock', seconds=0) as third:
                assert third is None


def test_a_folder_that_remains_empty_is_removed_with_its_lock(tmp_path):
    with sole_use(tmp_path / 'new' / '.lock', 'it'):
        pass
    with sole_use(tmp_path / 'used' / '.lock', 'it'):
        (tmp_path / 'used' / 'file').touch()
    assert [path.name for path in tmp_path.iterdir()] == ['used']


def test_partial_files_of_killed_processes_are_removed(tmp_path):
    with subprocess.Popen([sys.executable, '-c', '']) as ended:
        pass
    with subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE) as living:
        names = [f'a.pt.{ended.pid}.partial', f'a.pt.{living.pid}.partial', 'a.pt.mine.partial', 'a.pt', 'a.partial']
        for name in [*names, f'b.zip.{ended.pid}.partial']:
            (tmp_path / name).touch()
        remove_partial_files(tmp_path, '*.pt')
        assert {path.name for path in tmp_path.iterdir()} == {*names[1:], f'b.zip.{ended.pid}.partial'}
        living.stdin.close()
