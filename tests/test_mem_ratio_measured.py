"""mem_ratio.py with metrics for every snapshot, with copy rules other than pixel distances, and with tables of copied
training images."""

import csv
import json
import shutil
from functools import partial

import numpy as np
import PIL.Image
import pytest

import mem_ratio
import train
from evaluation.copy_rules import find_copies
from evaluation.evaluation_options import copy_rule
from evaluation.metrics import compute_metrics
from evaluation.spaces import FeatureSpace
from tests.helpers import TINY, failure_of, invoke, run_script
from tests.test_mem_ratio_images import evaluated, network_images
from training.dataset import load_dataset

run = partial(invoke, mem_ratio.main)
failure = partial(failure_of, mem_ratio.main)


@pytest.fixture(scope='module')
def trained(digits_20, tmp_path_factory):
    """Folder of a run with snapshots at 0, 1 and 2 kimg."""
    folder = tmp_path_factory.mktemp('trained')
    arguments = [f'--outdir={folder}', '--nosubdir', f'--data={digits_20}', *TINY, '--batch=20', '--epochs=100']
    assert invoke(train.main, *arguments, '--tick=1', '--snap=1').exit_code == 0
    return folder


@pytest.fixture
def run_dir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / 'run')


def flat(images):
    return np.asarray(images).reshape(len(images), -1).astype(np.float32)


def test_the_trajectory_file_has_the_metrics_of_all_snapshots(run_dir, digits_20):
    common = [f'--expdir={run_dir}', '--seeds=0-11', '--steps=3', '--batch=5']
    options = ['--metrics=frechet', '--extractor=pixels', '--test-ref=digits']
    records = evaluated(*common, *options, '--metrics-for=all')
    assert len(records) == 2
    lines = [json.loads(line) for line in (run_dir / 'mem_traj.jsonl').read_text().splitlines()]
    assert [line['metrics'] for line in lines] == [record['metrics'] for record in records]
    training, test = flat(load_dataset(str(digits_20)).images), flat(load_dataset('digits').images)
    for record in records:
        made = network_images(run_dir / record['snapshot'], range(12), 5, num_steps=3)
        expected = compute_metrics(['frechet'], FeatureSpace(), flat(made), training, test)
        assert record['metrics'] == json.loads(json.dumps(expected))
    found = records[0]['metrics']['frechet']
    text = f'Fréchet {found["to_training"]:,.0f} training, {found["to_test"]:,.0f} held-out'
    assert text in (run_dir / 'mem_traj.log').read_text()
    # An existing record is reused only if it has exactly the requested metrics.
    assert run(*common, *options, '--metrics-for=all').stdout.count('(already evaluated)') == 2
    assert 'already evaluated' not in run(*common, '--metrics=authenticity', '--metrics-for=all').stdout
    assert 'already evaluated' not in run(*common).stdout
    assert all('metrics' not in record for record in evaluated(*common))


@pytest.mark.slow
def test_metrics_of_all_snapshots_are_equal_on_any_number_of_ranks(trained, tmp_path):
    found = []
    for ranks in (1, 2, 3):
        folder = shutil.copytree(trained, tmp_path / str(ranks))
        result = run_script('mem_ratio.py', f'--expdir={folder}', '--seeds=0-20', '--steps=3', '--batch=4', '--json',
                            '--metrics=frechet,kernel_distance', '--metrics-for=all', '--extractor=pixels',
                            '--test-ref=digits', '--space=features', '--copy-rule=cosine:0.9', ranks=ranks)  # fmt: skip
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        found.append([{name: value for name, value in line.items() if name != 'seconds'} for line in lines])
        assert (folder / 'mem_copied.csv').read_bytes() == (tmp_path / '1' / 'mem_copied.csv').read_bytes()
    assert found[0] == found[1] == found[2]


@pytest.fixture
def given(digits_20, tmp_path):
    """Path of 14 images: training image 3 twice, training images 5 and 7 once (7 darkened), and ten other digits."""
    training, others = np.asarray(load_dataset(str(digits_20)).images), np.asarray(load_dataset('digits').images)
    path = tmp_path / 'made.npy'
    np.save(path, np.concatenate([training[[3, 3, 5]], training[7:8] // 2, others[900:910]]))
    return path


def test_copies_in_features_are_reported_with_their_background_rate(given, digits_20):
    common = f'--images={given}', f'--knn-ref={digits_20}'
    (plain,) = evaluated(*common)
    features = ['--space=features', '--extractor=pixels', '--test-ref=digits']
    (record,) = evaluated(*common, *features, '--copy-rule=cosine:0.97')
    training, test = flat(load_dataset(str(digits_20)).images), flat(load_dataset('digits').images)
    flags, _ = find_copies(copy_rule('cosine:0.97'), FeatureSpace(), flat(np.load(given)), training)
    assert record['copies']['num_copies'] == int(flags.sum()) >= 4  # cosine ignores brightness
    background, _ = find_copies(copy_rule('cosine:0.97'), FeatureSpace(), test, training)
    assert record['copies']['background']['num_copies'] == int(background.sum()) >= 20
    assert [record[name] for name in ('ratio', 'num_memorized')] == [plain['ratio'], plain['num_memorized']]
    assert 'copies' not in plain
    text = run(*common, *features, '--copy-rule=cosine:0.97').stdout
    assert 'Copies in features, rule cosine:0.97: ' in text
    assert 'background, 1797 held-out images: ' in text
    (relative,) = evaluated(*common, *features[:2])
    assert relative['copies']['rule'] == 'relative'
    assert relative['copies']['num_copies'] == plain['num_memorized']  # the features are the pixels
    (adaptive,) = evaluated(*common, '--copy-rule=adaptive')
    assert (adaptive['copies']['space'], adaptive['copies']['background']) == ('pixels', None)


def test_copied_training_images_are_reported(given, digits_20, tmp_path):
    table = tmp_path / 'who.csv'
    arguments = f'--images={given}', f'--knn-ref={digits_20}', f'--copied={table}'
    (record,) = evaluated(*arguments)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    expected = {'training_image': '3', 'training_file': '', 'class': '1', 'copies': '2', 'images': '0 1'}
    assert rows[0] == {'set': 'made.npy', **expected}
    assert record['copied']['num_images'] == len(rows)
    assert record['copied']['share'] == len(rows) / 20
    labels = load_dataset(str(digits_20)).labels.tolist()
    assert [int(row['class']) for row in rows] == [labels[int(row['training_image'])] for row in rows]
    classes = list(csv.DictReader((tmp_path / 'who_classes.csv').read_text().splitlines()))
    assert len(classes) == 10
    assert sum(int(row['copies']) for row in classes) == record['num_memorized']
    assert PIL.Image.open(tmp_path / 'who.png').width > 100
    assert f'Copied: {len(rows)} training images' in run(*arguments).stdout


def test_evaluating_a_run_always_writes_the_tables_of_copied_images(run_dir):
    evaluated(f'--expdir={run_dir}', '--seeds=0-5', '--steps=2')
    names = {path.name for path in run_dir.iterdir()}
    assert {'mem_copied.csv', 'mem_copied_classes.csv'} <= names


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--space=features'], '--space=features requires --extractor or --features'),
        (
            ['--copy-rule=cosine:0.5', '--extractor=pixels'],
            '--copy-rule=cosine compares features; add --space=features',
        ),
        (
            ['--copy-rule=cosine:0.5', '--space=features', '--extractor=pixels'],
            '--copy-rule=cosine requires --test-ref or, with --features, a third file',
        ),
        (['--copy-rule=l2'], "'l2' is not relative, adaptive, or cosine with a threshold"),
        (['--metrics-for=all', '--metrics=frechet'], '--metrics-for has no effect with --images'),
    ],
)
def test_options_that_contradict_each_other_are_named_in_the_error(arguments, message):
    assert message in failure('--images=x', '--knn-ref=y', *arguments, status=2)
    assert 'all require --metrics' in failure('--expdir=x', '--metrics-for=all', status=2)
    race = '--race', '--metrics-for=all', '--metrics=frechet'
    assert '--race samples a different number of images' in failure('--expdir=x', *race, status=2)
