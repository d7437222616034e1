"""Arguments that no closed form accepts."""

from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from training.closed_form import DENOISERS, make_denoiser

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8), dtype=np.uint8)


@pytest.mark.parametrize('name', [name.replace('hybrid', 'hybrid:optimal>4>gaussian') for name in DENOISERS])
def test_noisy_images_and_noise_levels_of_a_wrong_type_or_shape_are_refused(name):
    denoiser = make_denoiser(name, IMAGES)
    x = torch.zeros(2, 1, 8, 8)
    assert denoiser(x, torch.ones(2)).shape == x.shape
    cases: Any = ((x.numpy(), 'ndarray'), (x[0], r'\[1, 8, 8\]'), (x.expand(2, 3, 8, 8), r'\[2, 3, 8, 8\]'))
    for wrong, found in cases:
        with pytest.raises(UserError, match=rf'^x must be a tensor \[B, 1, 8, 8\], not {found}$'):
            denoiser(wrong, 1.0)
    with pytest.raises(UserError, match=r'^sigma has 3 values for 2 images; give one value, or one per image$'):
        denoiser(x, torch.ones(3))
