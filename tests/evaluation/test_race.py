"""Races between simulated snapshots and between the snapshots of a run."""

import json
from functools import partial

import numpy as np
import pytest

import mem_ratio
import train
from evaluation.intervals import wilson_interval
from evaluation.race import race
from tests.helpers import TINY, invoke, run_script
from training.snapshot import list_snapshots

run = partial(invoke, mem_ratio.main)
SNAPSHOTS, SEEDS, BATCH = 16, 10_000, 64


def simulated_training(random, correlation):
    """Copy flags [snapshots, seeds]: the ratio rises to a plateau; a seed's flags are correlated across snapshots."""
    times = np.linspace(0.05, 1, SNAPSHOTS)
    ratios = random.uniform(0.05, 0.99) * (1 - np.exp(-times * random.uniform(2, 8)))
    normal = random.standard_normal([SNAPSHOTS, SEEDS])
    for place in range(1, SNAPSHOTS):
        normal[place] = correlation * normal[place - 1] + np.sqrt(1 - correlation**2) * normal[place]
    thresholds = np.quantile(random.standard_normal(100_000), ratios)
    return (normal < thresholds[:, None])[::-1]  # newest snapshot first


@pytest.mark.parametrize('correlation', [0.0, 0.9])
def test_a_race_finds_the_best_snapshot_with_a_quarter_of_the_images(correlation):
    random, agreed = np.random.default_rng(0), 0
    for _ in range(200):
        flags = simulated_training(random, correlation)
        lengths = race(SNAPSHOTS, SEEDS, BATCH, lambda place, length: flags[place, :length])  # noqa: B023
        copies = flags.sum(axis=1)
        winner = max(range(SNAPSHOTS), key=lambda place: (lengths[place], copies[place]))
        low, high = wilson_interval(int(copies.max()), SEEDS)
        agreed += low <= copies[winner] / SEEDS <= high
        assert lengths[winner] == SEEDS
        assert sum(lengths) <= SNAPSHOTS * SEEDS / 4
        assert all(length % BATCH == 0 or length == SEEDS for length in lengths)
    assert agreed >= 198


@pytest.mark.parametrize(('num', 'share'), [(4, 1 / 2), (6, 1 / 3), (8, 1 / 4), (12, 1 / 4)])
def test_a_race_between_a_few_snapshots_generates_at_most_this_share_of_the_images(num, share):
    random = np.random.default_rng(0)
    for _ in range(20):
        flags = simulated_training(random, 0.9)[-num:]
        assert sum(race(num, SEEDS, BATCH, lambda place, length: flags[place, :length])) <= share * num * SEEDS  # noqa: B023


def test_a_clearly_worse_snapshot_is_dropped_after_the_first_round():
    flags = np.zeros([SNAPSHOTS, SEEDS], bool)
    flags[5] = True
    lengths = race(SNAPSHOTS, SEEDS, BATCH, lambda place, length: flags[place, :length])
    assert lengths[5] == SEEDS
    assert len({length for place, length in enumerate(lengths) if place != 5}) == 1
    assert sum(lengths) < SNAPSHOTS * SEEDS / 8


def test_a_race_never_samples_more_images_than_a_full_evaluation():
    random = np.random.default_rng(0)
    for _ in range(300):
        num, total, step = random.integers(1, [9, 2000, 300])
        flags = random.random([num, total]) < random.random([num, 1])
        asked = np.zeros(num, int)

        def copies(place, length, asked=asked, flags=flags):
            assert length > asked[place]  # images that exist are not requested again
            asked[place] = length
            return flags[place, :length]

        lengths = race(int(num), int(total), int(step), copies)
        assert lengths == asked.tolist()
        assert sum(lengths) <= num * total
        # Every snapshot is evaluated on one batch, even if that exceeds a quarter of all images.
        assert sum(lengths) <= max(num * total / 4, 2 * total, num * step + total)


@pytest.mark.parametrize(('num', 'total', 'step'), [(1, 1000, 64), (2, 100, 64), (3, 50, 64), (50, 100, 10), (4, 7, 7)])
def test_a_race_works_with_few_snapshots_and_few_seeds(num, total, step):
    lengths = race(num, total, step, lambda place, length: np.full(length, place == num - 1))
    assert lengths[-1] == total
    assert all(0 < length <= total for length in lengths)


@pytest.fixture(scope='module')
def run_dir(digits_20, tmp_path_factory):
    """A run folder with six snapshots in addition to the one at 0 kimg."""
    folder = tmp_path_factory.mktemp('run')
    arguments = ['--nosubdir', f'--data={digits_20}', *TINY, '--batch=20', '--lr=5e-3', '--warmup=0', '--epochs=300',
                 '--tick=1', '--snap=1', '--seed=1']  # fmt: skip
    assert invoke(train.main, f'--outdir={folder}', *arguments).exit_code == 0
    assert len(list_snapshots(folder)) == 7
    return folder


@pytest.fixture
def make_run(run_dir, tmp_path):
    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        for path in [*run_dir.glob('network-snapshot-*'), run_dir / 'training_options.json']:
            (folder / path.name).write_bytes(path.read_bytes())
        return folder

    return make


def records(folder):
    lines = (folder / 'mem_traj.jsonl').read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name not in ('seconds', 'raced_seeds')}
        for line in lines
    ]


COMMON = ('--seeds=0-199', '--batch=10', '--steps=3')


def test_records_of_a_race_equal_those_of_the_same_seeds_without_a_race(make_run):
    raced, plain = make_run('raced'), make_run('plain')
    result = run(f'--expdir={raced}', '--race', *COMMON)
    assert result.exit_code == 0, result.output
    found = records(raced)
    (winner,) = [record for record in found if record['num_images'] == 200]
    assert run(f'--expdir={plain}', *COMMON).exit_code == 0
    assert winner in records(plain)
    assert sum(record['num_images'] for record in found) <= 2 * 200
    loser = next(record for record in found if record['num_images'] < 200)
    assert loser['seeds'] == f'0-{loser["num_images"] - 1}'
    prefix = make_run('prefix')
    seeds = f'--seeds={loser["seeds"]}'
    assert run(f'--expdir={prefix}', seeds, *COMMON[1:]).exit_code == 0
    assert loser in records(prefix)
    assert f'{100 * winner["ratio"]:.2f} %' in result.stdout
    with np.load(raced / 'mem_best.npz') as data:
        assert len(data['images']) == 200
        assert json.loads(str(data['key']))['snapshot'] == winner['snapshot']
    assert not list(raced.glob('*partial*'))


def test_a_race_gives_the_same_records_on_two_ranks(make_run):
    folders = make_run('one'), make_run('two')
    for ranks, folder in enumerate(folders, start=1):
        run_script('mem_ratio.py', f'--expdir={folder}', '--race', *COMMON, ranks=ranks)
    assert records(folders[0]) == records(folders[1])


class KilledError(Exception):
    pass


def test_an_interrupted_race_resumes_and_a_finished_race_samples_nothing(make_run, monkeypatch):
    expected, folder = make_run('expected'), make_run('resumed')
    assert run(f'--expdir={expected}', '--race', *COMMON).exit_code == 0
    from evaluation import generators

    sampled = []
    original = generators.generate_images

    def counting(net, batches, *arguments):
        for batch in original(net, batches, *arguments):
            sampled.append(len(batch.seeds))
            if sum(sampled) == 170:
                raise KilledError
            yield batch

    monkeypatch.setattr(generators, 'generate_images', counting)
    monkeypatch.setattr('evaluation.one_pass.SECONDS_BETWEEN_SAVES', 0)
    assert isinstance(run(f'--expdir={folder}', '--race', *COMMON).exception, KilledError)
    result = run(f'--expdir={folder}', '--race', *COMMON)
    assert result.exit_code == 0, result.output
    assert records(folder) == records(expected)
    # Only the interrupted batch is sampled twice.
    assert sum(sampled) == sum(record['num_images'] for record in records(expected)) + 10
    before = (folder / 'mem_traj.jsonl').read_bytes()
    again = run(f'--expdir={folder}', '--race', *COMMON)
    assert again.stdout.count('(already evaluated)') == 6
    assert (folder / 'mem_traj.jsonl').read_bytes() == before
    assert sum(sampled) == sum(record['num_images'] for record in records(expected)) + 10
