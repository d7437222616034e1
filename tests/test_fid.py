"""fid.py on image files and on sampled images, with its own reference statistics and with EDM's."""

import json
from functools import partial

import numpy as np
import pytest

import fid
import train
from dnnlib.util import file_sha256
from evaluation.generators import ClosedFormGenerator, Sampling
from evaluation.metrics.frechet import frechet_distance
from evaluation.metrics.kernel_distance import kernel_distance
from tests.helpers import ROOT, TINY, failure_of, invoke, run_script
from training.dataset import load_dataset
from training.sampling import SamplerOptions, seed_batches
from training.snapshot import list_snapshots

run = partial(invoke, fid.main)
failure = partial(failure_of, fid.main)


def measured(*arguments):
    """The record printed by `fid.py calc --json`."""
    result = run('calc', *arguments, '--json')
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope='module')
def pixels():
    """The pixels of the digits as features, float64 [1797, 64]."""
    return load_dataset('digits').images.flatten(1).double().numpy()


@pytest.fixture
def made(tmp_path):
    path = tmp_path / 'made.npy'
    np.save(path, np.random.default_rng(0).integers(0, 256, (90, 1, 8, 8), dtype=np.uint8))
    return path


@pytest.fixture
def snapshot(digits_20, tmp_path):
    arguments = [f'--outdir={tmp_path}/run', '--nosubdir', f'--data={digits_20}', *TINY, '--batch=20', '--epochs=5']
    assert invoke(train.main, *arguments).exit_code == 0
    return list_snapshots(tmp_path / 'run')[-1][1]


def test_distances_between_two_image_sets_equal_those_of_the_functions(made, pixels):
    rows = np.load(made).reshape(90, 64).astype(np.float64)
    record = measured(f'--images={made}', '--ref=digits', '--batch=7')
    assert record['frechet_distance'] == pytest.approx(frechet_distance(rows, pixels), rel=1e-10)
    assert record['kernel_distance']['distance'] == pytest.approx(kernel_distance(rows, pixels).distance, rel=1e-10)
    counts = [record[name] for name in ('num_images', 'num_reference', 'num_features')]
    assert counts == [90, 1797, 64]
    assert record['extractor'] == 'pixels'
    text = run('calc', f'--images={made}', '--ref=digits').stdout
    assert (
        f'Fréchet distance: {record["frechet_distance"]:,.6g}, 90 images of made.npy compared with 1797 of digits'
        in text
    )
    assert 'Kernel distance: ' in text
    assert 'Note' not in text


def test_num_selects_a_random_subset_fixed_by_the_seed(made, pixels):
    rows = np.load(made).reshape(90, 64).astype(np.float64)
    chosen = np.random.default_rng(3).choice(90, 70, replace=False)
    record = measured(f'--images={made}', '--ref=digits', '--num=70', '--seed=3')
    assert record['frechet_distance'] == pytest.approx(frechet_distance(rows[chosen], pixels), rel=1e-10)
    text = run('calc', f'--images={made}', '--ref=digits', '--num=64').stdout
    assert 'Note: 64 images are too few for the covariance of 64 features' in text


def test_statistics_are_compatible_with_edm_in_both_directions(made, pixels, tmp_path):
    assert run('ref', '--data=digits', f'--dest={tmp_path}/ours.npz').exit_code == 0
    ours = dict(np.load(tmp_path / 'ours.npz'))
    np.testing.assert_allclose(ours['mu'], pixels.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ours['sigma'], np.cov(pixels, rowvar=False), rtol=1e-9, atol=1e-9)
    np.savez(tmp_path / 'edm.npz', mu=ours['mu'], sigma=ours['sigma'])
    expected = measured(f'--images={made}', '--ref=digits')
    for name, count in (('ours', 1797), ('edm', None)):
        record = measured(f'--images={made}', f'--ref={tmp_path}/{name}.npz')
        assert record['frechet_distance'] == pytest.approx(expected['frechet_distance'], rel=1e-9)
        assert record['num_reference'] == count
        assert 'kernel_distance' not in record
    assert (
        'compared with an unknown number of edm.npz'
        in run('calc', f'--images={made}', f'--ref={tmp_path}/edm.npz').stdout
    )


def test_fid_samples_the_images_of_the_given_seeds(pixels):
    sampling = Sampling(SamplerOptions(num_steps=3), data='digits')
    generator = ClosedFormGenerator('gaussian', sampling, 'cpu')
    batches = generator.generate(seed_batches(range(5, 75), 16))
    rows = np.concatenate([batch.images.flatten(1).numpy() for batch in batches]).astype(np.float64)
    arguments = '--denoiser=gaussian', '--data=digits', '--num=70', '--seed=5', '--batch=16', '--steps=3'
    record = measured(*arguments, '--ref=digits')
    assert record['frechet_distance'] == pytest.approx(frechet_distance(rows, pixels), rel=1e-10)
    assert record['seeds'] == '5-74'
    assert record['num_steps'] == 3


def test_the_class_and_the_networks_hash_can_be_given(pixels, tmp_path, snapshot):
    labels = load_dataset('digits').labels.numpy()
    arguments = '--denoiser=gaussian', '--data=digits', '--num=40', '--steps=3', '--ref=digits'
    record = measured(*arguments, '--class=3')
    generator = ClosedFormGenerator('gaussian', Sampling(SamplerOptions(num_steps=3), 3, data='digits'), 'cpu')
    batches = generator.generate(seed_batches(range(40), 64))
    rows = np.concatenate([batch.images.flatten(1).numpy() for batch in batches]).astype(np.float64)
    assert record['class_index'] == 3
    assert record['frechet_distance'] == pytest.approx(frechet_distance(rows, pixels), rel=1e-10)
    assert np.square(rows.mean(axis=0) - pixels[labels == 3].mean(axis=0)).sum() < record['frechet_distance']
    network = f'--network={snapshot}', '--num=4', '--steps=2', '--ref=digits'
    assert measured(*network, f'--sha256={file_sha256(snapshot)}')['sha256'] == file_sha256(snapshot)
    assert 'has the SHA-256' in failure('calc', *network, '--sha256=00')
    assert '--class' in failure('calc', *network, '--class=3')


def test_the_distance_at_infinity_is_the_intercept_of_a_line_in_1_over_n(pixels, tmp_path):
    random = np.random.default_rng(0)
    made = np.clip(random.normal(128, 20, (600, 1, 8, 8)), 0, 255).astype(np.uint8)
    np.save(tmp_path / 'made.npy', made)
    arguments = 'calc', f'--images={tmp_path}/made.npy', '--ref=digits', '--infinity'
    record = measured(*arguments[1:])
    found = record['frechet_infinity']
    assert (found['sizes'][0], found['sizes'][-1], len(found['sizes'])) == (60, 600, 15)
    assert found['distances'][-1] == pytest.approx(record['frechet_distance'], rel=1e-12)
    x = 1 / np.array(found['sizes'])
    _, intercept = np.linalg.lstsq(np.stack([x, np.ones(15)], 1), found['distances'], rcond=None)[0]
    assert found['distance'] == pytest.approx(intercept, rel=1e-9)
    # All pixels of the images are independent and have the same mean and variance, so the exact Fréchet distance to the
    # reference is known.
    levels = np.floor(random.normal(128, 20, 10**6))
    mean, variance = levels.mean(), levels.var()
    eigenvalues = np.linalg.eigvalsh(np.cov(pixels, rowvar=False)).clip(0)
    truth = np.square(mean - pixels.mean(axis=0)).sum() + np.square(np.sqrt(eigenvalues) - np.sqrt(variance)).sum()
    assert abs(found['distance'] - truth) < 0.25 * abs(record['frechet_distance'] - truth)
    text = run(*arguments).stdout
    assert f'at infinity: {found["distance"]:,.6g}, from a line in 1/n fitted to 15 subsets of 60 to 600 images' in text
    assert 'needs at least 50' in failure(*arguments, '--num=20')


def test_an_interrupted_pass_resumes_and_a_finished_pass_is_not_repeated(tmp_path, monkeypatch):
    arguments = '--denoiser=gaussian', '--data=digits', '--num=60', '--batch=10', '--steps=3', '--ref=digits'
    expected = measured(*arguments, f'--cache-dir={tmp_path}/other')
    monkeypatch.setattr('evaluation.one_pass.SECONDS_BETWEEN_SAVES', 0)
    sampled = []
    generate = ClosedFormGenerator.generate

    def stop(self, batches):
        for number, batch in enumerate(generate(self, batches)):
            if number == 4:
                raise KeyboardInterrupt
            sampled.append(batch.seeds)
            yield batch

    monkeypatch.setattr(ClosedFormGenerator, 'generate', stop)
    cached = *arguments, f'--cache-dir={tmp_path}'
    assert run('calc', *cached).exit_code != 0
    assert len(sampled) == 4
    assert measured(*cached) == expected
    assert sorted(seed for seeds in sampled for seed in seeds) == list(range(60))
    assert measured(*cached) == expected
    assert len(sampled) == 6
    (file,) = (tmp_path / 'features').glob('*.npy')
    assert np.load(file).shape == (60, 64)
    assert not list((tmp_path / 'features').glob('*.partial'))


@pytest.mark.slow
def test_results_are_equal_on_any_number_of_ranks(tmp_path):
    records = []
    for ranks in (1, 2, 3):
        script = ['--', ROOT / 'fid.py'] if ranks > 1 else ['fid.py']  # otherwise torchrun reads --num itself
        dest = tmp_path / f'{ranks}.npz'
        run_script(*script, 'ref', '--data=digits', f'--dest={dest}', ranks=ranks)
        cache = f'--cache-dir={tmp_path}/cache-{ranks}'
        arguments = '--denoiser=gaussian', '--data=digits', '--num=100', '--batch=16', '--steps=3', '--json', cache
        records.append(run_script(*script, 'calc', *arguments, '--ref=digits', ranks=ranks).stdout)
        np.testing.assert_equal(dict(np.load(dest)), dict(np.load(tmp_path / '1.npz')))
    assert records[0] == records[1] == records[2]


def test_invalid_arguments_are_named_in_the_error(made, tmp_path):
    np.save(tmp_path / 'one.npy', np.load(made)[:1])
    assert 'one.npy has 1 image; a covariance needs at least two' in failure(
        'calc', f'--images={tmp_path}/one.npy', '--ref=digits'
    )
    (tmp_path / 'cut.npz').write_bytes(b'')
    np.savez(tmp_path / 'odd.npz', mu=np.zeros(3), sigma=np.eye(2))
    np.savez(tmp_path / 'other.npz', mu=np.zeros(3), sigma=np.eye(3))
    np.savez(tmp_path / 'settings.npz', mu=np.zeros(64), sigma=np.eye(64), settings='{"extractor": "net"}')
    for name, message in {
        'odd': 'mu (3,) and sigma (2, 2) must be finite, with shapes [d] and [d, d]',
        'other': '64 and 3 features per image; compare images of the same size and channels',
        'settings': "was made with {'extractor': 'net'}, not {'extractor': 'pixels'}; use the same extractor",
        'cut': '--ref=',
    }.items():
        assert message in failure('calc', f'--images={made}', f'--ref={tmp_path}/{name}.npz')
    np.save(tmp_path / 'floats.npy', np.load(made) / 255)
    message = failure('calc', f'--images={tmp_path}/floats.npy', '--ref=digits')
    assert message.endswith('but must be uint8; save the images as uint8')
    for arguments, message in (
        ([], 'give exactly one of --images, --network (a snapshot) and --denoiser (a closed form)'),
        ([f'--images={made}', '--network=a.pkl'], 'give exactly one of --images'),
        ([f'--images={made}', '--steps=3'], '--steps has no effect with --images'),
        (['--denoiser=gaussian'], '--denoiser requires --data'),
        ([f'--images={made}', '--class=3'], '--class has no effect with --images'),
        (['--denoiser=gaussian', '--data=digits', '--sha256=0'], '--sha256 has no effect with --denoiser'),
    ):
        assert message in failure('calc', *arguments, '--ref=digits', status=2)
    assert 'name a file ending in .npz' in failure('ref', '--data=digits', f'--dest={tmp_path}/no/d.npz')
    given = tmp_path / 'given.npz'
    np.savez(given, images=np.load(made))
    assert f'--dest would replace {given}, which is an input' in failure('ref', f'--data={given}', f'--dest={given}')
