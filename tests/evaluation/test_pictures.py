import numpy as np
import PIL.Image
import torch

from evaluation.memorization import TrainingImages, memorization_ratio
from evaluation.pictures import GalleryEntry, draw_gallery, image_path, save_images, shown_rows
from training.contact_sheets import contact_sheet, magnified_sheet


def test_images_are_named_after_their_seeds(tmp_path):
    assert image_path(tmp_path, 1234, subdirs=False) == tmp_path / '001234.png'
    assert image_path(tmp_path, 1234, subdirs=True) == tmp_path / '001000' / '001234.png'


def test_saved_images_are_lossless(tmp_path):
    for channels in (1, 3):
        images = torch.arange(2 * channels * 16, dtype=torch.uint8).reshape(2, channels, 4, 4)
        save_images(images, [5, 1002], tmp_path, subdirs=True)
        pixels = np.asarray(PIL.Image.open(tmp_path / '001000' / '001002.png')).reshape(4, 4, channels)
        np.testing.assert_array_equal(pixels, images[1].permute(1, 2, 0))
    assert not list(tmp_path.rglob('*.partial'))


def test_a_contact_sheet_places_images_row_by_row():
    images = torch.stack([torch.full([1, 2, 2], value, dtype=torch.uint8) for value in (10, 20, 30)])
    expected = [[10, 10, 20, 20]] * 2 + [[30, 30, 0, 0]] * 2
    assert np.asarray(contact_sheet(images)).tolist() == expected


def test_a_contact_sheet_of_small_images_is_magnified():
    """The magnification is the largest integer that keeps the sheet within 512 pixels a side, and images within 128."""
    for count, edge, size in [(64, 8, 512), (4, 8, 256), (16, 32, 512), (100, 32, 320), (4, 300, 600)]:
        images = torch.randint(0, 256, [count, 1, edge, edge], dtype=torch.uint8)
        picture = np.asarray(magnified_sheet(images))
        assert picture.shape == (size, size)
        factor = size // np.asarray(contact_sheet(images)).shape[0]
        np.testing.assert_array_equal(picture[::factor, ::factor], np.asarray(contact_sheet(images)))
        cell = factor * edge
        between = picture[:, cell - 2 : cell], picture[cell - 2 : cell]
        assert all((lines == 128).all() for lines in between) == (factor >= 4)


def test_a_gallery_shows_an_even_sample_and_the_images_closest_to_the_threshold():
    """Row 32 is at the threshold: its nearest training image is at distance 33, and its second nearest at 99."""
    squared = torch.stack([torch.arange(1, 101) ** 2, torch.full([100], 99**2)], dim=1)
    result = TrainingImages(torch.arange(2, dtype=torch.uint8)[:, None]).summarize(torch.zeros_like(squared), squared)
    sample, closest = shown_rows(result, count=5).values()
    assert sample == [0, 25, 50, 74, 99]
    assert closest == [32, 33, 31, 34, 30]


def test_a_gallery_shows_and_labels_the_mirror_image_of_a_training_image_if_it_is_nearer(monkeypatch):
    training = torch.randint(0, 256, [3, 1, 8, 8], dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = torch.stack([training[1].flip(-1), training[2]])
    drawn: list[list[GalleryEntry]] = []
    monkeypatch.setattr(
        'evaluation.pictures.draw_entries', lambda lines, sections, heads: drawn.extend(sections.values())
    )
    draw_gallery(images, memorization_ratio(images, training, mirrored=True), training, 'images')
    draw_gallery(images, memorization_ratio(images, training), training, 'images')
    first, second = drawn[0]
    assert torch.equal(first.images[1], training[1].flip(-1))
    assert first.captions[1] == '#1\n\nmirrored'
    assert torch.equal(second.images[1], training[2])
    assert second.captions[1] == '#2'
    for entry in drawn[2]:
        assert all(any(torch.equal(shown, image) for image in training) for shown in entry.images[1:])
        assert not any('mirrored' in caption for caption in entry.captions)


def test_copies_and_only_copies_are_framed_in_red():
    training = torch.tensor([0, 40, 200], dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    for level, is_copy in [(40, True), (20, False)]:
        images = torch.full([1, 3, 8, 8], level, dtype=torch.uint8)
        picture = draw_gallery(images, memorization_ratio(images, training), training, 'images')
        pixels = np.asarray(picture).astype(int)
        red = (pixels[..., 0] > 150) & (pixels[..., 1] < 80)
        assert bool(red.any()) == is_copy
        if is_copy:
            assert red.sum() > 2 * 800  # one frame in the sample, one among the images closest to the threshold
