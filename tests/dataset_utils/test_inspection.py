import itertools
import re

import numpy as np
import pytest

from dataset_utils import content_sha256, inspection, open_source
from dnnlib.util import UserError
from tests.dataset_utils.making import labelled_files, random_images, write_zip


def naive_pairs(images: np.ndarray, near: float) -> list[tuple[int, int]]:
    flat = images.reshape(len(images), -1).astype(np.float64)
    pairs = [(np.sqrt(((flat[i] - flat[j]) ** 2).mean()), i, j) for i, j in itertools.combinations(range(len(flat)), 2)]
    return [(i, j) for distance, i, j in sorted(pairs) if distance < near]


@pytest.mark.parametrize('near', [0, 40, 60, 80, 300])
def test_near_pairs_equal_those_of_a_naive_search(near, monkeypatch):
    monkeypatch.setattr(inspection, 'BLOCK', 7)
    images = open_source('digits').load()[:100]
    found = inspection.near_pairs(images, near)
    assert [pair[:2] for pair in found] == naive_pairs(images, near)


def test_near_pairs_are_found_in_a_set_with_more_images_than_projections(monkeypatch):
    monkeypatch.setattr(inspection, 'DIRECTIONS', 3)
    images = random_images(60, 6)
    images[50] = images[7] ^ 3
    assert [pair[:2] for pair in inspection.near_pairs(images, 4)] == [(7, 50)] == naive_pairs(images, 4)


def test_the_distance_is_the_root_mean_square_per_pixel():
    images = np.zeros((2, 2, 2, 1), np.uint8)
    images[1, 0, 0, 0] = 10
    assert inspection.near_pairs(images, 6) == [(0, 1, 5.0)]
    assert inspection.near_pairs(images, 5) == []


def test_a_single_image_has_no_pairs():
    assert inspection.near_pairs(random_images(1), 300) == []


def test_too_many_pairs_give_a_one_sentence_error(monkeypatch):
    monkeypatch.setattr(inspection, 'MAX_CANDIDATES', 100)
    with pytest.raises(UserError, match=r'`near`=300 gives too many pairs to list; lower it'):
        inspection.near_pairs(random_images(50), 300)


def test_copies_are_listed_with_the_first_of_the_equal_images():
    images = random_images(5)
    images[2] = images[4] = images[0]
    assert inspection.copies_of(images) == [0, 1, 0, 3, 0]


def test_the_description_counts_images_classes_and_copies(tmp_path):
    images = random_images(6)
    images[4] = images[1]
    images[5] = images[2]
    images[5, 0, 0, 0] ^= 1
    labels = [1, 0, 1, 1, 3, 3]
    source = open_source(write_zip(tmp_path / 'set.zip', labelled_files(images, labels)))
    text = inspection.describe(source, 2)
    assert text.splitlines() == [
        f'{tmp_path / "set.zip"}: 6 images, 8x8 RGB',
        f'Content: sha256 {content_sha256(images, labels)}',
        'Labels: 3 classes',
        '  0: 1',
        '  1: 3',
        '  3: 2',
        'Exact copies of earlier images: 1',
        '  00000/img00000004.png of 00000/img00000001.png',
        'Near copies (root mean square difference per pixel below 2 of 255): 1',
        '  00000/img00000002.png and 00000/img00000005.png: 0.07',
        'Manifest: none',
    ]


def test_long_lists_are_shortened(tmp_path):
    images = np.concatenate([random_images(30)] * 2)
    source = open_source(write_zip(tmp_path / 'set.zip', labelled_files(images, list(range(60)))))
    text = inspection.describe(source, 2)
    assert 'Labels: 60 classes of 1 image each\n' in text
    assert 'Exact copies of earlier images: 30' in text
    assert len(re.findall(r'\.png of ', text)) == inspection.SHOWN


@pytest.mark.parametrize(
    ('labels', 'words'),
    [([0, *range(25)], '25 classes of 1 to 2 images'), ([*range(25), *range(25)], '25 classes of 2 images each')],
)
def test_many_classes_are_summarized(tmp_path, labels, words):
    source = open_source(write_zip(tmp_path / 'set.zip', labelled_files(random_images(len(labels)), labels)))
    assert f'Labels: {words}\n' in inspection.describe(source, 2)
