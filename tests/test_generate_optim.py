"""generate_optim.py as a user runs it, on the digits."""

import csv
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner, Result

from dataset_utils import open_source
from generate_optim import main
from tests.helpers import CONFORMANCE, needs_conformance, run_script


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def read_table(outdir: Path) -> dict[int, dict[str, str]]:
    with open(outdir / 'nearest.csv', encoding='utf-8', newline='') as file:
        return {int(line['seed']): line for line in csv.DictReader(file)}


def read_image(path: Path) -> np.ndarray:
    return np.array(PIL.Image.open(path))


@pytest.fixture(scope='module')
def digits() -> np.ndarray:
    return open_source('digits').load()[..., 0]


@pytest.fixture(scope='module')
def outdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 32 images of the digits' optimum."""
    path = tmp_path_factory.mktemp('optimum') / 'out'
    result = run('--data=digits', f'--outdir={path}', '--seeds=0-31', '--grid', path / 'grid.png')
    assert result.exit_code == 0, result.output
    assert '32 images' in result.output
    assert '100 % are copies' in result.output
    return path


@needs_conformance
def test_images_conform(outdir: Path) -> None:
    expected = np.load(CONFORMANCE / 'optimal_denoiser_digits.npz')['generate.images_uint8'][:, 0]
    assert np.array_equal([read_image(outdir / f'{seed:06d}.png') for seed in range(32)], expected)


def test_table_tells_which_training_image_each_image_replays(outdir: Path, digits: np.ndarray) -> None:
    table = read_table(outdir)
    assert list(table) == list(range(32))
    for seed, line in table.items():
        assert line['squared_distance'] == '0'
        assert line['class'] == ''
        assert np.array_equal(digits[int(line['nearest'])], read_image(outdir / f'{seed:06d}.png'))


def test_contact_sheet_shows_the_images_in_order(outdir: Path) -> None:
    sheet = read_image(outdir / 'grid.png')
    assert sheet.shape == (6 * 8, 6 * 8)
    assert np.array_equal(sheet[8:16, 16:24], read_image(outdir / '000008.png'))


def test_a_run_goes_on_where_it_was_interrupted(outdir: Path, tmp_path: Path) -> None:
    """Of six seeds, one is in the table, two in a rank's part, of which one lost its image and one its line's end."""
    table = read_table(outdir)
    again = tmp_path / 'again'
    again.mkdir()
    (again / 'nearest.json').write_bytes((outdir / 'nearest.json').read_bytes())
    lines = {seed: f'{seed},,{table[seed]["nearest"]},{table[seed]["squared_distance"]}\n' for seed in range(6)}
    (again / 'nearest.csv').write_text('seed,class,nearest,squared_distance\n' + lines[0])
    (again / 'nearest.rank3.csv').write_text(lines[1] + lines[2] + lines[4].rstrip('\n')[:-3])
    marks = dict.fromkeys((0, 1), b'kept')
    for seed, mark in marks.items():
        (again / f'{seed:06d}.png').write_bytes(mark)
    assert run('--data=digits', f'--outdir={again}', '--seeds=0-5', '--batch=2').exit_code == 0
    for seed in range(6):
        found = (again / f'{seed:06d}.png').read_bytes()
        assert found == marks.get(seed, (outdir / f'{seed:06d}.png').read_bytes())
    assert read_table(again) == {seed: table[seed] for seed in range(6)}
    assert not list(again.glob('*.rank*'))


def test_subdirs_and_leaving_images_out(tmp_path: Path) -> None:
    arguments = ['--network=digits', f'--outdir={tmp_path / "out"}', '--seeds=999-1001']
    assert run(*arguments, '--no-save-images').exit_code == 0
    assert not list(tmp_path.glob('**/*.png'))
    assert list(read_table(tmp_path / 'out')) == [999, 1000, 1001]
    assert run(*arguments, '--subdirs').exit_code == 0
    pictures = sorted(str(path.relative_to(tmp_path / 'out')) for path in tmp_path.glob('**/*.png'))
    assert pictures == ['000000/000999.png', '001000/001000.png', '001000/001001.png']


def test_conditional_images_are_of_their_class(tmp_path: Path) -> None:
    labels = open_source('digits').labels
    assert labels is not None
    assert run('--data=digits', f'--outdir={tmp_path / "drawn"}', '--seeds=0-19', '--cond=1').exit_code == 0
    drawn = read_table(tmp_path / 'drawn').values()
    assert all(labels[int(line['nearest'])] == int(line['class']) for line in drawn)
    assert len({line['class'] for line in drawn}) > 3
    assert run('--data=digits', f'--outdir={tmp_path / "seven"}', '--seeds=0-9', '--class=7').exit_code == 0
    assert {labels[int(line['nearest'])] for line in read_table(tmp_path / 'seven').values()} == {7}


def test_precision_changes_no_image(outdir: Path, tmp_path: Path) -> None:
    assert run('--data=digits', f'--outdir={tmp_path}', '--seeds=0-7', '--precision=fp64').exit_code == 0
    for seed in range(8):
        assert np.array_equal(read_image(tmp_path / f'{seed:06d}.png'), read_image(outdir / f'{seed:06d}.png'))


@pytest.mark.slow
@pytest.mark.parametrize(('ranks', 'options'), [(2, []), (2, ['--shard']), (3, ['--shard', '--batch=10'])])
def test_ranks_and_shards_change_nothing(ranks: int, options: list[str], outdir: Path, tmp_path: Path) -> None:
    arguments = ['generate_optim.py', '--data=digits', f'--outdir={tmp_path}', '--seeds=0-31', '--batch=5']
    result = run_script(*arguments, *options, '--grid', tmp_path / 'grid.png', ranks=ranks)
    assert '32 images' in result.stdout
    for path in sorted(outdir.iterdir()):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_mistakes_are_told_in_a_sentence(outdir: Path, digits_20: Path, tmp_path: Path) -> None:
    def fails(text: str, *arguments: str | Path, code: int = 1) -> None:
        result = run(*arguments)
        assert result.exit_code == code, result.output
        assert text in result.output

    fails("'--data'", f'--outdir={tmp_path}', code=2)
    fails('--data=nowhere.zip', '--data=nowhere.zip', f'--outdir={tmp_path}')
    fails('--class=10: no training image has it', '--data=digits', f'--outdir={tmp_path / "new"}', '--class=10')
    fails('other settings (num_steps was 18, not 9)', '--data=digits', f'--outdir={outdir}', '--steps=9')
    fails('other settings (dataset was digits, not digits-20)', f'--data={digits_20}', f'--outdir={outdir}')
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'some.png').write_bytes(b'')
    fails('unknown origin', '--data=digits', f'--outdir={tmp_path / "other"}')
    assert not (tmp_path / 'new').exists()
    assert json.loads((outdir / 'nearest.json').read_text())['num_steps'] == 18
