"""A damaged or replaced file in a folder of results gives a clear error or is written again."""

import json
import math
import shutil
from functools import partial

import numpy as np
import pytest
import torch

import generate
import generate_optim
import mem_ratio
import train
from tests.helpers import TINY, failure_of, invoke
from training.snapshot import list_snapshots, list_states

SAMPLING = ['--seeds=0-3', '--steps=2', '--device=cpu']
NESTED = b'[' * 100_000


def start_of(text: bytes) -> str:
    return str(text[:9])


@pytest.fixture(scope='module')
def original(digits_20, tmp_path_factory):
    """Folder of an evaluated run that was trained on 40 images in total."""
    folder = tmp_path_factory.mktemp('original') / 'run'
    common = ['--nosubdir', f'--data={digits_20}', *TINY, '--batch=20', '--epochs=2', '--snapshots=1', '--seed=1']
    assert invoke(train.main, f'--outdir={folder}', *common).exit_code == 0
    assert invoke(mem_ratio.main, f'--expdir={folder}', *SAMPLING).exit_code == 0
    return folder


@pytest.fixture
def run_dir(original, tmp_path):
    return shutil.copytree(original, tmp_path / 'run')


@pytest.fixture
def resume(run_dir, digits_20):
    """A function that resumes the run for one more epoch."""
    return partial(invoke, train.main, f'--outdir={run_dir}', f'--data={digits_20}', '--nosubdir', '--epochs=3')


@pytest.mark.parametrize(
    'change',
    [
        *({'lr': value} for value in (math.nan, math.inf, -1)),
        *(
            {'batch': 0},
            {'arch': 'x'},
            {'epochs': None, 'duration': math.inf},
            {'seed': -1},
            {'num_blocks': 0},
            {'tick': 10**400},
        ),
        *({'snapshots': -1}, {'cres': [10**9]}, {'dropout': 1}),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused_when_a_run_resumes(change, run_dir, digits_20):
    path = run_dir / 'training_options.json'
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, 'options': {**saved['options'], **change}}))
    before = {file: file.read_bytes() for file in run_dir.iterdir()}
    result = invoke(train.main, f'--resume={run_dir}', f'--outdir={run_dir}', f'--data={digits_20}')
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code in (1, 2)
    assert {file: file.read_bytes() for file in run_dir.iterdir()} == before


@pytest.mark.parametrize('name', ['format', 'images', 'steps', 'dataset_sha256', 'net', 'ema', 'optimizer'])
@pytest.mark.parametrize('value', [None, 'x', -1, torch.full([3], math.nan), {'x': 1}, [1], 2**70], ids=str)
def test_a_training_state_with_invalid_entries_is_refused(name, value, run_dir, resume):
    (_, path) = list_states(run_dir)[-1]
    torch.save({**torch.load(path, weights_only=True), name: value}, path)
    result = resume()
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    'line', [NESTED, b'\xff\xfe', b'{"Progress/kimg": "x"}', b'[1]', b'\0'], ids=lambda line: str(line[:9])
)
def test_damaged_lines_of_the_statistics_are_dropped(line, run_dir, resume):
    with open(run_dir / 'stats.jsonl', 'ab') as file:
        file.write(line + b'\n')
    assert resume().exit_code == 0
    kimg = [json.loads(text)['Progress/kimg'] for text in (run_dir / 'stats.jsonl').read_text().splitlines()]
    assert kimg == sorted(kimg)
    assert kimg[-1] == 0.06


def best_images(run_dir):
    with np.load(run_dir / 'mem_best.npz') as file:
        return dict(file)


@pytest.mark.parametrize(
    'change',
    [
        lambda best: {'images': best['images'][:, :, :4]},
        lambda best: {'images': best['images'].astype(float)},
        lambda best: {'images': best['images'][:2], 'seeds': best['seeds'][:2]},
        lambda best: {'indices': best['indices'] + 999},
        lambda best: {'indices': best['indices'] - 999},
        lambda best: {'indices': best['indices'][:, :1]},
        lambda best: {'seeds': np.array(['a'] * 4)},
        lambda best: {'classes': np.array(1)},
        lambda best: {'classes': np.array([{}] * 4, dtype=object)},
    ],
)
def test_damaged_images_of_the_best_snapshot_are_sampled_again(change, run_dir):
    expected = best_images(run_dir)
    np.savez(run_dir / 'mem_best.npz', **{**expected, **change(expected)})
    assert invoke(mem_ratio.main, f'--expdir={run_dir}', *SAMPLING).exit_code == 0
    assert all((best_images(run_dir)[name] == values).all() for name, values in expected.items())


def test_a_plain_array_in_place_of_the_best_snapshots_images_is_replaced(run_dir):
    expected = best_images(run_dir)
    with open(run_dir / 'mem_best.npz', 'wb') as file:
        np.save(file, np.zeros(3))
    assert invoke(mem_ratio.main, f'--expdir={run_dir}', *SAMPLING).exit_code == 0
    assert (best_images(run_dir)['images'] == expected['images']).all()


@pytest.mark.parametrize('text', [NESTED, b'\xff\xfe', b'[1]', b'null', b'{"a":', b''], ids=start_of)
def test_a_folder_with_unreadable_settings_is_refused(text, original, tmp_path):
    (tmp_path / 'settings.json').write_bytes(text)
    network = list_snapshots(original)[-1][1]
    message = failure_of(generate.main, f'--network={network}', f'--outdir={tmp_path}', *SAMPLING)
    assert 'settings.json cannot be read; choose another folder' in message


@pytest.mark.parametrize(
    'text',
    [b'x' * 200_000 + b'\n', b'\0,1\n', b'a,"b\n', b'1,\xff\n', b','.join([b'1'] * 9) + b'\n'],
    ids=lambda text: str(text[:9]),
)
def test_images_of_damaged_table_rows_are_generated_again(text, digits_20, tmp_path):
    arguments = [f'--data={digits_20}', f'--outdir={tmp_path}', *SAMPLING]
    assert invoke(generate_optim.main, *arguments).exit_code == 0
    expected = (tmp_path / 'nearest.csv').read_bytes()
    (tmp_path / 'nearest.csv').write_bytes(expected[: expected.rindex(b'\n', 0, -1) + 1] + text)
    assert invoke(generate_optim.main, *arguments).exit_code == 0
    assert (tmp_path / 'nearest.csv').read_bytes() == expected
