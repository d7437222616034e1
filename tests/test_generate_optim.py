"""generate_optim.py on the built-in digits."""

import csv
import errno
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner, Result

import train
from dataset_utils import Source, open_source
from dnnlib.util import UserError
from evaluation.memorization import memorization_ratio
from generate_optim import main
from tests.helpers import DATA, TINY, run_script
from training.closed_form import DENOISERS, make_denoiser
from training.closed_form.closed_form import ClosedForm
from training.closed_form.rows import Images, rows_of
from training.sampling import SamplerOptions, generate
from training.snapshot import list_snapshots


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def read_table(outdir: Path) -> dict[int, dict[str, str]]:
    with open(outdir / 'nearest.csv', encoding='utf-8', newline='') as file:
        return {int(line['image']): line for line in csv.DictReader(file)}


def read_image(path: Path) -> np.ndarray:
    return np.array(PIL.Image.open(path))


@pytest.fixture(scope='module')
def digits() -> np.ndarray:
    return open_source('digits').load()[..., 0]


@pytest.fixture(scope='module')
def outdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images of seeds 0 to 31, sampled with the optimal denoiser of the digits."""
    path = tmp_path_factory.mktemp('optimum') / 'out'
    result = run('--data=digits', f'--outdir={path}', '--seeds=0-31', '--grid', path / 'grid.png')
    assert result.exit_code == 0, result.output
    assert '32 images' in result.output
    assert '32 (100 %) are copies: less than a third as far' in result.output
    assert '32 of the copies are exact' in result.output
    return path


def test_generated_images_equal_the_reference_data(outdir: Path) -> None:
    expected = np.load(DATA / 'optimal_denoiser_digits.npz')['generate.images_uint8'][:, 0]
    assert np.array_equal([read_image(outdir / f'{seed:06d}.png') for seed in range(32)], expected)


def test_the_table_lists_the_training_image_that_each_sample_replays(outdir: Path, digits: np.ndarray) -> None:
    table = read_table(outdir)
    assert list(table) == list(range(32))
    for seed, line in table.items():
        assert line['squared_distance'] == '0'
        distances = np.square(digits.astype(int) - digits[int(line['nearest'])]).sum(axis=(1, 2))
        assert int(line['second_squared_distance']) == min(distances[distances > 0])
        assert line['class'] == ''
        assert np.array_equal(digits[int(line['nearest'])], read_image(outdir / f'{seed:06d}.png'))


def test_the_contact_sheet_shows_the_images_in_order(outdir: Path) -> None:
    sheet = read_image(outdir / 'grid.png')[::10, ::10]  # each pixel is drawn as 10x10
    assert sheet.shape == (6 * 8, 6 * 8)
    assert np.array_equal(sheet[8:16, 16:24], read_image(outdir / '000008.png'))


def test_an_interrupted_run_resumes(outdir: Path, tmp_path: Path) -> None:
    """The final table lists seed 0. The partial table of an interrupted rank lists seeds 1 and 2, and contains two
    invalid lines. The image of seed 2 is missing, so only seeds 0 and 1 are complete."""
    table = read_table(outdir)
    again = tmp_path / 'again'
    again.mkdir()
    (again / 'settings.json').write_bytes((outdir / 'settings.json').read_bytes())
    header, *lines = (outdir / 'nearest.csv').read_text().splitlines(keepends=True)
    (again / 'nearest.csv').write_text(header + lines[0])
    (again / 'nearest.rank3.csv').write_text(lines[1] + 'no line\n' + lines[2] + lines[4].rstrip('\n')[:-3])
    marks = dict.fromkeys((0, 1), b'kept')
    for seed, mark in marks.items():
        (again / f'{seed:06d}.png').write_bytes(mark)
    assert run('--data=digits', f'--outdir={again}', '--seeds=0-5', '--batch=2').exit_code == 0
    for seed in range(6):
        found = (again / f'{seed:06d}.png').read_bytes()
        assert found == marks.get(seed, (outdir / f'{seed:06d}.png').read_bytes())
    assert read_table(again) == {seed: table[seed] for seed in range(6)}
    assert not list(again.glob('*.rank*'))


def test_images_can_be_saved_in_subfolders_or_not_at_all(tmp_path: Path) -> None:
    arguments = ['--network=digits', f'--outdir={tmp_path / "out"}', '--seeds=999-1001']
    assert run(*arguments, '--no-save-images').exit_code == 0
    assert not list(tmp_path.glob('**/*.png'))
    assert list(read_table(tmp_path / 'out')) == [999, 1000, 1001]
    assert run(*arguments, '--subdirs').exit_code == 0
    pictures = sorted(str(path.relative_to(tmp_path / 'out')) for path in tmp_path.glob('**/*.png'))
    assert pictures == ['000000/000999.png', '001000/001000.png', '001000/001001.png']


def test_the_number_of_copies_agrees_with_the_memorization_ratio(tmp_path: Path, digits: np.ndarray) -> None:
    """With a high sigma_min, the sampler stops early, so some images are blends of training images."""
    out = tmp_path / 'out'
    result = run('--data=digits', f'--outdir={out}', '--seeds=0-39', '--sigma_min=0.5')
    assert result.exit_code == 0, result.output
    images = np.stack([read_image(out / f'{seed:06d}.png') for seed in range(40)])
    expected = memorization_ratio(images[:, None], digits[:, None])
    exact = int((expected.squared_distances[:, 0] == 0).sum())
    assert 0 < exact < expected.num_memorized < 40
    assert f'{expected.num_memorized} ({100 * expected.ratio:g} %) are copies' in result.output
    assert f'; {exact} of the copies are exact' in result.output
    table = read_table(out).values()
    assert [int(line['nearest']) for line in table] == expected.indices[:, 0].tolist()
    for column, distances in zip(
        ('squared_distance', 'second_squared_distance'), expected.squared_distances.T, strict=True
    ):
        assert [int(line[column]) for line in table] == distances.tolist()


def test_class_conditional_samples_belong_to_their_class(tmp_path: Path) -> None:
    labels = open_source('digits').labels
    assert labels is not None
    assert run('--data=digits', f'--outdir={tmp_path / "drawn"}', '--seeds=0-19', '--cond=1').exit_code == 0
    drawn = read_table(tmp_path / 'drawn').values()
    assert all(labels[int(line['nearest'])] == int(line['class']) for line in drawn)
    assert len({line['class'] for line in drawn}) > 3
    assert run('--data=digits', f'--outdir={tmp_path / "seven"}', '--seeds=0-9', '--class=7').exit_code == 0
    assert {labels[int(line['nearest'])] for line in read_table(tmp_path / 'seven').values()} == {7}


def test_closed_forms_can_be_sampled_with_every_sampler(tmp_path: Path, digits: np.ndarray) -> None:
    """No sample from the Gaussian denoiser is a copy, but the table still lists the nearest training images."""
    for name, options in [('edm', []), ('churned', ['--S_churn=10']), ('ablation', ['--solver=euler', '--disc=vp'])]:
        out = tmp_path / name
        result = run('--data=digits', '--denoiser=gaussian', f'--outdir={out}', '--seeds=0-5', *options)
        assert result.exit_code == 0, result.output
        assert '6 images' in result.output
        assert ': 0 (0 %) are copies' in result.output
        for seed, line in read_table(out).items():
            difference = digits.astype(int) - read_image(out / f'{seed:06d}.png')
            distances = np.square(difference).sum(axis=(1, 2))
            assert (int(line['nearest']), int(line['squared_distance'])) == (distances.argmin(), distances.min())
            assert line['set'] == 'gaussian'
    assert run('--data=digits', f'--outdir={tmp_path / "edm"}', '--seeds=0-5').exit_code == 1


@pytest.mark.parametrize('name', [*DENOISERS][2:-1])
def test_every_closed_form_can_be_sampled_with_its_parameters(
    name: str, digits_20: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = f'--data={digits_20}', '--seeds=0-3', '--steps=4', '--cond=1', '--batch=2'
    result = run(*arguments, f'--denoiser={name}', f'--outdir={tmp_path / "whole"}', '--S_churn=2')
    assert result.exit_code == 0, result.output
    text = f'{name}:precision=fp64'
    assert run(*arguments, f'--denoiser={text}', f'--outdir={tmp_path / "out"}', '--shard').exit_code == 0
    assert {line['set'] for line in read_table(tmp_path / 'out').values()} == {text}
    source = open_source(str(digits_20))
    images = torch.from_numpy(source.load().transpose(0, 3, 1, 2).copy())
    denoiser = make_denoiser(name, images, torch.tensor(source.labels), precision='fp64')
    expected = generate(denoiser, range(4), SamplerOptions(num_steps=4), batch_size=3)
    for seed in range(4):
        assert abs(read_image(tmp_path / 'out' / f'{seed:06d}.png') - expected[seed, 0].numpy().astype(int)).max() <= 1
    result = run(*arguments, f'--denoiser={name}:grey=1', f'--outdir={tmp_path / "none"}')
    assert f'the {name} denoiser does not have this parameter' in result.output


@pytest.mark.parametrize(
    ('text', 'sampler', 'missing'),
    [
        ('local:window=TABLE', [], '0.002 to 80'),
        ('patch:window=TABLE', ['--sigma_max=10'], '0.002 to 10'),
        ('local:window=TABLE', ['--sigma_min=0.1', '--sigma_max=10'], ''),
        ('local:window=TABLE', ['--sigma_min=0.1', '--sigma_max=10', '--S_churn=1'], '0.1 to 12.5'),
        ('local:window=TABLE', ['--sigma_min=0.1', '--sigma_max=10', '--S_churn=1', '--S_max=5'], ''),
        ('local:window=TABLE', ['--disc=ve', '--sigma_max=10'], '0.02 to 10'),
        ('hybrid:optimal>10>local:window=TABLE>0.1>gaussian', [], ''),
        ('hybrid:optimal>11>local:window=TABLE>0.1>gaussian', [], '0.1 to 11'),
        ('hybrid:optimal>11>local:window=TABLE>0.1>gaussian', ['--sigma_max=9'], ''),
        ('hybrid:optimal>9>local:window=TABLE', ['--sigma_min=0.05'], '0.05 to 9'),
    ],
)
def test_a_window_table_without_all_noise_levels_is_refused_before_writing(
    text: str, sampler: list[str], missing: str, tmp_path: Path
) -> None:
    table, out = tmp_path / 'windows.json', tmp_path / 'out'
    table.write_text('{"windows": [[0.1, 3], [10, 7]]}')
    text = text.replace('TABLE', str(table))
    result = run('--data=digits', f'--denoiser={text}', '--steps=4', '--seeds=0-1', f'--outdir={out}', *sampler)
    assert out.exists() == (not missing), result.output
    if missing:
        assert f'covers the noise levels 0.1 to 10, but not {missing}; calibrate it at more levels' in result.output
        assert '--denoiser=' in result.output
    else:
        assert result.exit_code == 0, result.output


def test_a_hybrid_with_a_changed_network_file_does_not_resume(digits_20: Path, tmp_path: Path) -> None:
    train_run = [f'--outdir={tmp_path / "run"}', '--nosubdir', f'--data={digits_20}', *TINY, '--batch=20', '--warmup=0']
    assert CliRunner().invoke(train.main, [*train_run, '--epochs=100', '--tick=1', '--snap=1']).exit_code == 0
    first, last = (path for _, path in list_snapshots(tmp_path / 'run')[-2:])
    arguments = f'--data={digits_20}', f'--outdir={tmp_path / "out"}', '--seeds=0-3', '--steps=4'
    text = f'--denoiser=hybrid:{first}>4>optimal'
    result = run(*arguments, text)
    assert result.exit_code == 0, result.output
    assert '4 (100 %) are copies' in result.output
    first.write_bytes(last.read_bytes())
    assert 'sha256 was' in run(*arguments, text).output
    assert 'must be positive and in descending order, not 4, 5' in run(*arguments, f'{text}>5>optimal').output
    conditional = run(*arguments, text, '--cond=1', f'--outdir={tmp_path / "none"}')
    assert 'the parts of a hybrid must match' in conditional.output


def test_a_new_denoiser_needs_one_line_in_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Grey(ClosedForm):
        def __init__(self, images: Images, labels: object, device: object, level: int = 100):
            super().__init__(images, None, 'cpu')
            self.level = level

        def __call__(self, x: torch.Tensor, sigma: object, class_labels: object = None) -> torch.Tensor:
            return torch.full_like(x, self.level / 127.5 - 1)

    monkeypatch.setitem(DENOISERS, 'grey', Grey)
    assert run('--data=digits', '--denoiser=grey', f'--outdir={tmp_path / "grey"}', '--seeds=0-1').exit_code == 0
    assert (read_image(tmp_path / 'grey' / '000001.png') == 100).all()
    assert make_denoiser('grey', torch.zeros([2, 1, 4, 4], dtype=torch.uint8), level=7).level == 7  # type: ignore
    for arguments, message in [
        (['--denoiser=grey', '--precision=fp64'], '--precision: the grey denoiser does not have this parameter'),
        (['--denoiser=grey', '--shard'], '--shard: Grey needs the whole training set on each rank'),
        (['--denoiser=gray'], '--denoiser=gray: no such closed form; choose one of optimal, gaussian'),
    ]:
        result = run('--data=digits', f'--outdir={tmp_path / "none"}', *arguments)
        assert result.exit_code == 1
        assert message in result.output
    assert not (tmp_path / 'none').exists()


def test_the_precision_option_does_not_change_images(outdir: Path, tmp_path: Path) -> None:
    assert run('--data=digits', f'--outdir={tmp_path}', '--seeds=0-7', '--precision=fp64').exit_code == 0
    for seed in range(8):
        assert np.array_equal(read_image(tmp_path / f'{seed:06d}.png'), read_image(outdir / f'{seed:06d}.png'))


@pytest.mark.parametrize('axes', [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_an_array_on_disk_gives_the_same_images(axes: tuple[int, ...], outdir: Path, tmp_path: Path) -> None:
    """The shape of the array can be [N, C, H, W] or [N, H, W, C]."""
    images = open_source('digits').load().transpose(0, 3, 1, 2)
    np.save(tmp_path / 'digits.npy', images.transpose(axes))
    result = run(f'--data={tmp_path / "digits.npy"}', f'--outdir={tmp_path / "out"}', '--seeds=0-31')
    assert result.exit_code == 0, result.output
    for path in [*sorted(outdir.glob('0*.png')), outdir / 'nearest.csv']:
        assert (tmp_path / 'out' / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_array_on_disk_is_never_loaded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test simulates that no memory is free, so the images must be read in parts."""
    monkeypatch.setattr('torch_utils.misc.free_bytes', lambda _: 0)
    monkeypatch.setattr('training.closed_form.optimal.FLOAT64_PIXELS', 0)
    monkeypatch.setattr('dataset_utils.sources.arrays.NumpySource.load', lambda *_: pytest.fail('read whole'))
    np.save(tmp_path / 'digits.npy', open_source('digits').load())
    assert run(f'--data={tmp_path / "digits.npy"}', f'--outdir={tmp_path / "out"}', '--seeds=0-3').exit_code == 0
    in_memory = run('--data=digits', f'--outdir={tmp_path / "new"}', '--seeds=0-3')
    assert in_memory.exit_code == 1
    assert f'need {1797 * 64:,} bytes on cpu, but only 0 are free' in in_memory.output
    assert '--shard' in in_memory.output


def test_an_array_that_cannot_be_mapped_for_writing_is_mapped_for_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux refuses a writable mapping of a file that is larger than memory."""

    def load(path: str, mmap_mode: Any, **kwargs: Any) -> np.ndarray:
        if mmap_mode != 'r':
            raise OSError(errno.ENOMEM, 'Cannot allocate memory')
        return np_load(path, mmap_mode=mmap_mode, **kwargs)

    np_load = np.load
    np.save(tmp_path / 'digits.npy', open_source('digits').load())
    monkeypatch.setattr('dataset_utils.sources.arrays.np.load', load)
    assert run(f'--data={tmp_path / "digits.npy"}', f'--outdir={tmp_path / "out"}', '--seeds=0-3').exit_code == 0


def test_a_shard_decodes_only_its_share_of_the_images(digits_20: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, read = open_source(str(digits_20)), []
    decode = type(source).read

    def counting(self: Source, index: int) -> np.ndarray:
        read.append(index)
        return decode(self, index)

    monkeypatch.setattr(type(source), 'read', counting)
    monkeypatch.setattr('torch_utils.distributed.rank', lambda: 1)
    monkeypatch.setattr('torch_utils.distributed.world_size', lambda: 3)
    monkeypatch.setattr('torch_utils.distributed.gather', lambda value: [value])
    rows = rows_of(source, None, torch.device('cpu'), sharded=True)
    assert sorted(read) == [0, *range(6, 13)]  # image 0 is read because its size is needed
    expected = source.load()[6:13, ..., 0].reshape(7, -1).astype(int) - 128
    assert np.array_equal(rows.rows(torch.arange(7)).numpy(), expected)


@pytest.mark.slow
@pytest.mark.parametrize(('ranks', 'options'), [(2, []), (2, ['--shard']), (3, ['--shard', '--batch=10'])])
def test_images_do_not_depend_on_ranks_and_shards(ranks: int, options: list[str], outdir: Path, tmp_path: Path) -> None:
    arguments = ['generate_optim.py', '--data=digits', f'--outdir={tmp_path}', '--seeds=0-31', '--batch=5']
    result = run_script(*arguments, *options, '--grid', tmp_path / 'grid.png', ranks=ranks)
    assert '32 images' in result.stdout
    for path in sorted(outdir.iterdir()):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_one_rank_may_hold_all_shards(outdir: Path, tmp_path: Path) -> None:
    assert run('--data=digits', f'--outdir={tmp_path}', '--seeds=0-31', '--shard').exit_code == 0
    assert (tmp_path / 'nearest.csv').read_bytes() == (outdir / 'nearest.csv').read_bytes()


@pytest.mark.slow
def test_classes_may_be_present_in_only_one_shard(digits_20: Path, tmp_path: Path) -> None:
    """The 20 digits are sorted by class, so each of the two shards has five classes."""
    arguments = [f'--data={digits_20}', '--seeds=0-15', '--cond=1']
    assert run(*arguments, f'--outdir={tmp_path / "one"}').exit_code == 0
    run_script('generate_optim.py', *arguments, f'--outdir={tmp_path / "two"}', '--shard', ranks=2)
    for path in sorted((tmp_path / 'one').iterdir()):
        assert (tmp_path / 'two' / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_a_damaged_image_in_the_second_shard_is_reported_once(digits_20: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'broken'
    with zipfile.ZipFile(digits_20) as archive:
        archive.extractall(folder)
    (folder / '00000' / 'img00000015.png').write_bytes(b'no picture')
    arguments = ['generate_optim.py', f'--data={folder}', f'--outdir={tmp_path / "out"}', '--shard']
    result = run_script(*arguments, ranks=2, check=False)
    assert result.returncode == 1
    [message] = [line for line in result.stderr.splitlines() if line.startswith('Error: ')]
    assert 'img00000015.png is not a readable' in message
    assert not (tmp_path / 'out').exists()


def test_mistakes_give_a_one_sentence_error(
    outdir: Path, digits_20: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(text: str, *arguments: str | Path, code: int = 1) -> None:
        result = run(*arguments)
        assert result.exit_code == code, result.output
        assert text in result.output

    fails("'--data'", f'--outdir={tmp_path}', code=2)
    fails('--data=nowhere.zip', '--data=nowhere.zip', f'--outdir={tmp_path}')
    fails('--class=10: no training image has this class', '--data=digits', f'--outdir={tmp_path / "new"}', '--class=10')
    fails('other settings (num_steps was 18, not 9)', '--data=digits', f'--outdir={outdir}', '--steps=9')
    fails('other settings (dataset was digits, not digits-20)', f'--data={digits_20}', f'--outdir={outdir}')
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'some.png').write_bytes(b'')
    fails('unknown origin', '--data=digits', f'--outdir={tmp_path / "other"}')
    fails('--sigma_min', '--data=digits', f'--outdir={tmp_path / "new"}', '--sigma_min=0', code=2)
    np.save(tmp_path / 'bare.npy', np.zeros([3, 8, 8, 1], np.uint8))
    fails(
        'require labels, but bare has none',
        f'--data={tmp_path / "bare.npy"}',
        f'--outdir={tmp_path / "new"}',
        '--cond=1',
    )
    (tmp_path / 'empty').mkdir()
    fails('contains no images', f'--data={tmp_path / "empty"}', f'--outdir={tmp_path / "new"}')
    (tmp_path / 'mixed').mkdir()
    for edge in (8, 16):
        PIL.Image.new('L', (edge, edge)).save(tmp_path / 'mixed' / f'{edge:02d}.png')
    fails(
        '16.png is 16x16 grey, but 08.png is 8x8 grey', f'--data={tmp_path / "mixed"}', f'--outdir={tmp_path / "new"}'
    )
    np.save(tmp_path / 'wide.npy', np.zeros([3, 8, 16, 1], np.uint8))
    fails('must be square', f'--data={tmp_path / "wide.npy"}', f'--outdir={tmp_path / "new"}')
    monkeypatch.setattr('torch_utils.distributed.world_size', lambda: 21)
    with pytest.raises(UserError, match='20 training images cannot be split over 21 ranks'):
        rows_of(open_source(str(digits_20)), None, torch.device('cpu'), sharded=True)
    assert not (tmp_path / 'new').exists()
    assert json.loads((outdir / 'settings.json').read_text())['num_steps'] == 18


def test_an_npz_file_has_the_images_and_the_columns_of_the_table(outdir: Path, tmp_path: Path) -> None:
    result = run('--data=digits', f'--outdir={tmp_path}/all.npz', '--seeds=0-31')
    assert '32 images' in result.output
    assert '32 (100 %) are copies: less than a third as far' in result.output
    assert run('--data=digits', f'--outdir={tmp_path}/all.npz', '--seeds=0-31').output == result.output
    table = read_table(outdir)
    with np.load(tmp_path / 'all.npz') as file:
        for place, seed in enumerate(file['seeds'].tolist()):
            assert np.array_equal(file['arr_0'][place, ..., 0], read_image(outdir / f'{seed:06d}.png'))
            nearest = [int(table[seed][name]) for name in ('nearest', 'second')]
            squared = [int(table[seed][name]) for name in ('squared_distance', 'second_squared_distance')]
            assert (file['indices'][place].tolist(), file['squared_distances'][place].tolist()) == (nearest, squared)
    result = run('--data=digits', f'--outdir={tmp_path}/new.npz', '--seeds=0-31', '--no-save-images')
    assert 'is a file of images; give a folder, or do not turn off --save-images' in result.output
    assert os.listdir(tmp_path) == ['all.npz']


@pytest.mark.slow
@pytest.mark.parametrize('options', [[], ['--shard']])
def test_the_npz_file_does_not_depend_on_ranks_and_shards(options: list[str], tmp_path: Path) -> None:
    common = ['generate_optim.py', '--data=digits', '--seeds=0-19', '--batch=8', '--steps=4']
    for ranks, name in ((1, 'one.npz'), (2, 'two.npz')):
        run_script(*common, f'--outdir={tmp_path}/{name}', *(options if ranks > 1 else []), ranks=ranks)
    assert (tmp_path / 'one.npz').read_bytes() == (tmp_path / 'two.npz').read_bytes()


@pytest.mark.parametrize('repeats', [1, 3])
def test_the_optimal_denoiser_of_one_image_replays_it(repeats: int, digits: np.ndarray, tmp_path: Path) -> None:
    """With one distinct training image, every sample is a copy, and the table lists no second-nearest image."""
    np.save(tmp_path / 'one.npy', np.repeat(digits[:1, ..., None], repeats, axis=0))
    result = run(f'--data={tmp_path / "one.npy"}', f'--outdir={tmp_path / "out"}', '--seeds=0-4')
    assert result.exit_code == 0, result.output
    assert '5 (100 %) are copies' in result.output
    for seed, row in read_table(tmp_path / 'out').items():
        assert np.array_equal(read_image(tmp_path / 'out' / f'{seed:06d}.png'), digits[0])
        assert (row['nearest'], row['squared_distance'], row['memorized'], row['exact']) == ('0', '0', '1', '1')
        assert row['second'] == row['second_squared_distance'] == ''
    assert run(f'--data={tmp_path / "one.npy"}', f'--outdir={tmp_path / "out"}', '--seeds=0-4').exit_code == 0


def test_classes_without_training_images_are_never_drawn(tmp_path: Path) -> None:
    np.savez(tmp_path / 'gaps.npz', images=np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1), labels=[7, 2, 2, 7])
    assert run(f'--data={tmp_path}/gaps.npz', f'--outdir={tmp_path}/out', '--seeds=0-15', '--cond=1').exit_code == 0
    assert {line['class'] for line in read_table(tmp_path / 'out').values()} == {'2', '7'}
