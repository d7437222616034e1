import math

import numpy as np
import torch

from evaluation.best import CLOSEST_CALLS, FIRST_SEEDS, read_best, shown_rows, write_best
from evaluation.memorization import memorization_ratio
from training.sampling import GeneratedBatch


def test_the_first_seeds_and_the_closest_calls_are_shown():
    random = np.random.default_rng(0)
    squared = np.sort(random.integers(1, 10**6, size=(500, 2)), axis=1)
    squared[7, 0] = 0  # a perfect copy is no close call
    expected = {*range(FIRST_SEEDS)}
    calls = [(abs(math.log(3 * math.sqrt(a / b))) if a else math.inf, row) for row, (a, b) in enumerate(squared)]
    expected |= {row for _, row in sorted(calls)[:CLOSEST_CALLS]}
    assert shown_rows(torch.from_numpy(squared)).tolist() == sorted(expected)
    assert FIRST_SEEDS < len(expected) <= FIRST_SEEDS + CLOSEST_CALLS
    assert shown_rows(torch.from_numpy(squared[:5])).tolist() == [0, 1, 2, 3, 4]


def image_of(seed):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, 4, 4), dtype=np.uint8))


def generate(batches):
    for seeds in batches:
        yield GeneratedBatch(seeds, torch.stack([image_of(seed) for seed in seeds]))


def test_what_is_kept_is_read_for_the_same_settings_only(tmp_path):
    seeds = list(range(1000, 1200))
    images = torch.stack([image_of(seed) for seed in seeds])
    result = memorization_ratio(images, images.flip(0)[:30] ^ 9)
    settings = {'snapshot': 'network-snapshot-000001.safetensors', 'batch': 7, 'seeds': '1000-1199'}
    path = tmp_path / 'mem_best.npz'
    assert read_best(path, settings) is None
    write_best(path, settings, seeds, 7, result, generate)
    kept = read_best(path, settings)
    assert (kept.snapshot, kept.seeds.tolist()) == (settings['snapshot'], seeds)
    assert torch.equal(kept.indices, result.indices)
    assert torch.equal(kept.squared_distances, result.squared_distances)
    assert torch.equal(kept.images, images[kept.image_rows])
    assert torch.equal(kept.first_images, images[:FIRST_SEEDS])
    assert read_best(path, {**settings, 'batch': 8}) is None
    path.write_bytes(path.read_bytes()[:-300])
    assert read_best(path, settings) is None
    assert list(tmp_path.iterdir()) == [path]
