"""Each image is sampled once for all measurements, on any number of ranks and after interruptions."""

import csv
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from tqdm import tqdm

import mem_ratio
import train
from evaluation.consumers import CONSUMERS
from evaluation.memorization import TrainingSet
from evaluation.one_pass import Consumer, Context, PartialResults, one_pass
from tests.helpers import TINY, run_script
from training.dataset import load_dataset
from training.sampling import GeneratedBatch
from training.snapshot import list_snapshots

DRIVER = Path(__file__).with_name('counting_mem_ratio.py')
STEPS = 3
# Heun's method evaluates the denoiser twice in every step except the last.
EVALUATIONS = 2 * STEPS - 1
SEEDS = 30


@pytest.fixture(scope='module')
def run_dir(digits_20, tmp_path_factory):
    """A run folder with snapshots at 0, 1, 2 and 3 kimg."""
    run_dir = tmp_path_factory.mktemp('run')
    arguments = ['--nosubdir', f'--data={digits_20}', *TINY, '--cond=1', '--batch=20', '--lr=5e-3', '--warmup=0',
                 '--epochs=150', '--tick=1', '--snap=1', '--seed=1']  # fmt: skip
    assert CliRunner().invoke(train.main, [f'--outdir={run_dir}', *arguments]).exit_code == 0
    assert [kimg for kimg, _ in list_snapshots(run_dir)] == [0, 1, 2, 3]
    return run_dir


@pytest.fixture
def make_run(run_dir, tmp_path):
    """A function that copies the run without its evaluations."""

    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        for path in [*run_dir.glob('network-snapshot-*'), run_dir / 'training_options.json']:
            (folder / path.name).write_bytes(path.read_bytes())
        return folder

    return make


def evaluate(folder, ranks=1, kill_after=0):
    """Evaluate a run with every kind of output; return the number of denoised images."""
    count = folder / 'count'
    result = run_script(DRIVER, count, str(kill_after), f'--expdir={folder}', f'--seeds=0-{SEEDS - 1}', '--batch=4',
                        f'--steps={STEPS}', '--metrics=all', '--metrics-for=all', '--extractor=pixels',
                        '--test-ref=digits', f'--table={folder}/table.csv', '--save-images', '--json',
                        ranks=ranks, check=False)  # fmt: skip
    denoised = len(count.read_text().splitlines())
    count.unlink()
    if kill_after:
        assert result.returncode != 0
    else:
        assert result.returncode == 0, result.stderr
        (folder / 'stdout.jsonl').write_text(result.stdout)
    return denoised


def outputs(folder):
    """Contents of all files that an evaluation wrote, by name; the times in records are left out."""
    found = {}
    for path in sorted(folder.rglob('*')):
        name = str(path.relative_to(folder))
        if path.suffix == '.jsonl':
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in line.items() if key != 'seconds'} for line in lines]
        elif path.suffix == '.log':
            found[name] = [line.split('  time ')[0] for line in path.read_text().splitlines()]
        elif path.is_file() and path.suffix != '.safetensors':
            found[name] = path.read_bytes()
    return found


@pytest.mark.slow
def test_each_image_is_sampled_once_on_any_number_of_ranks_even_after_an_interruption(make_run):
    expected = None
    for ranks in (1, 2):
        folder = make_run(f'{ranks} ranks')
        assert evaluate(folder, ranks) == 3 * SEEDS * EVALUATIONS
        expected = expected or outputs(folder)
        assert outputs(folder) == expected
        killed = make_run(f'{ranks} ranks, killed')
        per_rank = 3 * SEEDS * EVALUATIONS // ranks
        evaluate(killed, ranks, kill_after=per_rank // 2)
        assert list((killed / 'mem_traj.partial').iterdir())
        left = evaluate(killed, ranks)
        # One batch per rank was in progress when the process was killed.
        assert left <= 3 * SEEDS * EVALUATIONS - (per_rank // 2 - 4 * EVALUATIONS) * ranks
        assert outputs(killed) == expected
    assert not any('partial' in name for name in expected)
    # The metrics on features are among them.
    assert all({'frechet', 'kernel_distance'} <= record['metrics'].keys() for record in expected['mem_traj.jsonl'])


def test_gallery_and_table_show_the_evaluated_images(make_run, monkeypatch):
    folder, shown = make_run('run'), []

    def record_images(images, *_):
        shown.append(images)
        return PIL.Image.new('L', (1, 1))

    monkeypatch.setattr('evaluation.evaluate.draw_gallery', record_images)
    arguments = [f'--expdir={folder}', f'--seeds=0-{SEEDS - 1}', '--batch=4', f'--steps={STEPS}', '--save-images']
    result = CliRunner().invoke(mem_ratio.main, [*arguments, f'--table={folder}/table.csv', '--json'])
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in result.stdout.splitlines()]
    best = max(records, key=lambda record: (record['ratio'], record['kimg']))
    images = folder / f'images-{best["snapshot"].removesuffix(".safetensors").split("-")[-1]}'
    saved = np.stack([np.asarray(PIL.Image.open(images / f'{seed:06d}.png')) for seed in range(SEEDS)])[:, None]
    assert (shown[-1].numpy() == saved).all()
    assert (folder / 'table.csv').read_bytes() == (images / 'nearest.csv').read_bytes()
    with np.load(folder / 'mem_best.npz') as data:
        assert (data['images'] == saved).all()
        classes = data['classes'].tolist()
    rows = list(csv.DictReader((folder / 'table.csv').read_text().splitlines()))
    assert [int(row['class']) for row in rows] == classes


class Brightness(Consumer):
    def take(self, batch):
        return {'mean': batch.images.double().mean(dim=(1, 2, 3)).cpu()}

    def finish(self, images, result):
        return {'brightness': self.rows('mean').tolist()}


def test_a_new_consumer_needs_one_class_and_one_line(make_run, digits_20, monkeypatch):
    monkeypatch.setitem(CONSUMERS, 'brightness', Brightness)
    run = make_run('run')
    arguments = [
        f'--expdir={run}',
        '--seeds=3-9',
        '--batch=4',
        f'--steps={STEPS}',
        '--save-images',
        '--json',
    ]
    result = CliRunner().invoke(mem_ratio.main, arguments)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout.splitlines()[0])
    folder = run / 'images-000003'
    expected = [np.asarray(PIL.Image.open(folder / f'{seed:06d}.png')).mean() for seed in range(3, 10)]
    assert record['brightness'] == pytest.approx(expected)
    given = CliRunner().invoke(mem_ratio.main, [f'--images={folder}', f'--knn-ref={digits_20}', '--json'])
    assert json.loads(given.stdout)['brightness'] == pytest.approx(expected)


def images_of(seeds):
    """A 2x2 image for each seed, with the seed as the value of all pixels."""
    return torch.tensor(seeds, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)


def generate(batches):
    for seeds in batches:
        yield GeneratedBatch(list(seeds), images_of(seeds))


class Keep(Consumer):
    def take(self, batch):
        return {'pixels': batch.images}


@pytest.fixture(scope='module')
def training_set(digits_20):
    return TrainingSet(load_dataset(str(digits_20)))


def run_pass(training_set, folder, names, settings=None, seeds=range(10)):
    """Sample the seeds in one pass for consumers with these names; return the consumers and the sampled seeds."""
    sampled = []

    def recording(batches):
        for batch in generate(batches):
            sampled.extend(batch.seeds)
            yield batch

    context = Context(list(seeds), 4, training_set=training_set)
    consumers = {name: Keep(context) for name in names}
    one_pass(recording, context, consumers, PartialResults(folder, settings or {}), tqdm(disable=True))
    return consumers, sampled


@pytest.fixture
def partial(training_set, tmp_path, monkeypatch):
    """Folder with partial results of two consumers, named a and b, for the seeds 0 to 7."""
    monkeypatch.setattr('evaluation.one_pass.SECONDS_BETWEEN_SAVES', 0)
    run_pass(training_set, tmp_path / 'partial', 'ab', seeds=range(8))
    return tmp_path / 'partial'


def test_a_resumed_pass_samples_only_images_that_some_consumer_lacks(training_set, partial):
    for names in ('ab', 'a'):
        consumers, sampled = run_pass(training_set, partial, names)
        assert sampled == ([8, 9] if names == 'ab' else [])
        for consumer in consumers.values():
            assert torch.equal(consumer.rows('pixels'), images_of(range(10)))


@pytest.mark.parametrize('change', ['consumer', 'settings', 'broken'])
def test_partial_results_that_are_damaged_or_of_another_pass_are_ignored(training_set, partial, change):
    if change == 'broken':
        for path in partial.iterdir():
            path.write_bytes(path.read_bytes()[:-200])
    settings = {'seeds': '0-9'} if change == 'settings' else {}
    _, sampled = run_pass(training_set, partial, 'abc' if change == 'consumer' else 'ab', settings)
    assert sampled == list(range(10))


def test_a_pass_without_a_folder_saves_nothing(training_set, tmp_path, monkeypatch):
    monkeypatch.setattr('evaluation.one_pass.SECONDS_BETWEEN_SAVES', 0)
    monkeypatch.chdir(tmp_path)
    run_pass(training_set, None, 'a')
    assert not list(tmp_path.iterdir())
