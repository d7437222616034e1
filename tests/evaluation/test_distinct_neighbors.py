"""The two nearest distinct training images, compared with a naive search, for training sets in memory and on disk."""

import itertools
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation import neighbors
from evaluation.neighbors import NeighborIndex
from tests.helpers import ROOT, environment
from torch_utils import distributed
from training.closed_form.rows import ImageRows


def two_nearest(images: Tensor, references: Tensor) -> tuple[list[list[int]], list[list[int]]]:
    """Indices and squared distances of the nearest reference and of the nearest one that differs from it."""
    indices, squares = [], []
    for image in images.numpy().astype(int):
        distances = np.square(references.numpy().astype(int) - image).sum(axis=(1, 2, 3))
        nearest = int(distances.argmin())
        differs = (references != references[nearest]).flatten(1).any(dim=1).numpy()
        second = int(np.where(differs, distances, 10**9).argmin())
        indices.append([nearest, second])
        squares.append([int(distances[nearest]), int(distances[second])])
    return indices, squares


def found(index: NeighborIndex, images: Tensor) -> tuple[list[list[int]], list[list[int]]]:
    nearest, squared = index.query(images, k=2)
    return nearest.tolist(), squared.tolist()


def rows_of(images: Tensor | np.ndarray, labels: Tensor | None = None) -> ImageRows:
    return ImageRows(images, labels, torch.device('cpu'))


@pytest.fixture(scope='module')
def references() -> Tensor:
    """300 small images: 180 random ones, exact copies of 60 of them, and near-copies of 60 of them."""
    random = torch.Generator().manual_seed(0)
    distinct = torch.randint(0, 256, [180, 3, 4, 4], dtype=torch.uint8, generator=random)
    near = distinct[40:100].clone()
    near[:, 0, 0, 0] ^= 1
    images = torch.cat([distinct, distinct[:60], near])
    return images[torch.randperm(300, generator=random)]


@pytest.fixture(scope='module')
def images(references: Tensor) -> Tensor:
    random = torch.Generator().manual_seed(1)
    noise = torch.randint(0, 3, references[:90].shape, dtype=torch.uint8, generator=random)
    corners = torch.stack([torch.zeros([3, 4, 4]), torch.full([3, 4, 4], 255)]).to(torch.uint8)
    return torch.cat([references[100:200], references[:90] // 4 * 4 + noise, corners])


@pytest.mark.parametrize('size', [1, 7, 299, 1024])
def test_the_two_nearest_distinct_images_equal_those_of_a_naive_search(
    size: int, images: Tensor, references: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The references are given as pixels, or as ImageRows: in memory, sorted by class, or on disk."""
    monkeypatch.setitem(neighbors.BLOCK, 'cpu', (512, size, 1 << 24))
    np.save(tmp_path / 'references.npy', references.numpy())
    on_disk = np.load(tmp_path / 'references.npy', mmap_mode='r')
    labels = torch.arange(300) * 7 % 3
    expected = two_nearest(images, references)
    for kept in (references, rows_of(references), rows_of(references, labels), rows_of(on_disk, labels)):
        index = NeighborIndex(kept, distinct=True)
        assert (len(index), index.num_references) == (240, 300)
        assert found(index, images) == expected


def test_the_nearest_distinct_images_are_exact_for_images_of_many_pixels(
    images: Tensor, references: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, 'MAX_PIXELS', 1)
    assert found(NeighborIndex(rows_of(references), distinct=True), images) == two_nearest(images, references)


@pytest.mark.parametrize('max_pixels', [1, neighbors.MAX_PIXELS])
@pytest.mark.parametrize('bounds', [[0, 1, 300], [0, 100, 150, 300], [0, 60, 61, 62, 300]])
def test_ranks_that_share_the_references_find_the_same_neighbours(
    bounds: list[int], max_pixels: int, images: Tensor, references: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads stand in for ranks. Some ranks hold fewer references than there are neighbours to find."""
    monkeypatch.setattr(neighbors, 'MAX_PIXELS', max_pixels)
    shards = list(itertools.pairwise(bounds))
    barrier, local, box = threading.Barrier(len(shards), timeout=60), threading.local(), {}
    results: dict[int, object] = {}

    def gather(value: object) -> list[object]:
        box[local.rank] = value
        barrier.wait()
        values = [box[rank] for rank in range(len(shards))]
        barrier.wait()
        return values

    def run(rank: int) -> None:
        local.rank = rank
        part = references[slice(*shards[rank])]
        rows = ImageRows(part, torch.arange(len(part)) % 2, torch.device('cpu'), sharded=True)
        index = NeighborIndex(rows, distinct=True)
        results[rank] = len(index), index.num_references, found(index, images)

    monkeypatch.setattr(distributed, 'gather', gather)
    monkeypatch.setattr(distributed, 'rank', lambda: local.rank)
    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(shards))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(len(shards)), (240, 300, two_nearest(images, references)))


@pytest.mark.parametrize('k', [1, 2, 3])
def test_an_image_and_its_mirror_image_count_as_one_reference(references, images, k):
    training = torch.cat([references, references[:50].flip(3)])  # 50 images and their mirror images
    queries = torch.cat([images, training[300:330], images[:40].flip(3)])
    index, squared = NeighborIndex(training, distinct=True, mirrored=True).query(queries, k)

    first: dict[frozenset[bytes], int] = {}
    for place, image in enumerate(training):
        first.setdefault(frozenset({image.numpy().tobytes(), image.flip(2).numpy().tobytes()}), place)
    places = sorted(first.values())
    assert len(places) == 240 - sum(1 for image in training if torch.equal(image, image.flip(2))) == 240
    versions = torch.stack([training[places], training[places].flip(3)]).long()
    distances = (versions[None] - queries.long()[:, None, None]).square().sum(dim=(3, 4, 5)).amin(dim=1)
    expected, order = distances.sort(dim=1, stable=True)
    assert torch.equal(squared, expected[:, :k])
    assert torch.equal(index, torch.tensor(places)[order[:, :k]])


PEAK = """
import re, sys, torch
from pathlib import Path
from evaluation.neighbors import NeighborIndex

def peak():
    return int(re.search('VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]) * 1024

def find(images):
    NeighborIndex(images, distinct=True, mirrored=sys.argv[1] == 'mirrored').query(images[:1])

images = torch.randint(0, 256, [800, 3, 256, 256], dtype=torch.uint8)
find(images[:2])
before = peak()
find(images)
print((peak() - before) / images.numel())
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('versions', ['one', 'mirrored'])
def test_the_references_are_copied_in_memory_only_once(versions):
    grown = subprocess.run(
        [sys.executable, '-c', PEAK, versions], env=environment(), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 0.7 < float(grown.stdout) < 1.5
