import functools
import hashlib
import http.server
import json
import threading
from functools import partial

import numpy as np
import PIL.Image
import pytest

import generate
import mem_ratio
import train
from dataset_utils import open_source
from dnnlib.locks import sole_use
from evaluation import generators, one_pass
from tests.helpers import TINY, failure_of, invoke, run_script
from tests.training.edm_pickles import pickle_of
from training.snapshot import list_snapshots

run = partial(invoke, generate.main)
failure = partial(failure_of, generate.main)


@pytest.fixture(scope='module')
def snapshot(digits_20, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp('run')
    arguments = [
        f'--outdir={run_dir}',
        '--nosubdir',
        f'--data={digits_20}',
        *TINY,
        '--batch=20',
        '--epochs=20',
        '--cond=1',
        '--seed=1',
    ]
    assert invoke(train.main, *arguments).exit_code == 0
    return list_snapshots(run_dir)[-1][1]


def read(folder):
    return {path.name: np.asarray(PIL.Image.open(path)) for path in sorted(folder.rglob('*.png'))}


def test_an_image_depends_on_its_seed_and_its_class(snapshot, tmp_path):
    for name, options in [('a', []), ('b', ['--batch=4']), ('c', ['--class=1']), ('d', ['--class=2'])]:
        result = run(f'--network={snapshot}', f'--outdir={tmp_path}/{name}', '--seeds=3-11', '--steps=5', *options)
        assert result.exit_code == 0, result.output
    a, b, c, d = (read(tmp_path / name) for name in 'abcd')
    assert list(a) == [f'{seed:06d}.png' for seed in range(3, 12)]
    for name in a:
        assert int(np.abs(a[name].astype(int) - b[name]).max()) <= 1
    assert any((c[name] != d[name]).any() for name in a)


def test_an_interrupted_run_resumes_with_complete_batches(snapshot, tmp_path):
    """Of three batches (seeds 3-4, 5-6 and 7-8), the second lacks an image, and only this batch is sampled again."""
    arguments = [f'--network={snapshot}', f'--outdir={tmp_path}/o', '--seeds=3-8', '--batch=2', '--steps=4']
    assert run(*arguments).exit_code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / 'o').glob('*.png')}
    (tmp_path / 'o' / '000006.png').unlink()
    for seed in (3, 4, 7, 8):
        (tmp_path / 'o' / f'{seed:06d}.png').write_bytes(b'left alone')
    assert run(*arguments).exit_code == 0
    for name, image in before.items():
        assert (tmp_path / 'o' / name).read_bytes() == (
            image if name in ('000005.png', '000006.png') else b'left alone'
        )


def test_a_folder_contains_images_of_only_one_network_and_sampler(snapshot, tmp_path):
    other = snapshot.with_name('other.safetensors')
    other.write_bytes(list_snapshots(snapshot.parent)[0][1].read_bytes())
    common = [f'--outdir={tmp_path}/o', '--steps=3']
    assert run(f'--network={snapshot}', *common, '--seeds=0-1').exit_code == 0
    assert run(f'--network={snapshot}', *common, '--seeds=1-2').exit_code == 0
    assert len(read(tmp_path / 'o')) == 3
    for network, option, difference in [
        (other, '--seeds=5', 'generator was'),
        (snapshot, '--steps=4', 'num_steps'),
        (snapshot, '--class=2', 'class_index was None, not 2'),
        (snapshot, '--precision=bf16', 'precision was fp32, not bf16'),
    ]:
        result = run(f'--network={network}', *common, option)
        assert result.exit_code == 1
        kind = 'made with another network' if network == other else 'made with other settings'
        assert f'--outdir={tmp_path}/o contains images {kind}' in result.stderr
        assert difference in result.stderr
    (tmp_path / 'unknown').mkdir()
    (tmp_path / 'unknown' / '000000.png').write_bytes(b'')
    result = run(f'--network={snapshot}', f'--outdir={tmp_path}/unknown')
    assert 'contains images of unknown origin' in result.stderr
    other.unlink()


def test_a_folder_in_use_by_another_process_is_refused(snapshot, tmp_path):
    with sole_use(tmp_path / 'o' / '.lock', 'the test'):
        message = failure(f'--network={snapshot}', f'--outdir={tmp_path}/o', '--seeds=0', '--steps=2')
        assert f'--outdir={tmp_path}/o is in use by another process' in message
        assert [path.name for path in (tmp_path / 'o').iterdir()] == ['.lock']
    assert run(f'--network={snapshot}', f'--outdir={tmp_path}/o', '--seeds=0', '--steps=2').exit_code == 0
    assert {path.name for path in (tmp_path / 'o').iterdir()} == {'000000.png', 'settings.json'}


def test_images_are_never_stored_in_two_layouts(snapshot, tmp_path):
    common = f'--network={snapshot}', '--steps=2', '--seeds=998-1001'
    flat, divided = [*common, f'--outdir={tmp_path}/flat'], [*common, f'--outdir={tmp_path}/divided', '--subdirs']
    for arguments in (flat, divided, flat, divided):
        assert run(*arguments).exit_code == 0
    assert 'flat contains images outside subfolders; remove --subdirs, or choose' in failure(*flat, '--subdirs')
    assert 'divided contains images in subfolders; add --subdirs, or choose' in failure(*divided[:-1])
    assert [len(list((tmp_path / name).glob('**/*.png'))) for name in ('flat', 'divided')] == [4, 4]


def test_the_contact_sheet_shows_all_seeds_in_order(snapshot, tmp_path):
    grid = tmp_path / 'grid.png'
    assert (
        run(
            f'--network={snapshot}',
            f'--outdir={tmp_path}/o',
            '--seeds=5,2,9',
            '--steps=3',
            f'--grid={grid}',
        ).exit_code
        == 0
    )
    images, sheet = read(tmp_path / 'o'), np.asarray(PIL.Image.open(grid))[::16, ::16]
    np.testing.assert_array_equal(sheet[:8, :8], images['000005.png'])
    np.testing.assert_array_equal(sheet[:8, 8:], images['000002.png'])
    np.testing.assert_array_equal(sheet[8:, :8], images['000009.png'])


@pytest.mark.slow
def test_images_do_not_depend_on_the_number_of_ranks(snapshot, tmp_path):
    found = []
    for ranks in (1, 2, 3):
        out = tmp_path / str(ranks)
        run_script('generate.py', f'--network={snapshot}', f'--outdir={out}', '--seeds=0-9', '--batch=4', '--steps=5',
                   f'--grid={out}.png', ranks=ranks)  # fmt: skip
        run_script('generate.py', f'--network={snapshot}', f'--outdir={out}.npz', '--seeds=0-9', '--batch=4',
                   '--steps=5', ranks=ranks)  # fmt: skip
        found.append({name: image.tolist() for name, image in read(out).items()})
        with np.load(f'{out}.npz') as file:
            assert file['arr_0'][..., 0].tolist() == list(found[-1].values())
        assert PIL.Image.open(f'{out}.png').size == (16 * 32, 16 * 24)
    assert found[0] == found[1] == found[2]


def test_images_in_an_npz_file_equal_those_in_a_folder(snapshot, tmp_path):
    common = [f'--network={snapshot}', '--seeds=5,2,9-12', '--steps=3', '--batch=4']
    for name in ('folder', 'all.npz', 'all.npy'):
        grid = f'--grid={tmp_path}/{name}.png'
        assert run(*common, f'--outdir={tmp_path}/{name}', grid).exit_code == 0
    expected = np.stack([read(tmp_path / 'folder')[f'{seed:06d}.png'] for seed in (5, 2, 9, 10, 11, 12)])
    for name in ('all.npz', 'all.npy'):
        source = open_source(tmp_path / name)
        np.testing.assert_array_equal(source.load()[..., 0], expected)
        sheets = [np.asarray(PIL.Image.open(f'{tmp_path}/{sheet}.png')) for sheet in ('folder', name)]
        np.testing.assert_array_equal(sheets[0], sheets[1])
    with np.load(tmp_path / 'all.npz') as file:
        assert file['seeds'].tolist() == [5, 2, 9, 10, 11, 12]
        assert file['arr_1'].shape == (6,)
    assert sorted(path.name for path in tmp_path.glob('*all.np*')) == [
        'all.npy',
        'all.npy.png',
        'all.npz',
        'all.npz.png',
    ]
    evaluated = invoke(
        mem_ratio.main, f'--images={tmp_path}/all.npz', f'--images={tmp_path}/folder', '--knn-ref=digits', '--json'
    )
    first, second = map(json.loads, evaluated.stdout.splitlines())
    assert first['mean_distance'] == second['mean_distance']


def test_a_finished_npz_file_is_kept_and_never_overwritten(snapshot, tmp_path, monkeypatch):
    common = [f'--network={snapshot}', '--seeds=0-2', '--steps=3']
    for name in ('all.npz', 'all.npy'):
        assert run(*common, f'--outdir={tmp_path}/{name}').exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(generators, 'generate_images', None)
    assert run(*common, f'--outdir={tmp_path}/all.npz').exit_code == 0
    for options in (['--steps=4'], ['--seeds=0-3'], ['--class=1']):
        message = failure(*common, *options, f'--outdir={tmp_path}/all.npz')
        assert f'--outdir={tmp_path}/all.npz already exists, perhaps with other images; remove it or choose' in message
    assert 'perhaps with other images' in failure(*common, f'--outdir={tmp_path}/all.npy')
    message = failure(*common, '--subdirs', f'--outdir={tmp_path}/new.npz', status=2)
    assert 'is a file; remove --subdirs, or give a folder' in message
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_contact_sheet_never_replaces_another_kind_of_file(snapshot, tmp_path):
    common = f'--network={snapshot}', f'--outdir={tmp_path}/o', '--seeds=0-1', '--steps=2'
    for name, problem in (('data.zip', 'does not end in .png'), ('photo.png', 'is an image from another source')):
        path = tmp_path / name
        path.write_bytes(b'data')
        assert f'--grid={path}' in (message := failure(*common, f'--grid={path}'))
        assert problem in message
        assert path.read_bytes() == b'data'
    assert not (tmp_path / 'o').exists()
    for _ in range(2):
        assert run(*common, f'--grid={tmp_path}/o/grid.png').exit_code == 0


@pytest.mark.parametrize('ending', ['npz', 'npy'])
def test_an_interrupted_npz_file_is_resumed_batch_by_batch(snapshot, tmp_path, monkeypatch, ending):
    common = [f'--network={snapshot}', '--seeds=0-7', '--steps=3', '--batch=2']
    assert run(*common, f'--outdir={tmp_path}/whole.{ending}').exit_code == 0
    sampled = []
    sampler = generators.generate_images

    def interrupted(*arguments):
        for place, batch in enumerate(sampler(*arguments)):
            sampled.extend(batch.seeds)
            yield batch
            if place == 1 and len(sampled) == 4:
                raise KeyboardInterrupt

    monkeypatch.setattr(generators, 'generate_images', interrupted)
    monkeypatch.setattr(one_pass, 'SECONDS_BETWEEN_SAVES', 0)
    assert run(*common, f'--outdir={tmp_path}/out.{ending}').exit_code == 130
    assert not (tmp_path / f'out.{ending}').exists()
    result = run(*common, f'--outdir={tmp_path}/out.{ending}')
    assert result.exit_code == 0, result.output
    assert sampled == list(range(8))
    assert (tmp_path / f'out.{ending}').read_bytes() == (tmp_path / f'whole.{ending}').read_bytes()
    assert not (tmp_path / f'out.{ending}.partial').exists()


@pytest.mark.parametrize(
    ('options', 'message', 'status'),
    [
        (['--network=other'], '--network is given 2 times; run the command for each', 2),
        (['--class=10'], 'the denoiser has 10 classes', 1),
        (['--seeds=x'], '--seeds', 2),
        (['--seeds=7,4294967296'], '4294967296 is too large', 2),
        (['--seeds=4294967290-4294967300'], '4294967300 is too large', 2),
        (['--steps=1'], '--steps', 2),
    ],
)
def test_invalid_requests_give_a_one_sentence_error(snapshot, tmp_path, options, message, status):
    result = run(f'--network={snapshot}', f'--outdir={tmp_path}/o', *options)
    assert result.exit_code == status
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / 'o').exists()


def test_a_missing_network_is_named(tmp_path):
    assert 'nowhere: no such file or folder; give a run folder' in failure('--network=nowhere', f'--outdir={tmp_path}')


def test_an_edm_pickle_gives_the_images_of_its_network(snapshot, tmp_path):
    path = tmp_path / 'network.pkl'
    path.write_bytes(pickle_of(snapshot))
    for name, network in [('a', snapshot), ('b', path)]:
        result = run(f'--network={network}', f'--outdir={tmp_path}/{name}', '--seeds=3-5', '--steps=4')
        assert result.exit_code == 0, result.output
    a, b = (read(tmp_path / name) for name in 'ab')
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.fixture
def served(tmp_path):
    """A folder and the URL of a local server that serves its files."""
    folder = tmp_path / 'served'
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f'http://127.0.0.1:{server.server_address[1]}'
        server.shutdown()


def test_a_downloaded_network_is_checked_and_used(snapshot, served, tmp_path):
    folder, url = served
    (folder / 'net.pkl').write_bytes(pickle_of(snapshot))
    sha256 = hashlib.sha256((folder / 'net.pkl').read_bytes()).hexdigest()
    common = [f'--network={url}/net.pkl', f'--cache-dir={tmp_path}/cache', f'--sha256={sha256}']
    result = run(*common, '--download-only')
    assert result.exit_code == 0, result.output
    cached = next((tmp_path / 'cache').glob('*.pkl'))
    assert result.stdout == f'{cached}\n'
    (folder / 'net.pkl').unlink()
    result = run(*common, f'--outdir={tmp_path}/out', '--seeds=3-4', '--steps=4')
    assert result.exit_code == 0, result.output
    assert list(read(tmp_path / 'out')) == ['000003.png', '000004.png']


def test_a_failed_download_gives_a_one_sentence_error(snapshot, served, tmp_path):
    _, url = served
    common = [f'--cache-dir={tmp_path}/cache', f'--sha256={"0" * 64}', f'--outdir={tmp_path}/o']
    for network, message in [
        (f'{url}/net.pkl', f"Error: {url}/net.pkl: the server answered 404 'File not found'"),
        ('ftp://127.0.0.1/x', 'only file, http and https'),
        (snapshot, 'it is a different file'),
    ]:
        result = run(f'--network={network}', *common)
        assert result.exit_code == 1
        assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / 'o').exists()
    assert '--outdir is missing' in run(f'--network={snapshot}').stderr
