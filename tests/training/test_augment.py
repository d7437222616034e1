import math

import pytest
import torch

from training.augment import AugmentPipe, rotation, scaling, transform, translation

SIDE = 32


def bump(x, y, stretch=1.0):
    """An image with a smooth blob at (x, y) pixels from its centre, [1, 1, SIDE, SIDE]."""
    axis = torch.arange(SIDE) - (SIDE - 1) / 2
    rows, columns = torch.meshgrid(axis, axis, indexing='ij')
    return torch.exp(-((columns / stretch - x) ** 2 + (rows - y) ** 2) / 30)[None, None]


ONE = torch.ones(1)


@pytest.mark.parametrize(
    ('matrix', 'expected'),
    [
        (translation(3 * ONE, -2 * ONE), bump(7, -4)),
        (rotation(ONE * math.pi / 2), bump(2, 4)),
        (scaling(1.3 * ONE, ONE), bump(4, -2, stretch=1.3)),
    ],
)
def test_a_smooth_image_is_transformed_as_the_matrix_says(matrix, expected):
    assert float((transform(bump(4, -2), matrix) - expected).abs().max()) < 0.01


def test_the_identity_leaves_images_unchanged():
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    same = transform(images, torch.eye(3).expand(2, 3, 3))
    assert float((same - images).abs().max()) < 1e-4


def test_pixels_outside_the_image_are_its_reflection():
    images = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    moved = transform(images, translation(2 * ONE, 0 * ONE))
    expected = torch.cat([images[..., 1:3].flip(3), images[..., :6]], dim=3)
    assert float((moved - expected).abs().max()) < 1e-4


def test_no_augmentation_is_applied_at_probability_zero():
    images = torch.randn(4, 1, 8, 8)
    same, labels = AugmentPipe(p=0, xflip=1e8, yflip=1, scale=1, rotate_frac=1, aniso=1, translate_frac=1)(images)
    torch.testing.assert_close(same, images, rtol=0, atol=1e-4)
    assert not labels.any()


def test_half_of_the_images_are_flipped_and_labels_show_which():
    torch.manual_seed(0)
    images = torch.randn(1000, 1, 4, 4)
    flipped, labels = AugmentPipe(p=0.01, xflip=1e8)(images)
    is_flipped = (flipped == images.flip(3)).all(dim=(1, 2, 3))
    assert torch.equal(is_flipped, labels[:, 0] == 1)
    assert 400 < int(is_flipped.sum()) < 600
    assert not labels[:, 1:].any()


def test_augmentation_labels_have_the_published_distributions():
    torch.manual_seed(0)
    _, labels = AugmentPipe(p=0.5, yflip=1, scale=1, rotate_frac=1, aniso=1, translate_frac=1)(
        torch.zeros(4000, 1, 4, 4)
    )
    share_on = (labels != 0).double().mean(dim=0)
    expected = [0, 0.25, 0.5, 0.5, 0.5, 0.5, 0.25, 0.5, 0.5]
    torch.testing.assert_close(share_on, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0.05)
    rotated = labels[labels[:, 4] != 0]
    torch.testing.assert_close(
        (rotated[:, 3] + 1) ** 2 + rotated[:, 4] ** 2, torch.ones(len(rotated)), rtol=1e-4, atol=0
    )
    assert float(labels[labels[:, 7] != 0][:, 7].std()) == pytest.approx(1, abs=0.1)
    assert torch.equal(labels[:, 7] != 0, labels[:, 8] != 0)
