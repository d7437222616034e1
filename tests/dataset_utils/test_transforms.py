import numpy as np
import PIL.Image
import pytest

from dataset_utils.transforms import make_transform, pad
from tests.dataset_utils.making import random_images


def pillow(image: np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int], resample) -> np.ndarray:
    return np.asarray(PIL.Image.fromarray(image).crop(box).resize(size, resample))


def image_of(height: int, width: int) -> np.ndarray:
    return random_images(1, max(height, width))[0][:height, :width]


def test_center_crop_resizes_the_central_square_with_lanczos():
    image = image_of(20, 31)
    expected = pillow(image, (5, 0, 25, 20), (8, 8), PIL.Image.Resampling.LANCZOS)
    assert np.array_equal(make_transform('center-crop', (8, 8))(image), expected)


def test_center_crop_leaves_an_image_of_the_right_size_unchanged():
    image = image_of(16, 20)
    assert np.array_equal(make_transform('center-crop', (16, 16))(image), image[:, 2:18])


@pytest.mark.parametrize(('height', 'width', 'box'), [(30, 40, (0, 5, 40, 25)), (30, 80, (10, 0, 70, 30))])
def test_center_crop_wide_letterboxes_the_central_box(height, width, box):
    image = image_of(height, width)
    made = make_transform('center-crop-wide', (16, 8))(image)
    assert made.shape == (16, 16, 3)
    assert np.array_equal(made[4:12], pillow(image, box, (16, 8), PIL.Image.Resampling.LANCZOS))
    assert not made[:4].any()
    assert not made[12:].any()


@pytest.mark.parametrize(('height', 'width'), [(30, 15), (7, 40), (8, 15)])
def test_center_crop_wide_skips_small_images(height, width):
    assert make_transform('center-crop-wide', (16, 8))(image_of(height, width)) is None


def test_center_crop_wide_keeps_an_image_of_exactly_the_minimum_size():
    image = image_of(8, 16)
    assert np.array_equal(make_transform('center-crop-wide', (16, 8))(image)[4:12], image)


def test_center_crop_dhariwal_halves_then_scales_then_crops():
    image = image_of(70, 101)
    halved = PIL.Image.fromarray(image).resize((50, 35), PIL.Image.Resampling.BOX)
    halved = halved.resize((25, 17), PIL.Image.Resampling.BOX)
    scaled = np.asarray(halved.resize((round(25 * 16 / 17), 16), PIL.Image.Resampling.BICUBIC))
    left = (scaled.shape[1] - 16) // 2
    made = make_transform('center-crop-dhariwal', (16, 16))(image)
    assert np.array_equal(made, scaled[:, left : left + 16])


def test_center_crop_dhariwal_at_twice_the_size_averages_four_pixels():
    image = image_of(8, 8)
    means = image.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    # Pillow rounds twice: after resizing in one direction, and after resizing in the other.
    assert np.abs(make_transform('center-crop-dhariwal', (4, 4))(image) - means).max() <= 1


def test_grey_images_stay_grey():
    image = random_images(1, 12, 1)[0]
    for name in (None, 'center-crop', 'center-crop-wide', 'center-crop-dhariwal'):
        assert make_transform(name, (6, 6))(image).shape == (6, 6, 1)


def test_without_a_transform_only_square_images_are_resized():
    image = image_of(12, 12)
    expected = pillow(image, (0, 0, 12, 12), (5, 5), PIL.Image.Resampling.LANCZOS)
    assert np.array_equal(make_transform(None, (5, 5))(image), expected)
    with pytest.raises(ValueError, match=r'12x10 RGB, not square'):
        make_transform(None, (5, 5))(image_of(10, 12))


def test_padding_centers_the_image_between_zeros():
    image = np.ones((2, 3, 1), np.uint8)
    expected = [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert pad(image, 5)[..., 0].tolist() == expected


@pytest.mark.parametrize(
    ('name', 'resolution', 'word'),
    [
        ('center-crop', (8, 4), 'not square'),
        (None, (8, 4), 'not square'),
        ('center-crop-wide', (4, 8), 'taller than wide'),
        ('stretch', (4, 4), 'unknown'),
    ],
)
def test_impossible_combinations_are_refused(name, resolution, word):
    with pytest.raises(ValueError, match=word):
        make_transform(name, resolution)
