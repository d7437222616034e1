import csv
import json
import re
import subprocess
import sys
from functools import partial

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

import emm
import mem_ratio
import train
from evaluation.memorization import memorization_ratio
from evaluation.runs import evaluate_generators
from tests.helpers import TINY, command, environment, failure_of, invoke, run_script
from tests.training.edm_pickles import pickle_of
from training.dataset import load_dataset
from training.sampling import SamplerOptions, generate_images, seed_batches
from training.snapshot import list_snapshots, load_network
from training.training_loop import open_tensorboard

run = partial(invoke, mem_ratio.main)
failure = partial(failure_of, mem_ratio.main)


@pytest.fixture(scope='module')
def run_dir(digits_20, tmp_path_factory):
    """Folder of a class-conditional run with snapshots at 0, 1 and 2 kimg."""
    run_dir = tmp_path_factory.mktemp('run')
    arguments = ['--nosubdir', f'--data={digits_20}', *TINY, '--cond=1', '--batch=20', '--lr=5e-3', '--warmup=0',
                 '--epochs=100', '--tick=1', '--snap=1', '--seed=1']  # fmt: skip
    assert invoke(train.main, f'--outdir={run_dir}', *arguments).exit_code == 0
    assert [kimg for kimg, _ in list_snapshots(run_dir)] == [0, 1, 2]
    return run_dir


@pytest.fixture
def fresh(run_dir, tmp_path):
    """A copy of the run without its evaluations."""
    for path in run_dir.glob('network-snapshot-*'):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / 'training_options.json').write_bytes((run_dir / 'training_options.json').read_bytes())
    return tmp_path


def records(folder, without=('seconds',)):
    lines = (folder / 'mem_traj.jsonl').read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in without} for line in lines]


def test_all_snapshots_after_0_kimg_are_evaluated_from_newest_to_oldest(fresh, digits_20):
    result = run(f'--expdir={fresh}', f'--knn-ref={digits_20}', f'--log={fresh}/mem_traj.log', '--seeds=0-29',
                    '--subdirs', '--batch=8')  # fmt: skip
    assert result.exit_code == 0, result.output
    found = records(fresh)
    assert [record['snapshot'][-13:-12] for record in found] == ['2', '1']
    reference = load_dataset(str(digits_20))
    for record in found:
        net = load_network(fresh / record['snapshot'])
        batches = seed_batches(range(30), 8)
        images = torch.cat([batch.images for batch in generate_images(net, batches, SamplerOptions(), 'cpu')])
        expected = memorization_ratio(images, reference.images)
        assert record['num_memorized'] == expected.num_memorized
        assert [record['ratio_low'], record['ratio_high']] == pytest.approx(expected.interval)
        assert record['mean_distance'] == pytest.approx(expected.mean_distance)
        assert (record['dataset'], record['dataset_size'], record['seeds']) == ('digits-20', 20, '0-29')
    best = max(found, key=lambda record: (record['ratio'], record['kimg']))
    last_line = next(line for line in result.stdout.splitlines() if line.startswith('Highest'))
    assert f'{100 * best["ratio"]:.2f} %' in last_line
    assert best['snapshot'] in last_line
    assert len((fresh / 'mem_traj.log').read_text().splitlines()) == 2
    assert PIL.Image.open(fresh / 'mem_gallery.png').width > 100


def test_a_dry_run_shows_the_cost_and_writes_no_files(fresh, digits_20, monkeypatch):
    monkeypatch.setattr('evaluation.evaluation_cost.SECONDS_MEASURED', 0.0)
    before = sorted(fresh.iterdir())
    result = run('-n', f'--expdir={fresh}', '--seeds=0-29')
    assert result.exit_code == 0, result.output
    lines = dict(re.split(r':\s+', line, maxsplit=1) for line in result.output.splitlines() if ': ' in line)
    assert lines['Training set'] == 'digits-20: 20 images, 8x8 grey'
    assert lines['Images'] == '60, for 2 generators with 30 seeds each'
    assert lines['Evaluations'] == '2,100 of the denoiser, 35 per image'
    assert lines['Time'].endswith('(at the speed measured in a short test)')
    assert sorted(fresh.iterdir()) == before
    assert 'no such file' in failure('-n', f'--expdir={fresh}', '--test-ref=nothing.zip', '--metrics=precision_recall')
    run(f'--expdir={fresh}', '--seeds=0-4', '--steps=4')
    assert 'speed of an earlier evaluation' in run('-n', f'--expdir={fresh}', '--seeds=0-29', '--steps=4').output


def test_only_the_best_snapshot_is_kept(fresh):
    (fresh / 'network-snapshot-000001.png').write_bytes(b'')
    common = [f'--expdir={fresh}', '--seeds=0-4', '--steps=4', '--keep-best']
    result = run(*common)
    (kept,) = [path.name for _, path in list_snapshots(fresh)]
    found = records(fresh)
    assert len(found) == 2
    assert kept == max(found, key=lambda record: (record['ratio'], record['kimg']))['snapshot']
    assert f'Kept {kept}; deleted 2 other snapshots.' in result.stdout
    assert not (fresh / 'network-snapshot-000001.png').exists() or kept.endswith('1.safetensors')
    assert run(*common).exit_code == 0
    assert records(fresh) == found


def test_snapshots_saved_during_the_evaluation_are_kept(fresh, monkeypatch):
    late = fresh / 'network-snapshot-000003.safetensors'

    def evaluate(*arguments, **more):
        found = evaluate_generators(*arguments, **more)
        late.write_bytes((fresh / 'network-snapshot-000002.safetensors').read_bytes())
        return found

    monkeypatch.setattr('evaluation.evaluate.evaluate_generators', evaluate)
    assert run(f'--expdir={fresh}', '--seeds=0-4', '--steps=4', '--keep-best').exit_code == 0
    assert late.exists()
    assert len(list_snapshots(fresh)) == 2


def test_a_snapshot_with_a_record_of_the_same_settings_is_not_evaluated_again(fresh):
    common = [f'--expdir={fresh}', '--seeds=0-4', '--steps=4']
    assert run(*common).exit_code == 0
    before = (fresh / 'mem_traj.jsonl').read_bytes()
    again = run(*common)
    assert again.stdout.count('(already evaluated)') == 2
    assert (fresh / 'mem_traj.jsonl').read_bytes() == before
    assert run(*common, '--class=3').exit_code == 0
    assert len(records(fresh)) == 4


def kept_arrays(folder):
    with np.load(folder / 'mem_best.npz', allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def test_the_images_of_the_best_snapshot_are_kept(fresh, digits_20, monkeypatch):
    common = [f'--expdir={fresh}', '--seeds=5-104', '--batch=100']
    assert run(*common).exit_code == 0
    best = max(records(fresh), key=lambda record: (record['ratio'], record['kimg']))
    kept = kept_arrays(fresh)
    assert json.loads(str(kept['key']))['snapshot'] == best['snapshot']
    assert kept['seeds'].tolist() == list(range(5, 105))
    (batch,) = generate_images(load_network(fresh / best['snapshot']), [range(5, 105)], SamplerOptions(), 'cpu')
    expected = memorization_ratio(batch.images, load_dataset(str(digits_20)).images)
    assert kept['indices'].tolist() == expected.indices.tolist()
    assert kept['squared_distances'].tolist() == expected.squared_distances.tolist()
    assert (kept['images'] == batch.images.numpy()).all()
    assert kept['classes'].tolist() == batch.class_labels.tolist()

    def refuse(*_):
        raise AssertionError('images were sampled again')

    gallery = (fresh / 'mem_gallery.png').read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr('evaluation.generators.generate_images', refuse)
        (fresh / 'mem_gallery.png').unlink()
        before = records(fresh)
        assert run(*common, '--metrics=all', f'--table={fresh}/table.csv').exit_code == 0
        after = records(fresh)
        (place,) = [place for place, record in enumerate(after) if 'metrics' in record]
        assert after[place]['snapshot'] == best['snapshot']
        assert list(after[place]['metrics']) == ['ratio_curve', 'authenticity', 'precision_recall']
        assert [record | {'metrics': 0, 'metrics_space': 0} for record in after] == [
            record | {'metrics': 0, 'metrics_space': 0} for record in before
        ]
        assert run(*common, '--metrics=authenticity').exit_code == 0
        assert list(records(fresh)[place]['metrics']) == ['authenticity']
    assert (fresh / 'mem_gallery.png').read_bytes() == gallery
    (fresh / 'mem_best.npz').unlink()
    assert run(*common).exit_code == 0
    again = kept_arrays(fresh)
    assert all((again[name] == kept[name]).all() for name in kept)
    assert not list(fresh.glob('*partial*'))


def test_replacing_an_evaluation_with_other_settings_is_announced_and_can_be_undone(fresh):
    notice = 'are from an evaluation with other settings ('
    first, second = ([f'--expdir={fresh}', '--seeds=0-19', f'--steps={steps}'] for steps in (4, 5))
    newest = list_snapshots(fresh)[-1][1]
    newest.rename(fresh / 'newest')
    assert notice not in run(*first).output
    (fresh / 'newest').rename(newest)
    assert notice not in run(*first).output
    assert str(np.load(fresh / 'mem_best.npz')['key']).count(newest.name) == 1
    gallery = (fresh / 'mem_gallery.png').read_bytes()
    assert notice not in run(*first).output
    assert run(*second).output.count(notice) == 1
    assert (fresh / 'mem_gallery.png').read_bytes() != gallery
    assert notice not in run(*second).output
    assert len(records(fresh)) == 4
    log = (fresh / 'mem_traj.log').read_text().splitlines()
    assert [line.partition(' ')[0] for line in log if line.startswith('Other')] == ['Other']
    assert log[2] == 'Other settings: num_steps=5 instead of 4'
    assert run(*first).output.count(f'{notice}num_steps=4 instead of 5); they are replaced') == 1
    assert (fresh / 'mem_gallery.png').read_bytes() == gallery
    race = [*second, '--batch=4', '--race=1']
    assert (
        f'{notice}num_steps=5 instead of 4, batch=4 instead of 64, raced_seeds=0-19 instead of None)'
        in run(*race).output
    )
    assert notice not in run(*race).output


def test_evaluations_with_several_settings_are_drawn_and_logged_separately(fresh):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    open_tensorboard(fresh).close()
    for steps in (4, 5, 4):
        run(f'--expdir={fresh}', '--seeds=0-9', f'--steps={steps}')
    found = records(fresh)
    events = EventAccumulator(str(fresh)).Reload()
    for tag, shown in (('Memorization/ratio', found[:2] * 2), ('Memorization/ratio, evaluation 2', found[2:])):
        assert [event.value for event in events.Scalars(tag)] == pytest.approx([record['ratio'] for record in shown])
    output = CliRunner().invoke(emm.main, ['plot', str(fresh)]).output
    assert 'Evaluation 2: num_steps=5 instead of 4' in output
    assert {path.stem for path in (fresh / 'figures').iterdir()} == {'run-1', 'run-2'}


def test_the_gallery_is_written_next_to_the_log(fresh, tmp_path_factory):
    folder = tmp_path_factory.mktemp('elsewhere')
    result = run(f'--expdir={fresh}', '--seeds=0-3', '--steps=4', f'--log={folder}/mine.log')
    assert f'Gallery: {folder}/mem_gallery.png' in result.output
    assert {path.name for path in folder.glob('mem*')} >= {'mem_gallery.png', 'mem_copied.csv', 'mem_best.npz'}
    assert not list(fresh.glob('mem*'))


def test_a_training_set_that_is_not_found_is_said_to_come_from_the_run(fresh):
    path = fresh / 'training_options.json'
    path.write_text(re.sub(r'"data": "[^"]*"', '"data": "elsewhere.zip"', path.read_text()))
    message = "the run's training_options.json gives the training set as elsewhere.zip, which is not found from this"
    assert f'{message} folder; give its path now with --knn-ref' in failure(f'--expdir={fresh}', '--seeds=0-3')


def test_a_missing_run_folder_is_named(tmp_path):
    for arguments in ([], ['-n']):
        assert f'--expdir={tmp_path}/none: no such folder' in failure(f'--expdir={tmp_path}/none', *arguments)


def test_edm_pickles_are_evaluated_like_snapshots(fresh, digits_20, tmp_path_factory):
    common = [f'--knn-ref={digits_20}', '--seeds=0-9', '--steps=4']
    assert run(f'--expdir={fresh}', *common).exit_code == 0
    folder = tmp_path_factory.mktemp('edm')
    for _, path in list_snapshots(fresh):
        (folder / f'{path.stem}.pkl').write_bytes(pickle_of(path))
    assert 'training_options.json: no such file; give --knn-ref' in failure(f'--expdir={folder}')
    result = run(f'--expdir={folder}', *common)
    assert result.exit_code == 0, result.output
    differing = ('seconds', 'snapshot', 'snapshot_sha256')
    assert records(folder, differing) == records(fresh, differing)
    assert [record['snapshot'] for record in records(folder)] == [
        'network-snapshot-000002.pkl', 'network-snapshot-000001.pkl'
    ]  # fmt: skip
    assert [record['epochs'] for record in records(folder)] == [100, 50]
    assert run(f'--expdir={folder}', *common).stdout.count('(already evaluated)') == 2


def test_a_hostile_pickle_in_a_run_is_named_in_the_error(fresh, digits_20):
    path = fresh / 'network-snapshot-000003.pkl'
    path.write_bytes(b'cos\nsystem\n(S"false"\ntR.')
    message = failure(f'--expdir={fresh}', f'--knn-ref={digits_20}')
    assert f"{path} is not an EDM network pickle that can be read safely: it asks for 'os.system'" in message
    assert not (fresh / 'mem_traj.jsonl').exists()


def test_images_and_their_table_are_saved_on_request(fresh, digits_20):
    assert run(f'--expdir={fresh}', '--seeds=998-1001', '--steps=4', '--save-images', '--subdirs').exit_code == 0
    folder = fresh / 'images-000002'
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob('*.png'))
    assert names == ['000000/000998.png', '000000/000999.png', '001000/001000.png', '001000/001001.png']
    images = np.stack([np.asarray(PIL.Image.open(folder / name)) for name in names])[:, None]
    expected = memorization_ratio(images, load_dataset(str(digits_20)).images)
    rows = list(csv.DictReader((folder / 'nearest.csv').read_text().splitlines()))
    assert [int(row['image']) for row in rows] == [998, 999, 1000, 1001]
    assert [int(row['nearest']) for row in rows] == expected.indices[:, 0].tolist()
    assert [int(row['squared_distance']) for row in rows] == expected.squared_distances[:, 0].tolist()
    assert [int(row['memorized']) for row in rows] == expected.memorized.int().tolist()


def test_images_are_also_saved_if_the_records_exist_and_are_not_mixed_with_others(fresh):
    folder, common = fresh / 'images-000002', [f'--expdir={fresh}', '--steps=4']
    assert run(*common, '--seeds=0-7').exit_code == 0
    before = records(fresh)
    assert run(*common, '--seeds=0-7', '--save-images').exit_code == 0
    assert records(fresh) == before
    saved = {path: path.read_bytes() for path in fresh.glob('images-*/*')}
    assert len(saved) == 2 * 11  # 8 images, the table, and the settings of both
    message = failure(f'--expdir={fresh}', '--steps=5', '--seeds=0-3', '--save-images')
    assert f'{folder} contains images made with other settings (num_steps was 4, not 5); move or delete' in message
    assert {path: path.read_bytes() for path in fresh.glob('images-*/*')} == saved
    note = f'Note: {folder} also contains 4 images of other seeds, which nearest.csv does not list.'
    assert note in run(*common, '--seeds=0-3', '--save-images').output
    assert 'of other seeds' not in run(*common, '--seeds=0-7', '--save-images').output
    message = failure(*common, '--seeds=0-7', '--save-images', '--subdirs')
    assert f'{folder} contains images outside subfolders; remove --subdirs, or move or delete this folder' in message
    assert {path: path.read_bytes() for path in fresh.glob('images-*/*')} == saved
    (folder / 'settings.json').unlink()
    assert 'contains images of unknown origin; move or delete' in failure(*common, '--seeds=0-7', '--save-images')


@pytest.mark.parametrize('other', [['--seeds=4-7'], ['--seeds=0-3', '--knn-ref=digits'], ['--seeds=0-3', '--xflip=1']])
def test_tables_of_saved_images_are_those_of_the_latest_evaluation(fresh, other):
    common = [f'--expdir={fresh}', '--steps=2', '--save-images']
    found = []
    for options in (['--seeds=0-3'], other, ['--seeds=0-3']):
        assert run(*common, *options).exit_code == 0
        found.append([path.read_bytes() for path in sorted(fresh.glob('images-*/nearest.csv'))])
    assert len(found[0]) == 2
    assert found[0] == found[2] != found[1]
    before = {path: path.stat().st_mtime_ns for path in fresh.glob('images-*/*')}
    assert run(*common, '--seeds=0-3').exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in fresh.glob('images-*/*')} == before


@pytest.mark.slow
def test_records_do_not_depend_on_the_number_of_ranks(fresh, digits_20):
    found = []
    for ranks, seeds in [(1, '0-39'), (2, '0-39'), (3, '0-39'), (1, '0'), (3, '0')]:
        run_script('mem_ratio.py', f'--expdir={fresh}', f'--knn-ref={digits_20}', f'--seeds={seeds}', '--batch=8',
                   '--save-images', '--steps=8', ranks=ranks)  # fmt: skip
        found.append((records(fresh), (fresh / 'images-000001' / 'nearest.csv').read_bytes()))
        (fresh / 'mem_traj.jsonl').unlink()
    assert found[0] == found[1] == found[2]
    assert found[3] == found[4]


@pytest.mark.slow
def test_the_log_file_can_be_chosen_under_torchrun(fresh, digits_20, tmp_path):
    """Unless -- precedes the script, torchrun (torch 2.13) takes --log for one of its own options."""
    script, *rest = command('mem_ratio.py', f'--expdir={fresh}', f'--knn-ref={digits_20}', '--seeds=0-3', '--steps=3',
                            f'--log={tmp_path}/elsewhere.log')[1:]  # fmt: skip
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', '--']
    subprocess.run([*launcher, script, *rest], env=environment(), check=True, capture_output=True)
    assert len((tmp_path / 'elsewhere.jsonl').read_text().splitlines()) == 2


@pytest.mark.parametrize('kind', ['folder', 'zip', 'npz-nhwc', 'npz-nchw'])
def test_images_from_any_source_are_evaluated(digits_20, tmp_path, kind):
    images = load_dataset(str(digits_20)).images[:12].numpy().copy()
    images[:6] = 255 - images[:6]
    if kind.startswith('npz'):
        path = tmp_path / 'images.npz'
        if kind == 'npz-nchw':
            np.savez(path, images=images)
        else:
            np.savez(path, images.transpose(0, 2, 3, 1))
    else:
        path = tmp_path / 'images'
        path.mkdir()
        for index, image in enumerate(images):
            PIL.Image.fromarray(image[0]).save(path / f'{index:03d}.png')
        if kind == 'zip':
            run_script('dataset_tool.py', f'--source={path}', f'--dest={tmp_path}/images.zip')
            path = tmp_path / 'images.zip'
    expected = memorization_ratio(images, load_dataset(str(digits_20)).images)
    assert 6 <= expected.num_memorized < 12
    gallery = tmp_path / 'gallery.png'
    result = run(f'--images={path}', f'--knn-ref={digits_20}', f'--gallery={gallery}', '--json')
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout.splitlines()[0])
    assert (record['num_images'], record['num_memorized']) == (12, expected.num_memorized)
    assert gallery.exists()


def test_a_training_set_with_another_image_shape_is_named_in_the_error(fresh, tmp_path):
    other = tmp_path / 'other'
    other.mkdir()
    for index in range(3):
        PIL.Image.new('RGB', (8, 8), (index, 0, 0)).save(other / f'{index}.png')
    message = failure(f'--expdir={fresh}', f'--knn-ref={other}')
    assert '8x8 with 3 channels' in message
    assert 'makes 8x8 with 1; give images of the same shape' in message


def test_fewer_than_two_distinct_training_images_are_named_in_the_error(fresh, tmp_path):
    other = tmp_path / 'other'
    other.mkdir()
    for index in range(3):
        PIL.Image.new('L', (8, 8), 7).save(other / f'{index}.png')
    assert '1 distinct image; the ratio needs at least two' in failure(f'--expdir={fresh}', f'--knn-ref={other}')


@pytest.mark.parametrize(
    ('arguments', 'message', 'status'),
    [
        (['--expdir=nowhere'], '--expdir=nowhere: no such folder', 1),
        ([], 'give exactly one of --expdir', 2),
        (['--images=x', '--expdir=y'], 'give exactly one of --expdir', 2),
        (['--images=x'], '--images requires --knn-ref', 2),
        (['--images=nowhere.npz', '--knn-ref=digits'], '--images=nowhere.npz', 1),
        (['--images=nowhere', '--knn-ref=digits'], '--images=nowhere', 1),
        (['--expdir=x', '--seeds=5-1'], 'the range 5-1 is empty', 2),
    ],
)
def test_invalid_arguments_give_a_one_sentence_error(arguments, message, status):
    assert message in failure(*arguments, status=status)


def test_a_class_that_the_network_does_not_have_is_refused(fresh):
    assert 'the denoiser has 10 classes, 0 to 9' in failure(f'--expdir={fresh}', '--class=10')


def test_a_run_without_snapshots_is_refused(tmp_path, digits_20):
    assert 'no network-snapshot' in failure(f'--expdir={tmp_path}', f'--knn-ref={digits_20}')


def test_a_truncated_snapshot_is_named_in_the_error(fresh):
    path = list_snapshots(fresh)[-1][1]
    path.write_bytes(path.read_bytes()[:-100])
    assert f'{path} is not a complete snapshot' in failure(f'--expdir={fresh}')


@pytest.mark.parametrize(
    ('arrays', 'message'),
    [
        ({'other': np.zeros((2, 8, 8, 1), np.uint8)}, 'no array named images or arr_0'),
        ({'images': np.zeros((2, 8, 8, 1), np.float32)}, 'float32'),
        ({'images': np.zeros((2, 8, 8), np.uint8)}, 'must be uint8'),
        ({'images': np.array([{}], dtype=object)}, 'not a readable .npz'),
        ({'images': np.zeros((2, 9, 9, 1), np.uint8)}, '9x9'),
    ],
)
def test_an_npz_file_without_images_is_named_in_the_error(tmp_path, arrays, message):
    path = tmp_path / 'images.npz'
    np.savez(path, **arrays)
    assert message in failure(f'--images={path}', '--knn-ref=digits')
