"""The two nearest training images against all distances written out."""

import functools
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation import replays
from evaluation.replays import NONE, Replay, count_copies, find_replays, merge, two_nearest
from training.closed_form.rows import ImageRows


def expected_replays(images: Tensor, references: Tensor) -> list[tuple[int, int, int | None]]:
    """Index and squared distance of the nearest, and the squared distance of the nearest that is not equal to it."""
    found = []
    for image in images.numpy().astype(int):
        distances = np.square(references.numpy().astype(int) - image).sum(axis=(1, 2, 3))
        nearest = int(distances.argmin())
        others = distances[(references != references[nearest]).flatten(1).any(dim=1).numpy()]
        found.append((nearest, int(distances[nearest]), int(others.min()) if len(others) else None))
    return found


def as_tuples(found: list[Replay]) -> list[tuple[int, int, int | None]]:
    return [(replay.nearest, replay.squared_distance, replay.second_squared_distance) for replay in found]


@pytest.fixture(scope='module')
def references() -> Tensor:
    """300 small images, of which 60 are copies of others and 60 lie next to others."""
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
def test_found_as_by_all_distances(
    size: int, images: Tensor, references: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, 'REFERENCE_BLOCK', size)
    labels = torch.arange(300) * 7 % 3  # a class after the other, so rows are in another order
    for rows in (ImageRows(references, None, torch.device('cpu')), ImageRows(references, labels, torch.device('cpu'))):
        assert as_tuples(find_replays(rows, images, None)) == expected_replays(images, references)


def test_images_of_many_pixels(images: Tensor, references: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, 'MAX_PIXELS', 1)
    rows = ImageRows(references, None, torch.device('cpu'))
    assert as_tuples(find_replays(rows, images, None)) == expected_replays(images, references)


@pytest.mark.parametrize('bounds', [[0, 1, 300], [0, 100, 150, 300]])
def test_shards_merge(bounds: list[int], images: Tensor, references: Tensor) -> None:
    parts = []
    for start, stop in itertools.pairwise(bounds):
        rows = ImageRows(references[start:stop], None, torch.device('cpu'))
        rows.offset = start
        parts.append(two_nearest(rows, images))
    found = functools.reduce(merge, parts)
    seconds = [None if second == NONE else second for second in found.second.tolist()]
    merged = list(zip(found.nearest.tolist(), found.first.tolist(), seconds, strict=True))
    assert merged == expected_replays(images, references)


def test_one_distinct_image_has_no_second(images: Tensor) -> None:
    rows = ImageRows(images[:1].expand(3, -1, -1, -1), None, torch.device('cpu'))
    found = find_replays(rows, images[:2], [4, 5])
    assert found[0] == Replay(4, 0, 0, None)
    assert (found[1].class_index, found[1].second_squared_distance) == (5, None)
    assert count_copies(found) == (1, 1)


def test_a_copy_is_nearer_than_a_third_of_the_next() -> None:
    """Squared distances: 9 times the nearest must be less than the next; distance 0 is a copy whatever the next is."""
    cases = [(0, 1), (1, 9), (1, 10), (100, 901), (100, 900), (5, None), (0, None)]
    assert count_copies([Replay(None, 0, first, second) for first, second in cases]) == (4, 2)
