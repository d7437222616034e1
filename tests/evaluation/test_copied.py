"""Which training images are copied: a case worked by hand."""

import csv

import numpy as np
import torch

from evaluation.copied import copied_images, copied_record, draw_copied, write_copied
from evaluation.given_images import generated_set
from evaluation.pictures import GalleryEntry
from evaluation.printing import copied_text

COPIES = torch.tensor([True, True, False, True, True, True])
NEAREST = torch.tensor([4, 2, 1, 4, 0, 4])
LABELS = torch.tensor([7, 5, 5, 5, 7])


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_training_images_and_classes_are_sorted_by_number_of_copies(tmp_path):
    copied = copied_images(COPIES, NEAREST, LABELS)
    assert [(image.position, image.label, image.places) for image in copied] == [
        (4, 7, [0, 3, 5]),
        (0, 7, [4]),
        (2, 5, [1]),
    ]
    record = copied_record(copied, 5, LABELS)
    assert record == {
        'num_images': 3,
        'share': 0.6,
        'classes': [{'class': 7, 'copies': 4}, {'class': 5, 'copies': 1}],
    }
    expected = 'Copied: 3 training images, 60.00 % of the set; most copies: class 7 (4), class 5 (1)'
    assert copied_text(record) == expected
    images = generated_set('net', '', [10, 11, 12, 13, 14, 15], torch.zeros(6, 1, 2, 2, dtype=torch.uint8))
    write_copied(tmp_path / 'who.csv', [images], [copied], LABELS, ['a.png', 'b.png', 'c.png', 'd.png', 'cats/e.png'])
    assert rows(tmp_path / 'who.csv')[0] == {
        'set': 'net', 'training_image': '4', 'training_file': 'cats/e.png', 'class': '7', 'copies': '3',
        'images': '10 13 15',
    }  # fmt: skip
    assert [tuple(row.values()) for row in rows(tmp_path / 'who_classes.csv')] == [
        ('net', '7', '2', '2', '4'),
        ('net', '5', '3', '1', '1'),
    ]


def test_copied_images_are_reported_without_labels_and_without_copies(tmp_path):
    copied = copied_images(COPIES, NEAREST, None)
    images = generated_set('net', '', list(range(6)), torch.zeros(6, 1, 2, 2, dtype=torch.uint8))
    write_copied(tmp_path / 'who.csv', [images, images], [copied, []], None)
    assert [(row['class'], row['training_file']) for row in rows(tmp_path / 'who.csv')] == [('', '')] * 3
    assert not (tmp_path / 'who_classes.csv').exists()
    assert copied_images(torch.zeros(6, dtype=torch.bool), NEAREST, LABELS) == []
    assert copied_text(copied_record([], 5, LABELS)) == 'Copied: 0 training images, 0.00 % of the set'


def test_copies_of_mirror_images_are_marked_in_the_gallery(monkeypatch):
    training = torch.randint(0, 256, [5, 1, 8, 8], dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = training[NEAREST]
    images[3] = images[3].flip(-1)
    copied, exact = copied_images(COPIES, NEAREST, LABELS), torch.zeros(6, dtype=torch.int64)
    drawn: list[list[GalleryEntry]] = []
    monkeypatch.setattr('evaluation.copied.draw_entries', lambda lines, sections, *_: drawn.extend(sections.values()))
    draw_copied(copied, images, training, 'net', squared_distances=exact)
    draw_copied(copied, images, training, 'net')
    assert [entry.captions for entry in drawn[0][:2]] == [['#4\n3 copies', '', 'mirrored'], ['#0\n1 copy', '']]
    assert [entry.captions for entry in drawn[1][:2]] == [['#4\n3 copies'], ['#0\n1 copy']]


def test_the_gallery_says_if_it_omits_copied_images(monkeypatch):
    training = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
    titles: list[str] = []
    monkeypatch.setattr('evaluation.copied.draw_entries', lambda lines, sections, *_: titles.extend(sections))
    for most in (2, 3):
        draw_copied(copied_images(COPIES, NEAREST, LABELS), training[NEAREST], training, 'net', most)
    assert titles == [
        'The 2 copied most often; up to two copies of each',
        'Most copied first; up to two copies of each',
    ]


def test_the_gallery_starts_with_the_most_copied_image():
    training = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8) * 40
    images = training[NEAREST]
    picture = np.asarray(draw_copied(copied_images(COPIES, NEAREST, LABELS), images, training, 'net'))
    narrow = draw_copied(copied_images(COPIES, NEAREST, LABELS), images, training, 'net', num_images=6)
    assert narrow.width == 12 + 2 * (3 * 67 + 3 + 12)  # two training images, each with two copies
    first = picture[:, :216]
    assert ((first == 160).all(axis=2).sum(axis=1) == 3 * 64).any()  # a training image and two of its copies
