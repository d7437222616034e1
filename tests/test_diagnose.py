"""The commands of diagnose.py on tiny networks: results, several ranks, interruptions and errors."""

import csv
import json
import math
import re
import shutil
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

import diagnose
import train
from dataset_utils.command_line import main as dataset_utils_main
from dnnlib.util import file_sha256
from evaluation.agreement import cosines
from evaluation.diagnosis import levels, tasks
from evaluation.diagnosis.image_sets import noise_levels
from evaluation.generators import SnapshotGenerator
from evaluation.geometry import geometry
from evaluation.noise_levels import denoised, denoising_error, mean_interval, noise_like, squared_distance
from tests.helpers import TINY, run_script
from training.closed_form import GaussianDenoiser, LocalScoreDenoiser, make_denoiser
from training.dataset import load_dataset
from training.optim import OptimalDenoiser
from training.preconditioning import iDDPMPrecond
from training.sampling import SamplerOptions, generate_images, seed_batches
from training.snapshot import list_snapshots, load_network

LEVELS = '0.1,1.0,10.0'


def invoke(*arguments):
    return CliRunner().invoke(diagnose.main, [str(argument) for argument in arguments])


def failure(*arguments, status=1):
    result = invoke(*arguments)
    assert result.exit_code == status, result.output
    return result.stderr.splitlines()[-1]


@pytest.fixture(scope='module')
def halves(tmp_path_factory):
    """Paths of two disjoint sets of 30 digits each."""
    folder = tmp_path_factory.mktemp('data')
    arguments = ['split', '--source=digits', f'--dest={folder / "half.zip"}', '--max-images=30']
    dataset_utils_main(arguments, standalone_mode=False)
    return folder / 'half-a.zip', folder / 'half-b.zip'


def trained(folder, data, *options):
    arguments = ['--nosubdir', f'--data={data}', *TINY, '--batch=30', '--lr=5e-3', '--warmup=0', '--epochs=100',
                 '--tick=1', '--snap=1', '--seed=1', *options]  # fmt: skip
    assert CliRunner().invoke(train.main, [f'--outdir={folder}', *arguments]).exit_code == 0
    return folder


@pytest.fixture(scope='module')
def run_dir(halves, tmp_path_factory):
    """A run folder trained on the first half, with snapshots at 0, 1, 2 and 3 kimg."""
    return trained(tmp_path_factory.mktemp('run'), halves[0])


@pytest.fixture(scope='module')
def conditional(halves, tmp_path_factory):
    """The last snapshot of a class-conditional run on the second half."""
    return list_snapshots(trained(tmp_path_factory.mktemp('run'), halves[1], '--cond=1'))[-1][1]


def newest(run_dir):
    return list_snapshots(run_dir)[-1][1]


def results(folder, name):
    return json.loads((folder / f'{name}.json').read_text())


def close(a, b):
    """Whether two JSON values are equal except for rounding errors of floats."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) if isinstance(a, float) and isinstance(b, float) else a == b


def test_a_network_is_compared_with_several_closed_forms(run_dir, halves, tmp_path):
    net, sets = load_network(newest(run_dir)), [load_dataset(str(half)).images for half in halves]
    arguments = [f'--network={newest(run_dir)}', f'--data={halves[0]}', f'--test={halves[1]}', '--levels=0.3,3.0']
    forms = ['local:window=5', 'patch:window=3']
    names = [f'--denoiser={form}' for form in forms]
    result = invoke('levels', *arguments, *names, '--from=test,trajectory', f'--outdir={tmp_path}', '--plot')
    assert result.exit_code == 0, result.output
    assert '1 - |D - F|² / |D - mean D|², for each closed form F:' in result.output
    (record,) = results(tmp_path, 'levels')
    assert [row['source'] for row in record['rows']] == ['test', 'test', 'trajectory', 'trajectory']
    for row in record['rows'][:2]:
        shares = {}
        for name in ('optimal', 'gaussian', *forms):
            cosine, share = [], []
            for place, image in enumerate(sets[1]):
                clean = image.double()[None] / 127.5 - 1
                z = clean + row['sigma'] * noise_like(clean, 0, [place])
                with torch.no_grad():
                    d = net(z, torch.tensor(row['sigma'])).double().numpy().ravel()
                f = make_denoiser(name, sets[0])(z, row['sigma']).numpy().ravel()
                cosine.append(np.corrcoef(d, f)[0, 1])
                share.append(1 - ((d - f) ** 2).sum() / ((d - d.mean()) ** 2).sum())
            assert row[f'cosine_{name}'] == pytest.approx(np.mean(cosine), abs=1e-4)
            assert row[f'explained_{name}'] == pytest.approx(np.mean(share), abs=1e-3)
            shares[name] = np.mean(share)
        assert row['most_explained'] == max(shares, key=shares.get)
    assert (tmp_path / 'levels_explained.png').exists()


def test_calibrate_finds_the_windows_that_match_a_network(run_dir, halves, tmp_path, monkeypatch):
    """The network is replaced by a local score denoiser with known windows, which calibration must find."""
    truth = [(80.0, 7), (2.0, 5), (0.3, 3), (0.1, 3)]
    images = load_dataset(str(halves[0])).images
    monkeypatch.setattr(SnapshotGenerator, 'denoiser', lambda self: LocalScoreDenoiser(images, window=truth))
    arguments = ['calibrate', f'--network={newest(run_dir)}', f'--data={halves[0]}', '--num=6', f'--outdir={tmp_path}']
    result = invoke(*arguments, '--levels=80.0,2.0,0.3', '--batch=4', '--plot')
    assert result.exit_code == 0, result.output
    table = tmp_path / 'windows.json'
    assert json.loads(table.read_text()) == {'windows': [[80.0, 7], [2.0, 5], [0.3, 3]]}
    (record,) = results(tmp_path, 'calibrate')
    assert all(row['cosine'] == pytest.approx(1, abs=1e-5) for row in record['rows'])
    assert LocalScoreDenoiser(images, window=table).windows.at(2.0) == 5
    assert 'has no windows' in failure(*arguments, '--denoiser=gaussian')
    own, out = f'--denoiser=local:window={table}', f'--outdir={tmp_path / "levels"}'
    measured = ['levels', f'--data={halves[0]}', '--num=4', own, out]
    assert "0.1 is outside the denoiser's range, 0.3 to 80" in failure(*measured, '--levels=2.0,0.1')
    message = f'{own}: its table covers the noise levels 0.3 to 80, but not 0.1 to 2; calibrate it at more levels'
    assert message in failure(*measured, f'--network={newest(run_dir)}', '--levels=2.0,0.1')
    assert not list((tmp_path / 'levels').glob('levels*'))
    assert invoke(*measured, '--levels=3').exit_code == 0
    sigmas = [row['sigma'] for row in results(tmp_path / 'levels', 'levels')[0]['rows']]
    assert (max(sigmas), min(sigmas)) == pytest.approx((80, 0.3))


def test_several_closed_forms_are_measured_on_the_same_noise(halves, tmp_path):
    names = ['--denoiser=optimal', '--denoiser=local:window=7', '--denoiser=gaussian']
    result = invoke('levels', *names, f'--data={halves[0]}', '--levels=0.3,3.0', '--from=train', f'--outdir={tmp_path}')
    assert result.exit_code == 0, result.output
    records = results(tmp_path, 'levels')
    assert [record['settings']['denoiser'] for record in records] == ['optimal', 'local:window=7', 'gaussian']
    assert len({row['optimum_error'] for record in records for row in record['rows'] if row['sigma'] == 3}) == 1
    assert all(row['to_gaussian'] < 1e-6 for row in records[2]['rows'])


def test_levels_writes_the_results_of_the_functions(run_dir, halves, tmp_path):
    arguments = [f'--network={newest(run_dir)}', f'--data={halves[0]}', f'--test={halves[1]}', f'--levels={LEVELS}']
    result = invoke('levels', *arguments, '--batch=8', f'--outdir={tmp_path}', '--plot')
    assert result.exit_code == 0, result.output
    (record,) = results(tmp_path, 'levels')
    assert [(row['source'], row['sigma']) for row in record['rows']] == [
        (source, sigma) for source in ('train', 'test', 'trajectory', 'generated') for sigma in (10.0, 1.0, 0.1)
    ]
    net, sets = load_network(newest(run_dir)), [load_dataset(str(half)).images for half in halves]
    optimum, gaussian = OptimalDenoiser(sets[0]), GaussianDenoiser(sets[0])
    for row in record['rows'][:6]:
        images, sigma = sets[row['source'] == 'test'], row['sigma']
        error = mean_interval(denoising_error(net, images, sigma))
        assert close([row['error'], row['error_low'], row['error_high']], [error.mean, error.low, error.high])
        assert row['error_per_pixel'] == pytest.approx(error.mean / 64, rel=1e-4)
        assert row['psnr'] == pytest.approx(10 * math.log10(4 * 64 / error.mean), rel=1e-4)
        for name, other in (('optimum', optimum), ('gaussian', gaussian)):
            assert close(row[f'{name}_error'], float(denoising_error(other, images, sigma).mean()))
            distance = squared_distance(*(denoised(denoiser, images, sigma) for denoiser in (net, other)))
            assert close(row[f'to_{name}'], float(distance.mean()))
    for row in record['rows'][3:6]:
        errors = [denoising_error(net, images, row['sigma']) for images in sets]
        gap = mean_interval(errors[1] - errors[0])
        assert close([row['gap'], row['gap_low'], row['gap_high']], [gap.mean, gap.low, gap.high])
    assert 'error' not in record['rows'][6]  # images along a sampling trajectory have no clean version
    with open(tmp_path / 'levels.csv', newline='') as file:
        table = list(csv.DictReader(file))
    assert [float(row['to_optimum']) for row in table] == [row['to_optimum'] for row in record['rows']]
    for name in ('levels.png', 'levels.svg', 'levels_distances.png', 'levels_distances.svg'):
        assert (tmp_path / name).stat().st_size > 1000
    assert not list(tmp_path.glob('*partial*'))


@pytest.mark.parametrize('precond', ['vp', 've', 'edm'])
def test_levels_works_with_every_preconditioning_and_augmented_networks(precond, halves, tmp_path):
    run = trained(tmp_path / 'run', halves[0], f'--precond={precond}', '--augment=0.5', '--epochs=40')
    result = invoke('levels', f'--expdir={run}', '--levels=4', '--num=4', f'--test={halves[1]}')
    assert result.exit_code == 0, result.output
    rows, net = results(run, 'levels')[-1]['rows'], load_network(newest(run))
    assert len({row['sigma'] for row in rows}) == 4
    for row in rows[:8]:
        images = load_dataset(str(halves[row['source'] == 'test'])).images[:4]
        assert close(row['error'], float(denoising_error(net, images, row['sigma']).mean()))


def test_levels_rounds_to_the_noise_levels_that_a_network_supports():
    arguments: dict[str, Any] = {'model_type': 'DhariwalUNet', 'model_channels': 8, 'channel_mult': [1]}
    net = iDDPMPrecond(8, 1, **arguments, num_blocks=1, attn_resolutions=[])
    found = noise_levels([0.1, 1.0, 1.00001], net)
    supported = torch.as_tensor(net.u).double()  # one noise level for each of 1,001 steps
    assert found == [float(supported[(supported - sigma).abs().argmin()]) for sigma in (1.0, 0.1)]


def test_closed_forms_have_distance_0_to_themselves_for_every_source_of_images(halves, tmp_path):
    for name, column in (('gaussian', 'to_gaussian'), ('optimal', 'to_optimum')):
        arguments = [f'--denoiser={name}', f'--data={halves[0]}', f'--test={halves[1]}', f'--levels={LEVELS}']
        assert invoke('levels', *arguments, f'--outdir={tmp_path}').exit_code == 0
        rows = results(tmp_path, 'levels')[0]['rows']
        assert [row[column] for row in rows] == [0] * 12
    generated = [row for row in rows if row['source'] == 'generated']
    assert generated[-1]['error'] < 1e-6  # samples from the optimal denoiser are training images


def test_a_class_conditional_network_is_given_the_class_of_each_image(conditional, halves, tmp_path):
    data = load_dataset(str(halves[1]))
    common = [f'--network={conditional}', f'--data={halves[1]}', '--levels=1.0', '--from=train', f'--outdir={tmp_path}']
    net = load_network(conditional)
    with_labels = GaussianDenoiser(data.images, data.labels)
    for options, labels, gaussian in (
        ([], data.labels, with_labels),
        (['--class=3'], torch.full([30], 3), with_labels),
        (['--no-labels'], None, GaussianDenoiser(data.images)),
    ):
        assert invoke('levels', *common, *options).exit_code == 0
        (row,) = results(tmp_path, 'levels')[0]['rows']
        assert close(row['error'], float(denoising_error(net, data.images, 1.0, labels=labels).mean()))
        assert close(row['gaussian_error'], float(denoising_error(gaussian, data.images, 1.0, labels=labels).mean()))


def test_each_snapshot_of_a_run_is_measured_once(run_dir, halves, tmp_path, monkeypatch):
    arguments = ['levels', f'--expdir={run_dir}', f'--test={halves[1]}', '--levels=1.0', '--from=test']
    assert invoke(*arguments, f'--outdir={tmp_path}').exit_code == 0
    before = results(tmp_path, 'levels')
    assert [record['settings']['kimg'] for record in before] == sorted(record['settings']['kimg'] for record in before)
    assert len(before) == 3
    others = invoke(*arguments, f'--outdir={tmp_path}', '--seed=1')
    assert f'contained results of other settings, which are saved in {tmp_path}/levels_earlier.json' in others.output
    table = (tmp_path / 'levels.csv').read_bytes()
    after = results(tmp_path, 'levels')
    assert len(after) == 3
    assert results(tmp_path, 'levels_earlier') == before
    monkeypatch.setattr(levels, 'run_tasks', None)
    assert invoke(*arguments, f'--outdir={tmp_path}').exit_code == 0
    assert results(tmp_path, 'levels') == before
    assert results(tmp_path, 'levels_earlier') == before + after
    assert (tmp_path / 'levels.csv').read_bytes() != table


def test_an_interrupted_measurement_resumes(run_dir, halves, tmp_path, monkeypatch):
    """The first attempt fails in its third task; the second attempt computes only what is missing."""
    arguments = [f'--network={newest(run_dir)}', f'--data={halves[0]}', f'--levels={LEVELS}', '--batch=10']
    assert invoke('levels', *arguments, f'--outdir={tmp_path / "whole"}').exit_code == 0
    monkeypatch.setattr(tasks, 'SECONDS_BETWEEN_SAVES', 0)
    compute, calls = tasks._compute, []

    def counted(function, names):
        calls.append(names)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(function, names)

    monkeypatch.setattr(tasks, '_compute', counted)
    assert invoke('levels', *arguments, f'--outdir={tmp_path}').exit_code == 130
    assert (tmp_path / 'levels.partial.npz').exists()
    assert invoke('levels', *arguments, f'--outdir={tmp_path}').exit_code == 0
    assert calls[3:] == [['train 20'], ['sampled 0'], ['sampled 10'], ['sampled 20']]
    assert results(tmp_path, 'levels') == results(tmp_path / 'whole', 'levels')


@pytest.mark.slow
@pytest.mark.parametrize('command', ['levels', 'geometry', 'agreement', 'clocks'])
def test_results_do_not_depend_on_ranks(command, run_dir, conditional, halves, tmp_path):
    test = f'--test={halves[1]}'
    arguments = {
        'levels': [f'--network={newest(run_dir)}', f'--data={halves[0]}', test, f'--levels={LEVELS}', '--batch=10'],
        'geometry': [f'--data={halves[0]}', test],
        'agreement': [f'--network={newest(run_dir)}', f'--network={conditional}', *(f'--data={h}' for h in halves),
                      '--seeds=0-9', '--batch=2'],
        'clocks': [f'--expdir={run_dir}', test, '--batch=10'],
    }[command]  # fmt: skip
    found = []
    for ranks in (1, 2, 3) if command == 'levels' else (1, 3):
        run_script('diagnose.py', command, *arguments, f'--outdir={tmp_path / str(ranks)}', ranks=ranks)
        found.append((tmp_path / str(ranks) / f'{command}.json').read_bytes())
    assert len(set(found)) == 1


def test_levels_do_not_depend_on_the_batch_size(run_dir, halves, tmp_path):
    found = []
    for batch in (7, 64):
        arguments = [f'--network={newest(run_dir)}', f'--data={halves[0]}', '--levels=1.0', f'--batch={batch}']
        assert invoke('levels', *arguments, f'--outdir={tmp_path}').exit_code == 0
        rows = results(tmp_path, 'levels')[0]['rows']
        found.append([{name: row[name] for name in row if not name.startswith('linearity')} for row in rows])
    assert close(found[0], found[1])


def test_geometry_marks_levels_at_which_weight_and_coverage_are_high(halves, tmp_path):
    result = invoke('geometry', f'--data={halves[0]}', f'--test={halves[1]}', f'--outdir={tmp_path}', '--plot')
    assert result.exit_code == 0, result.output
    (record,) = results(tmp_path, 'geometry')
    training, held_out = (load_dataset(str(half)).images for half in halves)
    for row in record['rows']:
        own = geometry(training, training, [row['sigma']])
        weight = float(own.posterior_weight.mean())
        coverage = float(geometry(training, held_out, [row['sigma']], held_out=True).in_shell.double().mean())
        assert close([row['posterior_weight'], row['shell_coverage']], [weight, coverage])
        assert row['decided'] == (min(weight, coverage) >= 0.8)
        assert close(row['covered'], float((own.log_coverage >= 0).double().mean()))
    assert any(row['decided'] for row in record['rows'])
    assert sorted(row['class'] for row in record['classes']) == list(range(10))
    assert len((tmp_path / 'geometry_images.csv').read_text().splitlines()) == 31


def test_geometry_works_without_labels_and_held_out_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    np.save(tmp_path / 'images.npy', images)
    result = invoke('geometry', f'--data={tmp_path / "images.npy"}', '--levels=0.5,1', f'--outdir={tmp_path / "out"}')
    assert result.exit_code == 0, result.output
    (record,) = results(tmp_path / 'out', 'geometry')
    assert [(row['class'], row['num_images']) for row in record['classes']] == [(None, 6)]
    assert 'For held-out images, it is not measured.' in result.output
    assert re.search(r'sigma = [\d.]+ for a Gaussian population\.', result.output)
    assert 'class' not in result.output


def test_agreement_compares_images_of_the_same_seeds(run_dir, conditional, halves, tmp_path):
    data = [f'--data={half}' for half in halves]
    networks = [newest(run_dir), conditional]
    arguments = [*(f'--network={path}' for path in networks), *data, f'--test={halves[1]}', '--seeds=3-12', '--plot']
    result = invoke('agreement', *arguments, f'--outdir={tmp_path}')
    assert result.exit_code == 0, result.output
    (record,) = results(tmp_path, 'agreement')
    (batch,) = seed_batches(range(3, 13), 64)
    made = [next(generate_images(load_network(path), [batch], SamplerOptions(), 'cpu')) for path in networks]
    images = [found.images for found in made]
    np.testing.assert_allclose([row['cosine'] for row in record['images']], cosines(*images), rtol=1e-6)
    assert [row['seed'] for row in record['images']] == list(range(3, 13))
    rows = {row['pairs']: row for row in record['rows']}
    assert rows['A and B at the same seed']['mean'] == pytest.approx(float(cosines(*images).mean()))
    assert rows["held-out images and the nearest of B's"]['quantile_0'] == pytest.approx(
        1
    )  # the held-out images are B's training images
    with PIL.Image.open(tmp_path / 'agreement_gallery.png') as picture:
        # The magnified image of A at the first seed. Above it are seven lines of text, each 17 pixels high.
        shown = np.asarray(picture.crop((15, 158, 79, 222)).convert('L'))
    np.testing.assert_array_equal(shown, images[0][0, 0].numpy().repeat(8, axis=0).repeat(8, axis=1))
    assert (tmp_path / 'agreement.svg').exists()


def test_agreement_works_with_the_optimal_denoiser_and_with_features(run_dir, halves, tmp_path):
    for name in ('a', 'b'):
        np.save(tmp_path / f'{name}.npy', np.eye(10))
    arguments = [f'--network={newest(run_dir)}', '--denoiser=optimal', f'--data={halves[0]}', '--seeds=0-9']
    features = f'--features={tmp_path / "a.npy"},{tmp_path / "b.npy"}'
    result = invoke('agreement', *arguments, features, f'--outdir={tmp_path}')
    assert result.exit_code == 0, result.output
    rows = {row['pairs']: row for row in results(tmp_path, 'agreement')[0]['rows']}
    assert rows['B and its nearest training image']['quantile_5'] == pytest.approx(1, abs=1e-6)
    assert rows['features of A and B at the same seed']['mean'] == 1
    assert rows['features of A and B at different seeds']['mean'] == 0


def test_agreement_takes_the_last_snapshots_of_two_runs_and_their_training_sets(run_dir, conditional, halves, tmp_path):
    networks = [f'--network={newest(run_dir)}', f'--network={conditional}', *(f'--data={half}' for half in halves)]
    runs = [f'--expdir={run_dir}', f'--expdir={conditional.parent}']
    for name, arguments in (('networks', networks), ('runs', runs)):
        result = invoke('agreement', *arguments, '--seeds=0-4', f'--outdir={tmp_path / name}')
        assert result.exit_code == 0, result.output
    assert results(tmp_path / 'runs', 'agreement') == results(tmp_path / 'networks', 'agreement')


def test_a_network_is_downloaded_once_and_its_hash_is_checked(run_dir, halves, tmp_path):
    path, cache = newest(run_dir), tmp_path / 'cache'
    arguments = ['levels', f'--network={path.as_uri()}', f'--data={halves[0]}', f'--cache-dir={cache}']
    result = invoke(*arguments, f'--sha256={file_sha256(path)}', '--download-only')
    assert result.exit_code == 0, result.output
    assert result.stdout == f'{path}\n'
    assert 'it is a different file' in failure(*arguments, f'--sha256={"0" * 64}', f'--outdir={tmp_path}')
    twice = ['agreement', *2 * [f'--network={path}'], f'--data={halves[0]}']
    assert '--sha256 is the hash of one file' in failure(*twice, f'--sha256={file_sha256(path)}')


def test_clocks_are_read_from_errors_and_records(run_dir, halves, tmp_path):
    paths = [path for kimg, path in list_snapshots(run_dir) if kimg]
    copy = tmp_path / 'run'
    copy.mkdir()
    for path in [*paths, run_dir / 'training_options.json']:
        (copy / path.name).write_bytes(path.read_bytes())
    records = [
        {'snapshot': path.name, 'kimg': kimg, 'num_memorized': count, 'num_images': 100,
         'ratio': count / 100, 'ratio_low': 0, 'ratio_high': 1, 'num_duplicates': 0, 'mean_distance': 1,
         'epochs': None, 'dataset_sha256': sha256}
        for sha256, counts in ((load_dataset(str(halves[0])).sha256, (0, 60, 90)), ('of another set', (0, 0, 0)))
        for (kimg, path), count in zip(enumerate(paths, start=1), counts, strict=True)
    ]  # fmt: skip
    (copy / 'mem_traj.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
    arguments = ['clocks', f'--expdir={copy}', f'--test={halves[1]}', '--levels=0.5,2.0', '--plot']
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    (record,) = results(copy, 'clocks')
    assert record['clocks']['tau_mem_ratio'] == {'time': 2, 'low': 1, 'high': 2}
    held_out = load_dataset(str(halves[1])).images
    weights = {sigma: (sigma**2 + 0.25) / (0.5 * sigma) ** 2 for sigma in (0.5, 2.0)}
    for row, path in zip(record['rows'], paths, strict=True):
        net = load_network(path)
        error = sum(w * denoising_error(net, held_out, sigma).mean() for sigma, w in weights.items()) / 2 / 64
        assert close(row['test_error'], float(error))
    assert (copy / 'clocks.png').exists()
    assert 'tau_gen' in result.output
    records = [{**record, 'num_memorized': 0, 'ratio': 0} for record in records]
    (copy / 'mem_traj.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
    assert re.search(r'tau_mem \(ratio\)  low\n.* none +3\n', invoke(*arguments, f'--outdir={tmp_path}/none').output)
    result = invoke(*arguments, f'--expdir={run_dir}', f'--outdir={tmp_path}')
    assert result.exit_code == 0, result.output
    comparison = json.loads((tmp_path / 'clocks_comparison.json').read_text())
    assert comparison['tau_gen'] == {'spread_steps': 0, 'spread_normalized': 0}  # both runs are the same
    assert (tmp_path / 'clocks_comparison.png').exists()
    assert (tmp_path / 'clocks_collapse.svg').exists()


def test_mistakes_give_a_one_sentence_error(run_dir, conditional, halves, digits_20, tmp_path):
    a, b = halves
    network, data, out = f'--network={newest(run_dir)}', f'--data={a}', f'--outdir={tmp_path}'
    assert '--test is missing' in failure('levels', network, data, '--from=test', out)
    assert '--test is missing' in failure('clocks', f'--expdir={run_dir}', out)
    assert f'--test={digits_20}: 20 of its 20 images are also in the training set' in failure(
        'geometry', data, f'--test={digits_20}', out
    )
    assert invoke('geometry', data, f'--test={digits_20}', '--allow-overlap', out).exit_code == 0
    assert '0 is not a noise level' in failure('levels', network, data, '--levels=0.0,1.0', out)
    assert "200 is outside the denoiser's range" in failure('levels', network, data, '--levels=200.0', out)
    assert 'has 30 images, fewer than the 31' in failure('levels', network, data, '--num=31', out)
    assert 'give --network or --expdir, or closed forms with --denoiser' in failure('levels', data, out)
    assert '--data is missing' in failure('levels', network, out)
    assert '--class=10' in failure('levels', f'--network={conditional}', data, '--class=10', out)
    assert 'neither a number of levels' in failure('levels', network, data, '--levels=few', out, status=2)
    assert 'not one of train' in failure('levels', network, data, '--from=tset', out, status=2)
    assert 'must give two generators in total, not 1' in failure('agreement', network, data, out)
    assert '--data is missing' in failure('agreement', network, network, out)
    assert '--seeds: intervals need at least two' in failure('agreement', network, network, data, '--seeds=0', out)
    large = tmp_path / 'large'
    arguments = ['resolution', '--source=digits', f'--dest={large}', '--max-images=10', '--resolution=16x16']
    dataset_utils_main(arguments, standalone_mode=False)
    assert '16x16 with 1 channel' in failure('levels', network, f'--data={large}', out)
    assert '16x16 with 1 channel' in failure('levels', network, data, f'--test={large}', out)
    empty = tmp_path / 'empty'
    empty.mkdir()
    assert 'no network-snapshot' in failure('levels', f'--expdir={empty}', data, out)
    assert 'no network-snapshot' in failure('agreement', network, f'--expdir={empty}', data, out)
    (empty / newest(run_dir).name).write_bytes(newest(run_dir).read_bytes())
    (empty / 'training_options.json').write_bytes((run_dir / 'training_options.json').read_bytes())
    assert 'has one snapshot after 0 kimg, but clocks need several' in failure(
        'clocks', f'--expdir={empty}', f'--test={b}'
    )


def test_an_unknown_training_set_of_a_run_is_reported_with_a_remedy(run_dir, halves, tmp_path):
    copy = tmp_path / 'run'
    shutil.copytree(run_dir, copy)
    saved = json.loads((copy / 'training_options.json').read_text())
    saved['options']['data'] = ''
    (copy / 'training_options.json').write_text(json.dumps(saved))
    problem = 'gives the training set as no path, because it was trained on an array, which is not found'
    for arguments in (['levels', f'--expdir={copy}'], ['agreement', f'--expdir={copy}', f'--expdir={copy}']):
        message = failure(*arguments)
        assert problem in message
        assert message.endswith('give its path now with --data')
    message = failure('clocks', f'--expdir={copy}', f'--test={halves[1]}')
    assert problem in message
    assert message.endswith('enter its path as "data" in this file')


def test_agreement_refuses_networks_of_different_resolutions(run_dir, halves, tmp_path):
    large = tmp_path / 'large.zip'
    arguments = ['resolution', '--source=digits', f'--dest={large}', '--max-images=10', '--resolution=16x16']
    dataset_utils_main(arguments, standalone_mode=False)
    other = newest(trained(tmp_path / 'run', large, '--epochs=10'))
    message = failure('agreement', f'--network={newest(run_dir)}', f'--network={other}', f'--data={halves[0]}')
    assert 'give images of the same shape' in message
