"""mem_ratio.py on image files, on a single snapshot and on a closed form, with valid and invalid input."""

import csv
import json
import math
from functools import partial
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import mem_ratio
import train
from dnnlib.util import file_sha256
from evaluation.memorization import memorization_ratio
from evaluation.metrics import compute_metrics, requested
from evaluation.spaces import FeatureSpace, PixelSpace
from tests.helpers import TINY, failure_of, invoke, run_script
from training.dataset import load_dataset
from training.sampling import SamplerOptions, generate_images, seed_batches
from training.snapshot import list_snapshots, load_network

run = partial(invoke, mem_ratio.main)
failure = partial(failure_of, mem_ratio.main)


def evaluated(*arguments):
    """The records printed by `mem_ratio.py --json`."""
    result = run(*arguments, '--json')
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope='module')
def reference(digits_20):
    return load_dataset(str(digits_20)).images


@pytest.fixture(scope='module')
def images(reference):
    """Six copies of training images (the first altered in one pixel, the last two equal) and six images of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
    copies = reference[[0, 1, 2, 3, 4, 4]].numpy().copy()
    copies[0, 0, 0, 0] ^= 1
    return np.concatenate([copies, noise])


@pytest.fixture
def array(images, tmp_path):
    np.save(tmp_path / 'made.npy', images)
    return tmp_path / 'made.npy'


@pytest.fixture(scope='module')
def snapshot(digits_20, tmp_path_factory):
    folder = tmp_path_factory.mktemp('one')
    arguments = [f'--outdir={folder}', '--nosubdir', f'--data={digits_20}', *TINY, '--cond=1', '--batch=20']
    assert invoke(train.main, *arguments, '--epochs=50', '--tick=1', '--snap=1').exit_code == 0
    return list_snapshots(folder)[-1][1]


def test_images_from_several_kinds_of_sources_give_one_table(digits_20, images, reference, tmp_path):
    folder = tmp_path / 'deep'
    for index, image in enumerate(images):
        (folder / f'{index % 2}').mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image[0]).save(folder / f'{index % 2}' / f'{index:02d}.png')
    np.save(tmp_path / 'a.npy', images)
    np.savez(tmp_path / 'b.npz', images=images.transpose(0, 2, 3, 1)[:7])
    sets = [f'--images={path}' for path in (folder, tmp_path / 'a.npy', tmp_path / 'b.npz')]
    records = evaluated(*sets, f'--knn-ref={digits_20}')
    assert [record['images'] for record in records] == ['deep', 'a.npy', 'b.npz']
    expected = memorization_ratio(images, reference), memorization_ratio(images[:7], reference)
    found = [(record['num_images'], record['num_memorized']) for record in records]
    assert found == [(12, expected[0].num_memorized)] * 2 + [(7, expected[1].num_memorized)]
    lines = run(*sets, f'--knn-ref={digits_20}').stdout.splitlines()
    assert lines[0].split()[:3] == ['images', 'count', 'copies']
    assert [line.split()[:3] for line in lines[1:]] == [
        [record['images'], str(record['num_images']), f'{100 * record["ratio"]:.2f}'] for record in records
    ]


@pytest.mark.parametrize('kind', ['npz', 'npy', 'folder'])
def test_the_training_set_may_be_any_kind_of_source(reference, array, tmp_path, kind, digits_20):
    path = tmp_path / f'reference.{kind}'
    pixels = reference.numpy()
    if kind == 'folder':
        path.mkdir()
        for index, image in enumerate(pixels):
            PIL.Image.fromarray(image[0]).save(path / f'{index:03d}.png')
    else:
        np.save(path, pixels) if kind == 'npy' else np.savez(path, pixels)
    (record,) = evaluated(f'--images={array}', f'--knn-ref={path}', f'--table={tmp_path}/table.csv')
    for row in csv.DictReader((tmp_path / 'table.csv').read_text().splitlines()):
        assert row['nearest_file'] == (f'{int(row["nearest"]):03d}.png' if kind == 'folder' else '')
    (other,) = evaluated(f'--images={array}', f'--knn-ref={digits_20}')
    differing = ('dataset', 'dataset_sha256', 'copied')  # the archive also has labels
    assert {k: v for k, v in record.items() if k not in differing} == {
        k: v for k, v in other.items() if k not in differing
    }


def test_the_table_has_a_row_for_each_image(digits_20, array, images, reference, tmp_path):
    path = tmp_path / 'table.csv'
    evaluated(f'--images={array}', f'--knn-ref={digits_20}', f'--table={path}')
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row['image'] for row in rows] == [str(index) for index in range(12)]
    distances = ((images[:, None].astype(float) - reference.numpy()[None]) ** 2).sum(axis=(2, 3, 4))
    order = np.argsort(distances, axis=1, kind='stable')
    for place, row in enumerate(rows):
        nearest, second = order[place, :2]
        assert (int(row['nearest']), int(row['second'])) == (nearest, second)
        first, other = distances[place, nearest], distances[place, second]
        assert (int(row['squared_distance']), int(row['second_squared_distance'])) == (first, other)
        assert row['memorized'] == str(int(math.sqrt(first) < math.sqrt(other) / 3))
    assert [row['exact'] for row in rows[:6]] == ['0', '1', '1', '1', '1', '1']
    assert [row['duplicate'] for row in rows] == ['0'] * 5 + ['1'] + ['0'] * 6


def test_table_rows_for_a_folder_contain_its_file_names(digits_20, images, tmp_path):
    folder = tmp_path / 'samples'
    for name in ('a/1.png', 'b/0.png'):
        (folder / name).parent.mkdir(parents=True)
        PIL.Image.fromarray(images[len(name)][0]).save(folder / name)
    evaluated(f'--images={folder}', f'--knn-ref={digits_20}', f'--table={tmp_path}/table.csv')
    rows = list(csv.DictReader((tmp_path / 'table.csv').read_text().splitlines()))
    assert [(row['set'], row['image']) for row in rows] == [('samples', 'a/1.png'), ('samples', 'b/0.png')]


def test_metrics_and_copy_rules_compare_mirrored_images_if_the_ratio_does(tmp_path):
    random = np.random.default_rng(0)
    training, test, made = (random.integers(0, 256, (size, 1, 8, 8), dtype=np.uint8) for size in (80, 40, 30))
    made[:9] = training[:9, ..., ::-1]
    for name, pixels in (('training', training), ('test', test), ('made', made)):
        np.save(tmp_path / f'{name}.npy', pixels.transpose(0, 2, 3, 1))
    sets = [f'--images={tmp_path}/made.npy', f'--knn-ref={tmp_path}/training.npy', f'--test-ref={tmp_path}/test.npy']
    (record,) = evaluated(*sets, '--xflip=1', '--metrics=all', '--copy-rule=adaptive')
    expected = compute_metrics(requested(['all'], True, False), PixelSpace(mirrored=True), made, training, test)
    assert record['metrics'] == json.loads(json.dumps(expected))
    assert (record['num_memorized'], record['copies']['num_copies']) == (9, 9)
    (record,) = evaluated(*sets, '--copy-rule=adaptive')
    assert (record['num_memorized'], record['copies']['num_copies']) == (0, 0)


def test_copies_of_training_images_with_near_copies_are_not_far_from_data_and_a_warning_is_printed(tmp_path):
    random = np.random.default_rng(0)
    originals = random.integers(50, 200, (40, 8, 8, 1), dtype=np.uint8)
    made = originals + random.integers(0, 5, originals.shape, dtype=np.uint8)
    np.save(tmp_path / 'made.npy', made)
    for count, is_warned in [(40, True), (1, False)]:  # all images, or 2 of 41, have near-copies
        training = np.concatenate([originals, originals[:count] + 1])
        np.save(tmp_path / 'training.npy', training)
        arguments = f'--images={tmp_path}/made.npy', f'--knn-ref={tmp_path}/training.npy', '--copy-rule=adaptive'
        result = run(*arguments, '--json')
        record = json.loads(result.stdout)
        assert (record['num_far'], record['num_memorized']) == (0, 40 - count)
        assert record['copies']['num_copies'] == 40
        assert ('100 % of the images in' in result.stderr) == is_warned
        assert ('near-copies' in result.stderr) == is_warned


def test_metrics_are_reported_together_with_the_ratio(digits_20, array, images, reference):
    test = load_dataset('digits').images
    (record,) = evaluated(f'--images={array}', f'--knn-ref={digits_20}', '--metrics=all', '--test-ref=digits')
    expected = compute_metrics(requested(['all'], True, False), PixelSpace(), images, reference, test)
    assert record['metrics'] == json.loads(json.dumps(expected))
    assert record['metrics_space'] == 'pixels'
    (record,) = evaluated(f'--images={array}', f'--knn-ref={digits_20}', '--metrics=all')
    assert list(record['metrics']) == ['ratio_curve', 'authenticity', 'precision_recall']


def test_the_table_of_metrics_shows_what_memorization_looks_like(digits_20, array):
    lines = run(f'--images={array}', f'--knn-ref={digits_20}', '--metrics=all').stdout.splitlines()
    signs = {line.split()[0]: line for line in lines if ' near 0' in line or ' above 0' in line}
    assert set(signs) == {'ratio_curve.mean', 'authenticity.authpct', 'authenticity.authpct_distinct'}
    assert lines[-1] == (
        'Metrics left out: copying_test, test_gap (add --test-ref or, with --features, a third file); '
        'frechet, kernel_distance (add --extractor or --features)'
    )
    text = run(f'--images={array}', f'--knn-ref={digits_20}', '--metrics=authenticity').stdout
    assert 'left out' not in text


def test_a_held_out_set_that_shares_training_images_gives_a_warning(digits_20, array, tmp_path):
    common = f'--images={array}', f'--knn-ref={digits_20}', '--metrics=test_gap'
    text = run(*common, '--test-ref=digits').stdout
    assert 'Warning: 20 of the 1,797 held-out images in digits are also in the training set' in text
    np.save(tmp_path / 'others.npy', load_dataset('digits').images[1000:1040].numpy())
    assert 'Warning' not in run(*common, f'--test-ref={tmp_path}/others.npy').stdout


def test_metrics_can_be_computed_on_given_features(digits_20, array, tmp_path):
    random = np.random.default_rng(1)
    parts: Any = [random.normal(size=(count, 7)).astype(np.float32) for count in (12, 20, 30)]
    paths = [tmp_path / f'{name}.npy' for name in ('gen', 'ref', 'test')]
    for path, part in zip(paths, parts, strict=True):
        np.save(path, part)
    features = ','.join(map(str, paths))
    common = f'--images={array}', f'--knn-ref={digits_20}', '--metrics=test_gap,precision_recall'
    (record,) = evaluated(*common, f'--features={features}')
    expected = compute_metrics(['test_gap', 'precision_recall'], FeatureSpace(), *parts)
    assert record['metrics'] == json.loads(json.dumps(expected))
    assert record['metrics_space'] == 'features'
    (plain,) = evaluated(f'--images={array}', f'--knn-ref={digits_20}')
    assert record['ratio'] == plain['ratio']
    (record,) = evaluated(*common[:2], '--metrics=frechet,kernel_distance', f'--features={features}')
    expected = compute_metrics(['frechet', 'kernel_distance'], FeatureSpace(), *parts)
    assert record['metrics'] == json.loads(json.dumps(expected))


def test_metrics_can_be_computed_on_extracted_features(digits_20, array, images, reference):
    test = load_dataset('digits').images
    common = f'--images={array}', f'--knn-ref={digits_20}'
    (record,) = evaluated(*common, '--metrics=frechet,kernel_distance', '--test-ref=digits', '--extractor=pixels')
    rows: Any = [np.asarray(part).reshape(len(part), -1).astype(np.float32) for part in (images, reference, test)]
    expected = compute_metrics(['frechet', 'kernel_distance'], FeatureSpace(), *rows)
    assert record['metrics'] == json.loads(json.dumps(expected))
    assert (record['metrics_space'], record['extractor']) == ('features', 'pixels')
    assert record['ratio'] == evaluated(*common)[0]['ratio']
    for arguments, message in (
        (['--extractor=pixels'], 'all require --metrics'),
        (['--metrics=all', '--preprocess=none'], '--preprocess has no effect without --extractor'),
        (
            ['--metrics=all', '--extractor=pixels', '--features=a,b'],
            'are already extracted; remove --features or --extractor',
        ),
    ):
        assert message in failure(*common, *arguments, status=2)


def test_images_of_another_size_are_resized_with_the_given_filter(digits_20, images, reference, tmp_path):
    large = images.repeat(2, axis=2).repeat(2, axis=3)
    np.save(tmp_path / 'large.npy', large)
    common = f'--images={tmp_path}/large.npy', f'--knn-ref={digits_20}'
    message = failure(*common)
    assert 'image 0 is 16x16 grey, but images of --knn-ref=' in message
    assert '8x8 grey; choose a filter to resize them: --resize=lanczos|box|bicubic' in message
    (record,) = evaluated(*common, '--resize=box')
    assert record['resize'] == {'filter': 'box', 'from': [16, 16], 'to': [8, 8]}
    assert (
        record['num_memorized'] == memorization_ratio(images, reference).num_memorized
    )  # the box filter undoes the doubling
    (other,) = evaluated(*common, '--resize=lanczos')
    assert other['mean_distance'] != record['mean_distance']
    folder = tmp_path / 'sizes'
    folder.mkdir()
    for index in range(12):
        PIL.Image.fromarray((large if index % 2 else images)[index, 0]).save(folder / f'{index:02}.png')
    message = failure(f'--images={folder}', common[1])
    assert '01.png is 16x16 grey, but images of' in message
    assert 'choose a filter to resize them: --resize=lanczos|box|bicubic' in message
    (mixed,) = evaluated(f'--images={folder}', common[1], '--resize=box')
    assert mixed['resize'] == {'filter': 'box', 'from': [[8, 8], [16, 16]], 'to': [8, 8]}
    assert mixed['mean_distance'] == record['mean_distance']
    (folder / '03.png').write_bytes(b'broken')
    message = failure(f'--images={folder}', common[1], '--resize=box')
    assert '03.png is not a readable PNG' in message
    assert 'or make a data set without it with dataset_tool.py --skip-unreadable' in message
    np.save(tmp_path / 'large.npy', large[:, :, :8])
    assert 'resizing would distort it' in failure(*common, '--resize=box')


def test_grey_and_colour_images_are_compared_in_colour_unless_asked_otherwise(images, reference, digits_20, tmp_path):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (len(images), 3, 8, 8), dtype=np.uint8)
    colour[::2] = images[::2]
    np.save(tmp_path / 'colour.npy', colour)
    training = np.asarray(reference)
    luma = ((colour * np.array([19595, 38470, 7471])[:, None, None]).sum(1, keepdims=True) + 0x8000) >> 16
    for options, given, expected in [
        ([], colour, training.repeat(3, axis=1)),
        (['--channels=1'], luma.astype(np.uint8), training),
    ]:
        (record,) = evaluated(f'--images={tmp_path}/colour.npy', f'--knn-ref={digits_20}', *options)
        assert record['num_memorized'] == int(memorization_ratio(given, expected).memorized.sum())
    np.save(tmp_path / 'grey.npy', images)
    np.save(tmp_path / 'rgb.npy', training.repeat(3, axis=1))
    (record,) = evaluated(f'--images={tmp_path}/grey.npy', f'--knn-ref={tmp_path}/rgb.npy')
    assert record['num_memorized'] == int(memorization_ratio(images, training).memorized.sum())


def test_floating_point_images_need_their_value_range(digits_20, images, reference, tmp_path):
    path = tmp_path / 'floats.npy'
    np.save(path, (images / 127.5 - 1).astype(np.float32))
    common = f'--images={path}', f'--knn-ref={digits_20}'
    assert 'give the values of black and white in --float-range' in failure(*common)
    (record,) = evaluated(*common, '--float-range=-1,1')
    assert record['num_memorized'] == memorization_ratio(images, reference).num_memorized
    assert 'image 0 has the value -0.992157, outside --float-range=0,1' in failure(*common, '--float-range=0,1')


def test_a_value_range_without_floating_point_images_is_refused(digits_20, array, tmp_path):
    np.save(tmp_path / 'floats.npy', np.load(array) / 127.5 - 1)
    common = f'--images={array}', f'--knn-ref={digits_20}', '--float-range=-1,1'
    for dry_run in ([], ['--dry-run']):
        message = failure(*common, *dry_run, status=2)
        assert '--float-range has no effect, because no given images are floating-point; remove it' in message
        for others in ([f'--images={tmp_path}/floats.npy'], ['--metrics=all', f'--test-ref={tmp_path}/floats.npy']):
            assert run(*common, *others, *dry_run).exit_code == 0


def network_images(snapshot, seeds, batch_size, **options):
    net = load_network(snapshot)
    batches = generate_images(net, seed_batches(seeds, batch_size), SamplerOptions(**options), 'cpu')
    return torch.cat([batch.images for batch in batches])


def test_a_single_snapshot_can_be_evaluated_without_its_run_folder(snapshot, digits_20, reference, tmp_path):
    table = tmp_path / 'table.csv'
    common = f'--knn-ref={digits_20}', '--seeds=3-32', '--batch=8', '--steps=6'
    (record,) = evaluated(f'--network={snapshot}', *common, '--metrics=precision_recall', f'--table={table}')
    made = network_images(snapshot, range(3, 33), 8, num_steps=6)
    expected = memorization_ratio(made, reference)
    assert (record['snapshot'], record['seeds']) == (snapshot.name, '3-32')
    assert (record['num_images'], record['num_memorized']) == (30, expected.num_memorized)
    assert record['mean_distance'] == pytest.approx(expected.mean_distance)
    metrics = compute_metrics(['precision_recall'], PixelSpace(), made, reference)
    assert record['metrics'] == json.loads(json.dumps(metrics))
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [int(row['image']) for row in rows] == list(range(3, 33))
    assert [int(row['nearest']) for row in rows] == expected.indices[:, 0].tolist()
    assert [path.name for path in tmp_path.iterdir()] == ['table.csv']


def test_a_snapshot_gives_the_same_record_as_its_run(snapshot, digits_20, tmp_path):
    common = f'--knn-ref={digits_20}', '--seeds=0-9', '--steps=4'
    (alone,) = evaluated(f'--network={snapshot}', *common)
    (logged,) = evaluated(f'--network={snapshot}', *common, f'--log={tmp_path}/one.log')
    of_run = evaluated(f'--expdir={snapshot.parent}', *common, f'--log={tmp_path}/run.log')
    first = next(record for record in of_run if record['snapshot'] == snapshot.name)
    for record in (alone, logged, first):
        record.pop('seconds')
    assert alone == logged == first
    assert {'one.log', 'one.jsonl', 'mem_best.npz', 'mem_gallery.png'} <= {path.name for path in tmp_path.iterdir()}


def test_metrics_of_a_run_are_computed_for_its_best_snapshot(snapshot, digits_20, reference, tmp_path):
    records = evaluated(f'--expdir={snapshot.parent}', '--seeds=0-11', '--steps=4', f'--log={tmp_path}/run.log',
                     '--metrics=authenticity', f'--table={tmp_path}/table.csv')  # fmt: skip
    best = max(records, key=lambda record: (record['ratio'], record['kimg']))
    assert [record['snapshot'] for record in records if 'metrics' in record] == [best['snapshot']]
    made = network_images(snapshot.parent / best['snapshot'], range(12), 64, num_steps=4)
    expected = compute_metrics(['authenticity'], PixelSpace(), made, reference)
    assert best['metrics'] == json.loads(json.dumps(expected))
    assert len((tmp_path / 'table.csv').read_text().splitlines()) == 13


def test_a_snapshot_can_be_given_as_a_url(snapshot, digits_20, tmp_path):
    url, sha256 = snapshot.as_uri(), file_sha256(snapshot)
    common = f'--cache-dir={tmp_path}', f'--knn-ref={digits_20}'
    (record,) = evaluated(f'--network={url}', *common, f'--sha256={sha256}', '--seeds=0-3', '--steps=3')
    assert record['snapshot_sha256'] == sha256
    result = run(f'--network={url}', '--download-only')
    assert (result.exit_code, result.stdout.strip()) == (0, str(snapshot))
    assert 'has the SHA-256' in failure(f'--network={url}', *common, '--sha256=00')
    assert 'only file, http and https' in failure('--network=ftp://host/a.pkl', *common)


@pytest.mark.parametrize('data', [b'cos\nsystem\n(S"touch trace"\ntR.', b'cbuiltins\neval\n(S"1"\ntR.', b'\x80\x04'])
def test_a_hostile_pickle_is_refused_and_leaves_no_trace(data, digits_20, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'network.pkl').write_bytes(data)
    assert 'network.pkl is not an EDM network pickle that can be read safely' in failure(
        '--network=network.pkl', f'--knn-ref={digits_20}'
    )
    assert [path.name for path in tmp_path.iterdir()] == ['network.pkl']


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_ranks(snapshot, digits_20, array, tmp_path):
    found = []
    for ranks in (1, 2):
        table = tmp_path / f'{ranks}.csv'
        common = f'--knn-ref={digits_20}', '--metrics=all', '--json', f'--table={table}'
        network = run_script('mem_ratio.py', f'--network={snapshot}', '--seeds=0-20', '--batch=4', '--steps=4', *common,
                             ranks=ranks)  # fmt: skip
        record = json.loads(network.stdout)
        record.pop('seconds')
        rows = table.read_bytes()
        images = run_script('mem_ratio.py', f'--images={array}', *common, ranks=ranks)
        found.append((record, rows, json.loads(images.stdout), table.read_bytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--images=x'], '--images requires --knn-ref'),
        (['--network=x'], '--network requires --knn-ref'),
        (['--pipeline=x'], '--pipeline requires --knn-ref'),
        (['--network=x', '--images=y'], 'give exactly one of --expdir'),
        (['--images=x', '--seeds=0-3'], '--seeds has no effect with --images'),
        (['--images=x', '--steps=3'], '--steps has no effect with --images'),
        (['--pipeline=x', '--S_churn=3'], '--S_churn has no effect with --pipeline'),
        (['--expdir=x', '--resize=box'], '--resize has no effect with --expdir'),
        (['--images=x', '--sha256=00'], '--sha256 has no effect with --images'),
        (['--expdir=x', '--features=a,b'], '--features has no effect with --expdir'),
        (['--images=x', '--knn-ref=y', '--test-ref=z'], 'all require --metrics'),
        (['--images=x', '--knn-ref=y', '--metrics=a', '--features=b'], 'takes two or three files'),
        (['--images=x', '--knn-ref=y', '--metrics=a,,b'], 'contains an empty item'),
        (['--images=x', '--knn-ref=y', '--float-range=1,-1'], 'is not a range'),
        (['--images=x', '--knn-ref=y', '--float-range=1'], 'is not a pair of numbers'),
    ],
)
def test_options_that_contradict_each_other_are_named_in_the_error(arguments, message):
    assert message in failure(*arguments, status=2)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--metrics=fid'], "unknown metric 'fid'"),
        (['--metrics=test_gap'], '--metrics=test_gap requires a held-out set; give --test-ref'),
        (['--metrics=authenticity', '--features=none.npy,none.npy'], 'none.npy: no such file'),
    ],
)
def test_metrics_that_cannot_be_computed_are_named_in_the_error(arguments, message, array):
    assert message in failure(f'--images={array}', '--knn-ref=digits', *arguments)


@pytest.mark.parametrize(
    ('features', 'message'),
    [
        (np.zeros((11, 3)), 'gen.npy has 11 rows, but there are 12 generated images'),
        (np.zeros((12, 4)), 'has 3 features per image'),
        (np.zeros((12, 3), int), 'must be float32 or float64 [N, d]'),
        (np.zeros(12), 'must be float32 or float64 [N, d]'),
        (np.full((12, 3), np.nan), 'row 0 is not finite'),
        (np.array([{}] * 12), 'not a readable .npy'),
    ],
    ids=['count', 'width', 'integers', 'flat', 'nan', 'pickle'],
)
def test_features_that_do_not_match_the_images_are_named_in_the_error(features, message, digits_20, array, tmp_path):
    np.save(tmp_path / 'gen.npy', features, allow_pickle=True)
    np.save(tmp_path / 'ref.npy', np.zeros((20, 3)))
    assert message in failure(f'--images={array}', f'--knn-ref={digits_20}', '--metrics=authenticity',
                              f'--features={tmp_path}/gen.npy,{tmp_path}/ref.npy')  # fmt: skip


def test_metrics_with_held_out_images_require_their_features(digits_20, array, tmp_path):
    np.save(tmp_path / 'gen.npy', np.random.default_rng(0).normal(size=(12, 3)))
    np.save(tmp_path / 'ref.npy', np.random.default_rng(1).normal(size=(20, 3)))
    common = f'--images={array}', f'--knn-ref={digits_20}', f'--features={tmp_path}/gen.npy,{tmp_path}/ref.npy'
    message = failure(*common, '--test-ref=digits', '--metrics=copying_test')
    assert 'requires a held-out set; give --test-ref or, with --features, a third file' in message
    output = run(*common, '--test-ref=digits', '--metrics=all').stdout
    assert 'left out: copying_test, test_gap (add --test-ref or, with --features, a third file)' in output


@pytest.mark.parametrize('name', ['a.png', 'a.jpg'])
def test_files_that_are_not_images_are_named_in_the_error(name, tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / name).write_text('no image at all')
    assert f'{name} is not a readable' in failure(f'--images={tmp_path}/images', '--knn-ref=digits')


def test_a_wrong_range_of_values_is_suspected(digits_20, array, tmp_path):
    pixels = np.load(array)
    np.save(tmp_path / 'divided.npy', (pixels / 255).astype(np.uint8))
    np.save(tmp_path / 'floats.npy', pixels / 255)
    wrong = {
        'divided.npy': ('only 0 and 1, of 0 to 255', []),
        'floats.npy': ('in the upper half of the range -1 to 1; check the range', ['--float-range=-1,1']),
    }
    for name, (message, more) in wrong.items():
        result = run(f'--images={tmp_path / name}', f'--knn-ref={digits_20}', *more)
        assert result.exit_code == 0, result.output
        assert message in result.output
    right = run(f'--images={tmp_path}/floats.npy', f'--knn-ref={digits_20}', '--float-range=0,1').output
    assert 'Warning' not in right
    assert 'Warning' not in run(f'--images={array}', f'--knn-ref={digits_20}').output


def test_sets_with_the_same_file_name_are_named_by_their_paths(digits_20, array, tmp_path):
    paths = [tmp_path / folder / 'samples.npy' for folder in 'ab']
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(array.read_bytes())
    output = run(*(f'--images={path}' for path in paths), f'--knn-ref={digits_20}', '--json').output
    assert [json.loads(line)['images'] for line in output.splitlines()] == list(map(str, paths))


def test_a_network_is_given_only_once(snapshot, digits_20):
    message = failure(f'--network={snapshot}', f'--network={snapshot}', f'--knn-ref={digits_20}', status=2)
    assert '--network is given 2 times; run the command for each' in message


def test_a_closed_form_can_be_evaluated(digits_20, reference, tmp_path):
    common = f'--data={digits_20}', '--seeds=0-19', '--steps=18'
    (record,) = evaluated('--denoiser=optimal', *common)
    assert (record['snapshot'], record['kimg'], record['epochs']) == ('optimal', None, None)
    assert (record['num_images'], record['ratio'], record['mean_distance']) == (20, 1, 0)
    assert record['snapshot_sha256'] == file_sha256(digits_20)
    labels = load_dataset(str(digits_20)).labels
    table = tmp_path / 'table.csv'
    (record,) = evaluated('--denoiser=optimal', *common, f'--knn-ref={digits_20}', '--class=3', f'--table={table}')
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert {labels[int(row['nearest'])].item() for row in rows} == {3}
    assert {row['class'] for row in rows} == {'3'}
    (record,) = evaluated('--denoiser=hybrid:smoothed:draws=1,smoothing=0>0.5>local:window=7', *common)
    assert (record['num_images'], record['ratio']) == (20, 1)
    assert 'no such closed form; choose one of optimal' in failure('--denoiser=best', *common)
    assert 'requires --data' in failure('--denoiser=optimal', f'--knn-ref={digits_20}')
    assert '--class=10: no training image has this class' in failure('--denoiser=optimal', *common, '--class=10')
