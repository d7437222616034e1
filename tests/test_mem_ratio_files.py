"""The files that mem_ratio.py writes never replace its inputs, unrelated files, or one another."""

from functools import partial

import numpy as np
import PIL.Image
import pytest

import mem_ratio
import train
from tests.helpers import TINY, failure_of, invoke
from training.dataset import load_dataset
from training.snapshot import list_snapshots

run = partial(invoke, mem_ratio.main)
failure = partial(failure_of, mem_ratio.main)


@pytest.fixture(scope='module')
def snapshot(digits_20, tmp_path_factory):
    """The last of a run's snapshots, whose folder contains no other files than those of the run."""
    folder = tmp_path_factory.mktemp('one')
    arguments = [f'--outdir={folder}', '--nosubdir', f'--data={digits_20}', *TINY, '--batch=20', '--epochs=50']
    assert invoke(train.main, *arguments, '--snapshots=2').exit_code == 0
    return list_snapshots(folder)[-1][1]


@pytest.fixture
def array(digits_20, tmp_path):
    np.save(tmp_path / 'made.npy', load_dataset(str(digits_20)).images)
    return tmp_path / 'made.npy'


def test_replacing_the_images_of_another_network_is_announced(snapshot, digits_20, tmp_path):
    (_, first), (_, second), *_ = list_snapshots(snapshot.parent)
    common = f'--knn-ref={digits_20}', '--seeds=0-3', '--steps=2'
    notice = f'Note: {tmp_path}/mem_best.npz and the pictures and tables next to it are from an evaluation with other'
    assert notice not in run(f'--network={first}', *common, f'--log={tmp_path}/a.log').output
    for network, former, log in ((second, first, 'a'), (first, second, 'a'), (second, first, 'b')):
        arguments = f'--network={network}', *common, f'--log={tmp_path}/{log}.log'
        assert f'{notice} settings (snapshot={network.name} instead of {former.name}, ' in run(*arguments).output
        assert notice not in run(*arguments).output
    both = f'--expdir={snapshot.parent}', *common, f'--log={tmp_path}/a.log'
    assert notice not in run(*both).output


@pytest.mark.parametrize('option', ['--table=file.csv', '--copied=file.csv', '--gallery=file.png', '--log=file.log'])
def test_an_unwritable_output_file_is_named_before_anything_is_evaluated(
    option, snapshot, digits_20, tmp_path, monkeypatch
):
    common = f'--network={snapshot}', f'--knn-ref={digits_20}'
    option, name = option.split('=')
    message = failure(*common, f'{option}={tmp_path}/none/{name}')
    assert f'{option}={tmp_path}/none/{name}: there is no folder {tmp_path}/none' in message
    assert f'{option}={tmp_path}: is a folder' in failure(*common, f'{option}={tmp_path}')
    other = tmp_path / 'samples.npz'
    other.write_bytes(b'samples')
    assert f'{option}={other}: does not end in {name[-4:]}' in failure(*common, f'{option}={other}')
    assert other.read_bytes() == b'samples'
    monkeypatch.setattr('os.access', lambda path, mode: path != tmp_path)
    assert f'{option}={tmp_path}/{name}: the folder is read-only' in failure(*common, f'{option}={tmp_path}/{name}')


def test_an_output_never_replaces_an_input_or_an_unrelated_file(snapshot, digits_20, array, tmp_path):
    given = f'--images={array}', f'--knn-ref={digits_20}'
    np.savez(tmp_path / 'mem_best.npz', images=np.load(array))
    message = failure(f'--network={snapshot}', f'--knn-ref={tmp_path}/mem_best.npz', f'--log={tmp_path}/a.log')
    assert f'--log would replace {tmp_path}/mem_best.npz, which is an input (--knn-ref)' in message
    PIL.Image.new('L', (8, 8)).save(tmp_path / 'photo.png')
    names = sorted(tmp_path.iterdir())
    before = [path.read_bytes() for path in names]
    assert f'--gallery={tmp_path}/photo.png is an image from another' in failure(
        *given, f'--gallery={tmp_path}/photo.png'
    )
    for beside in ('who.png', 'who_classes.csv'):
        (tmp_path / beside).write_bytes(b'unrelated')
        message = failure(*given, f'--copied={tmp_path}/who.csv')
        assert f'--copied={tmp_path}/who.csv: {beside} is also written, but exists already' in message
        assert (tmp_path / beside).read_bytes() == b'unrelated'
        (tmp_path / beside).unlink()
    assert sorted(tmp_path.iterdir()) == names
    assert [path.read_bytes() for path in names] == before
    outputs = [f'--gallery={tmp_path}/a.png', f'--copied={tmp_path}/who.csv', f'--table={tmp_path}/a.csv']
    first, second = (run(*given, *outputs) for _ in range(2))
    assert (first.exit_code, first.output) == (0, second.output)
    (tmp_path / 'own').mkdir()
    sampled = f'--network={snapshot}', given[1], '--seeds=0-3', '--steps=2', f'--log={tmp_path}/own/a.log'
    (tmp_path / 'own' / 'mem_copied_classes.csv').write_text('left after mem_copied.csv was deleted')
    result = run(*sampled)
    assert result.exit_code == 0, result.output
    assert (tmp_path / 'own' / 'mem_copied.csv').exists()


def test_two_output_files_must_differ(snapshot, digits_20, tmp_path):
    common = f'--network={snapshot}', f'--knn-ref={digits_20}'
    message = failure(*common, f'--table={tmp_path}/t.csv', f'--copied={tmp_path}/t.csv')
    assert f'--table and --copied are the same file, {tmp_path}/t.csv' in message
    (tmp_path / 'link').symlink_to(tmp_path)
    copied = f'--copied={tmp_path}/link/t.csv'
    for option, name in (('--table', 't.csv'), ('--table', 't_classes.csv'), ('--gallery', 't.png')):
        assert f'{option} and --copied are the same file' in failure(*common, copied, f'{option}={tmp_path}/{name}')


def test_a_dry_run_checks_the_output_files(snapshot, digits_20, tmp_path):
    common = '--dry-run', f'--network={snapshot}', f'--knn-ref={digits_20}'
    for option, name in (('--log', 'a.log'), ('--gallery', 'a.png'), ('--table', 'a.csv'), ('--copied', 'a.csv')):
        message = failure(*common, f'{option}={tmp_path}/none/{name}')
        assert f'{option}={tmp_path}/none/{name}: there is no folder {tmp_path}/none' in message
    message = failure(*common, f'--table={tmp_path}/t.csv', f'--copied={tmp_path}/t.csv')
    assert f'--table and --copied are the same file, {tmp_path}/t.csv' in message
    assert list(tmp_path.iterdir()) == []


def test_a_failed_evaluation_leaves_no_partial_files(digits_20, array, tmp_path):
    before = sorted(tmp_path.iterdir())
    failure(f'--images={array}', f'--images={tmp_path}/none.npy', f'--knn-ref={digits_20}',
            f'--table={tmp_path}/table.csv', f'--gallery={tmp_path}/gallery.png')  # fmt: skip
    assert sorted(tmp_path.iterdir()) == before
