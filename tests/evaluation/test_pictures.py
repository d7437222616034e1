import numpy as np
import PIL.Image
import torch

from evaluation.pictures import contact_sheet, gallery, image_path, save_images


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


def test_contact_sheet_places_images_row_after_row():
    images = torch.stack([torch.full([1, 2, 2], value, dtype=torch.uint8) for value in (10, 20, 30)])
    expected = [[10, 10, 20, 20]] * 2 + [[30, 30, 0, 0]] * 2
    assert np.asarray(contact_sheet(images)).tolist() == expected


def test_copies_and_only_copies_are_framed_in_red():
    images = torch.zeros([2, 3, 8, 8], dtype=torch.uint8)
    pixels = np.asarray(gallery(images, images, [0.0, 9.0], [True, False], pairs_per_row=2)).astype(int)
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 80)
    left, right = np.split(red, 2, axis=1)
    assert left.sum() > 500
    assert not right.any()
