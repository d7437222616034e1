import errno
import json
import os
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dataset_utils import archive, open_source
from dataset_utils.archive import Destination
from dataset_utils.manifest import Manifest
from dnnlib.util import UserError
from tests.dataset_utils.making import folder_state, random_images, read_zip, write_files

MANIFEST = Manifest('a.zip', '00', 'size', {'max_images': 3}, [0, 1, 2], 'none', None)
IMAGES = random_images(3)


@pytest.fixture(params=['set.zip', 'set'])
def dest(request, tmp_path) -> Path:
    return tmp_path / 'new' / request.param


def write(dest: Path, images: np.ndarray = IMAGES, labels=(0, 1, 2), overwrite: bool = False) -> None:
    with Destination(str(dest), overwrite).create() as writer:
        for image, label in zip(images, labels, strict=True):
            writer.add(image, label)
        writer.finish(MANIFEST)


def content(dest: Path) -> dict[str, bytes]:
    if dest.is_dir():
        return {str(path.relative_to(dest)): path.read_bytes() for path in dest.rglob('*') if path.is_file()}
    with zipfile.ZipFile(dest) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_an_archive_has_the_expected_names_labels_and_manifest(dest):
    write(dest)
    files = content(dest)
    names = [f'00000/img0000000{number}.png' for number in range(3)]
    assert sorted(files) == [*names, 'dataset.json', 'manifest.json']
    assert json.loads(files['dataset.json']) == {'labels': [[name, label] for label, name in enumerate(names)]}
    assert json.loads(files['manifest.json']) == {
        'source': 'a.zip',
        'source_sha256': '00',
        'rule': 'size',
        'arguments': {'max_images': 3},
        'indices': [0, 1, 2],
        'labels': 'none',
        'class_names': None,
        'version': 1,
    }
    assert np.array_equal(open_source(dest).load(), IMAGES)


def test_an_archive_has_a_thousand_images_per_folder(dest):
    write(dest, np.zeros((2001, 1, 1, 1), np.uint8), [0] * 2001)
    names = sorted(name for name in content(dest) if name.endswith('.png'))
    assert names[999:1001] == ['00000/img00000999.png', '00001/img00001000.png']
    assert names[-1] == '00002/img00002000.png'


def test_missing_labels_are_written_as_null(dest):
    write(dest, labels=[None, None, None])
    assert json.loads(content(dest)['dataset.json']) == {'labels': None}
    assert open_source(dest).labels is None


def test_the_bytes_of_an_archive_depend_on_neither_the_time_nor_the_user(tmp_path, monkeypatch):
    write(tmp_path / 'a.zip')
    monkeypatch.setattr('time.time', lambda: 2_000_000_000)
    old = os.umask(0o077)
    write(tmp_path / 'b.zip')
    os.umask(old)
    assert (tmp_path / 'a.zip').read_bytes() == (tmp_path / 'b.zip').read_bytes()


def test_an_archive_is_uncompressed_with_fixed_times_and_permissions(tmp_path):
    write(tmp_path / 'a.zip')
    with zipfile.ZipFile(tmp_path / 'a.zip') as opened:
        for info in opened.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert info.create_system == 3, 'the field must be Unix on every system'
            assert stat.filemode(info.external_attr >> 16) == '-rw-r--r--'


def test_an_incomplete_data_set_is_never_visible(dest):
    with Destination(str(dest), False).create() as writer:
        writer.add(IMAGES[0], 0)
        assert not dest.exists()
        writer.finish(MANIFEST)
    assert dest.exists()
    assert os.listdir(dest.parent) == [dest.name]


@pytest.mark.parametrize('exception', [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_no_files(dest, exception):
    def fail():
        with Destination(str(dest), False).create() as writer:
            writer.add(IMAGES[0], 0)
            raise exception

    with pytest.raises(exception):
        fail()
    assert not dest.parent.exists(), 'the new folder must be removed, too'


def test_after_a_failure_a_folder_with_other_files_stays(dest):
    def fail():
        with Destination(str(dest), False).create() as writer:
            writer.add(IMAGES[0], 0)
            (dest.parent / 'other').write_bytes(b'x')
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - raised three lines above
        fail()
    assert os.listdir(dest.parent) == ['other']


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_leaves_no_files_and_sets_the_exit_status(dest, number):
    before = signal.getsignal(number)

    def stop():
        with Destination(str(dest), False).create() as writer:
            writer.add(IMAGES[0], 0)
            signal.raise_signal(number)

    with pytest.raises(SystemExit) as stopped:
        stop()
    assert stopped.value.code == 128 + number
    assert not dest.parent.exists()
    assert signal.getsignal(number) == before


def test_an_ignored_hangup_stays_ignored(dest):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Destination(str(dest), False).create() as writer:
            writer.add(IMAGES[0], 0)
            signal.raise_signal(signal.SIGHUP)
            writer.finish(MANIFEST)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert dest.exists()


def test_a_failure_keeps_the_existing_data_set(dest):
    write(dest)
    before = folder_state(dest.parent)

    def fail():
        with Destination(str(dest), True).create() as writer:
            writer.add(IMAGES[0], 0)
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - raised three lines above
        fail()
    assert folder_state(dest.parent) == before


def test_a_full_disk_gives_a_one_sentence_error_and_keeps_existing_files(dest, monkeypatch):
    write(dest)
    before = folder_state(dest.parent)

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, 'write_bytes', full)
    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(UserError, match=r'`dest`=.*set(.zip)?: No space left on device; free some space'):
        write(dest, overwrite=True)
    assert folder_state(dest.parent) == before


def test_an_existing_data_set_is_refused_without_overwrite(dest):
    write(dest)
    with pytest.raises(UserError, match=r'`dest`=.* exists; add `overwrite`'):
        Destination(str(dest), False)


def test_overwriting_replaces_the_entire_data_set(dest):
    write(dest)
    write(dest, IMAGES[:1], [5], overwrite=True)
    assert open_source(dest).labels == [5]
    assert len(open_source(dest)) == 1
    assert os.listdir(dest.parent) == [dest.name]


def test_a_folder_is_replaced_in_one_step_so_it_is_never_missing(tmp_path, monkeypatch):
    dest = tmp_path / 'set'
    write(dest)

    def rename(self, target):
        raise AssertionError('a process killed after this step would leave no data set')

    monkeypatch.setattr(Path, 'rename', rename)
    write(dest, IMAGES[:1], [5], overwrite=True)
    assert open_source(dest).labels == [5]
    assert os.listdir(tmp_path) == ['set']


def test_partial_folders_of_killed_processes_are_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, '-c', ''])
    gone.wait()
    for name in (f'set.{gone.pid}.partial', f'set.{os.getppid()}.partial', f'other.{gone.pid}.partial'):
        (tmp_path / name / '00000').mkdir(parents=True)
    write(tmp_path / 'set')
    assert sorted(os.listdir(tmp_path)) == sorted(['set', f'set.{os.getppid()}.partial', f'other.{gone.pid}.partial'])


def test_a_folder_that_cannot_be_replaced_is_restored(tmp_path, monkeypatch):
    monkeypatch.setattr('dataset_utils.archive.exchange', lambda first, second: False)
    dest = tmp_path / 'set'
    write(dest)
    before = folder_state(tmp_path)
    rename = Path.rename

    def rename_all_but_the_new(self, target):
        if self.suffix == '.partial':
            raise OSError(errno.EIO, 'Input/output error')
        return rename(self, target)

    monkeypatch.setattr(Path, 'rename', rename_all_but_the_new)
    with pytest.raises(OSError, match='Input/output'):
        write(dest, overwrite=True)
    assert folder_state(tmp_path) == before


def test_an_empty_folder_may_be_the_destination(tmp_path):
    write(tmp_path)
    assert len(open_source(tmp_path)) == 3


@pytest.mark.parametrize(
    ('files', 'stranger'),
    [
        ({'thesis.tex': b'x'}, 'files but no dataset.json'),
        ({'dataset.json': b'{}', 'notes.txt': b'x'}, 'notes.txt, so it is not replaced'),
        ({'dataset.json': b'{}', '00000/.git/config': b'x'}, '.git/config, so it is not replaced'),
    ],
)
def test_a_folder_with_other_contents_is_never_overwritten(tmp_path, files, stranger):
    folder = write_files(tmp_path / 'set', files)
    before = folder_state(folder)
    with pytest.raises(UserError, match=stranger):
        Destination(str(folder), True)
    assert folder_state(folder) == before


def test_a_file_is_refused_as_a_folder_and_a_folder_as_an_archive(tmp_path):
    (tmp_path / 'file').write_bytes(b'x')
    (tmp_path / 'folder.zip').mkdir()
    with pytest.raises(UserError, match=r'is a file; give a name that ends in \.zip'):
        Destination(str(tmp_path / 'file'), True)
    with pytest.raises(UserError, match='is a folder'):
        Destination(str(tmp_path / 'folder.zip'), True)


@pytest.mark.parametrize('name', ['', '.zip', 'folder/.ZIP'])
def test_a_destination_without_a_name_is_refused(name):
    with pytest.raises(UserError, match=r'^`dest`=.* has no file name; add one, such as data\.zip$'):
        Destination(name, True)


@pytest.mark.parametrize('name', ['a.zip', 'a'])
def test_a_destination_below_a_file_is_refused(tmp_path, name):
    (tmp_path / 'file').write_bytes(b'x')
    with pytest.raises(UserError, match=r'file is a file, not a folder; write somewhere else$'):
        Destination(str(tmp_path / 'file' / 'deeper' / name), False)


def test_a_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(UserError, match=r'^`dest`=.* cannot be written \(File name too long\); write somewhere else$'):
        Destination(str(tmp_path / f'{"a" * 300}.zip'), False)


def test_a_destination_that_accepts_no_files_is_refused(dest, monkeypatch):
    write(dest)
    before = folder_state(dest.parent)

    def refuse(path, *arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr('builtins.open', refuse)
    monkeypatch.setattr(Path, 'mkdir', refuse)
    with pytest.raises(UserError, match=r'^`dest`=.* cannot be written \(Permission denied\); write somewhere else$'):
        write(dest, overwrite=True)
    monkeypatch.undo()
    assert folder_state(dest.parent) == before


@pytest.mark.parametrize('name', ['set.tar', 'set.tar.gz', 'set.7z', 'set.npz'])
def test_other_archive_formats_are_refused_as_destinations(tmp_path, name):
    with pytest.raises(UserError, match=r'files cannot be written; give a name that ends in \.zip'):
        Destination(str(tmp_path / name), False)


@pytest.mark.parametrize(
    ('dest', 'source'), [('a.zip', 'a.zip'), ('photos/out', 'photos'), ('photos/out.zip', 'photos'), ('.', 'photos')]
)
def test_source_and_destination_must_not_contain_each_other(tmp_path, monkeypatch, dest, source):
    monkeypatch.chdir(write_files(tmp_path / 'here', {'a.zip': b'x', 'photos/b.png': b'x'}))
    with pytest.raises(UserError, match='overlaps with the source'):
        Destination(dest, True, [source])


def test_the_root_folder_is_refused_as_a_destination(tmp_path):
    with pytest.raises(UserError, match='overlaps with the source'):
        Destination('/', True, [str(tmp_path)])
    with pytest.raises(UserError, match='exists; add `overwrite`'):
        Destination('/', False)


def test_source_and_destination_may_be_in_the_same_folder(tmp_path):
    write_files(tmp_path, {'a.zip': b'x'})
    Destination(str(tmp_path / 'b.zip'), False, [str(tmp_path / 'a.zip'), 'digits'])


@pytest.mark.parametrize('source', ['', 'a' * 300])
def test_an_impossible_source_is_left_to_the_code_that_reads_it(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    Destination('b.zip', False, [source])


def test_more_entries_than_plain_zip_allows_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, 'IMAGES_PER_FOLDER', 100_000)
    write(tmp_path / 'a.zip', np.zeros((66_000, 1, 1, 1), np.uint8), [0] * 66_000)
    assert len(open_source(tmp_path / 'a.zip')) == 66_000


def test_edm_reads_the_written_archive(tmp_path):
    write(tmp_path / 'a.zip')
    images, labels, _ = read_zip(tmp_path / 'a.zip')
    assert np.array_equal(images, IMAGES)
    assert labels == [0, 1, 2]
