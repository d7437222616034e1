"""Evaluation of a run uses the training set of its network, including its classes and mirrored images."""

import json
from functools import partial

import numpy as np
import pytest
import safetensors.torch
import torch

import generate
import generate_optim
import mem_ratio
import train
from evaluation import generators
from tests.helpers import TINY, failure_of, invoke
from training.sampling import GeneratedBatch

run = partial(invoke, mem_ratio.main)


def images_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 8, 1), dtype=np.uint8)


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
    """Folder with two training sets, gaps.npz and other.npz. Their images differ; both have only classes 1 and 4."""
    folder = tmp_path_factory.mktemp('sets')
    for seed, name in enumerate(('gaps', 'other')):
        np.savez(folder / f'{name}.npz', images=images_of(seed), labels=np.array([1, 4, 4, 4] * 2))
    return folder


@pytest.fixture(scope='module')
def run_dir(sets, tmp_path_factory):
    """Folder of a class-conditional run that also trains on mirrored images."""
    run_dir = tmp_path_factory.mktemp('run')
    arguments = [f'--data={sets}/gaps.npz', *TINY, '--cond=1', '--xflip=1', '--batch=8', '--epochs=1', '--snapshots=1']
    result = invoke(train.main, f'--outdir={run_dir}', '--nosubdir', *arguments, '--seed=1')
    assert result.exit_code == 0, result.output
    assert '3 of the 5 classes have no training images' in result.output
    return run_dir


@pytest.fixture
def fresh(run_dir, tmp_path):
    for name in ('network-snapshot-000000.008.safetensors', 'training_options.json'):
        (tmp_path / name).write_bytes((run_dir / name).read_bytes())
    return tmp_path


def record_of(folder):
    return json.loads((folder / 'mem_traj.jsonl').read_text().splitlines()[-1])


def forget(folder, *entries):
    """Remove entries from the snapshot's header, so that it resembles a snapshot of an older version."""
    path = folder / 'network-snapshot-000000.008.safetensors'
    weights = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, 'pt') as file:
        header = json.loads(file.metadata()['snapshot'])
    header = {name: value for name, value in header.items() if name not in entries}
    path.write_bytes(safetensors.torch.save(weights, {'snapshot': json.dumps(header)}))


@pytest.fixture
def drawn(monkeypatch):
    """A list that collects the class of every sampled image, in order."""
    found = []
    sampler = generators.generate_images

    def spy(*arguments):
        for batch in sampler(*arguments):
            found.extend(batch.class_labels.tolist())
            yield batch

    monkeypatch.setattr(generators, 'generate_images', spy)
    return found


@pytest.mark.parametrize('unknown', [(), ('class_sizes',), ('classes', 'class_sizes')])
def test_only_classes_with_training_images_are_drawn(fresh, drawn, unknown):
    forget(fresh, *unknown)
    result = run(f'--expdir={fresh}', '--seeds=0-19', '--steps=2')
    assert result.exit_code == 0, result.output
    assert set(drawn) == {1, 4}
    assert record_of(fresh)['classes'] == [1, 4]
    assert 'class_prior' not in record_of(fresh)


@pytest.mark.parametrize('unknown', [(), ('class_sizes',), ('classes', 'class_sizes')])
def test_classes_are_drawn_with_their_frequency_in_the_training_set(fresh, drawn, unknown):
    """The training set has two images of class 1 and six of class 4."""
    forget(fresh, *unknown)
    arguments = [f'--expdir={fresh}', '--seeds=0-199', '--steps=2', '--batch=200']
    assert run(*arguments, '--class-prior=uniform').exit_code == 0
    assert 80 < drawn.count(1) < 120
    drawn.clear()
    assert run(*arguments, '--class-prior=data').exit_code == 0  # the record for the uniform prior is not reused
    assert 35 < drawn.count(1) < 65
    assert drawn.count(1) + drawn.count(4) == 200
    assert record_of(fresh)['class_prior'] == 'data'
    drawn.clear()
    assert 'already evaluated' in run(*arguments, '--class-prior=data').output


def test_a_class_prior_without_classes_to_draw_is_refused(fresh, digits_20, tmp_path):
    network = fresh / 'network-snapshot-000000.008.safetensors'
    common = [f'--network={network}', f'--outdir={tmp_path}/out', '--class-prior=data']
    assert '--class-prior: ' in failure_of(generate.main, *common, '--class=1')
    forget(fresh, 'class_sizes')
    assert 'does not store the number of training images per class' in failure_of(generate.main, *common)
    common = [f'--data={digits_20}', f'--outdir={tmp_path}/out', '--class-prior=data']
    assert 'does not draw classes; remove --class-prior' in failure_of(generate_optim.main, *common)
    assert not (tmp_path / 'out').exists()


def test_a_class_without_training_images_is_refused(fresh, tmp_path):
    network = fresh / 'network-snapshot-000000.008.safetensors'
    message = failure_of(generate.main, f'--network={network}', f'--outdir={tmp_path}/out', '--class=2')
    assert '--class=2: no training image has this class; 2 classes have training images' in message


@pytest.mark.parametrize('origin', ['snapshot', 'options', 'options of EDM'])
def test_copies_of_mirrored_images_count_if_training_used_mirrored_images(fresh, sets, monkeypatch, origin):
    if origin != 'snapshot':
        forget(fresh, 'xflip')
    if origin == 'options of EDM':
        kwargs = {'class_name': 'training.dataset.ImageFolderDataset', 'path': f'{sets}/gaps.npz', 'xflip': True}
        (fresh / 'training_options.json').write_text(json.dumps({'dataset_kwargs': kwargs, 'total_kimg': 1}))
    pixels = torch.from_numpy(images_of(0).transpose(0, 3, 1, 2).copy())

    def replay(net, batches, *arguments):
        for seeds in batches:
            images = torch.stack([pixels[seed % 8].flip(2) if seed % 2 else pixels[seed % 8] for seed in seeds])
            yield GeneratedBatch(list(seeds), images)

    monkeypatch.setattr(generators, 'generate_images', replay)
    result = run(f'--expdir={fresh}', f'--knn-ref={sets}/gaps.npz', '--seeds=0-15')
    assert 'Mirrored training images' in result.output
    record = record_of(fresh)
    assert (record['num_memorized'], record['mean_distance'], record['xflip']) == (16, 0, True)
    assert run(f'--expdir={fresh}', f'--knn-ref={sets}/gaps.npz', '--seeds=0-15', '--xflip=0').exit_code == 0
    record = record_of(fresh)
    assert (record['num_memorized'], 'xflip' in record) == (8, False)


@pytest.mark.parametrize('given', [True, False])
def test_a_training_set_other_than_the_runs_own_is_reported(fresh, sets, given):
    if given:
        result = run(f'--expdir={fresh}', f'--knn-ref={sets}/other.npz', '--seeds=0-3', '--steps=2')
    else:  # the run's data file has changed since training
        options = (fresh / 'training_options.json').read_text().replace('gaps.npz', 'other.npz')
        (fresh / 'training_options.json').write_text(options)
        result = run(f'--expdir={fresh}', '--seeds=0-3', '--steps=2')
    assert f'was not trained on {sets}/other.npz' in result.output
    assert len(record_of(fresh)['trained_on_sha256']) == 64


def test_the_runs_own_training_set_causes_no_report(fresh):
    result = run(f'--expdir={fresh}', '--seeds=0-3', '--steps=2')
    assert 'another' not in result.output
    assert 'trained_on_sha256' not in record_of(fresh)
