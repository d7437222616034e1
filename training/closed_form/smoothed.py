"""The smoothed denoiser: the mean of the optimum at several points around the noisy image.

D(x; sigma) = (1/M) sum_m D*(x + s sigma e_m; sigma) with M draws e_m of standard normal noise. Its images are averages
of training images, while the optimum chooses one. Source: Scarvelis et al. 2023.
"""

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import UserError
from torch_utils.misc import derived_seed
from training.closed_form.optimal import OptimalDenoiser
from training.closed_form.rows import Images
from training.closed_form.streamed import Streamed


class SmoothedDenoiser(Streamed):
    """The smoothed optimum of a training set.

    draws: M, at least 1. smoothing: s, at least 0. seed: of the draws, which are the same for all images and levels.
    precision: of the optimum. Other arguments: see `Streamed`. Raises UserError for draws and smoothing out of range.
    """

    def __init__(
        self,
        images: Images,
        labels: Tensor | np.ndarray | None = None,
        device: torch.device | str = 'cpu',
        draws: int = 2,
        smoothing: float = 1.0,
        seed: int = 0,
        precision: str = 'fp32',
    ):
        super().__init__(images, labels, device, precision)
        if draws < 1:
            raise UserError(f'`draws`={draws}: give at least 1')
        if smoothing < 0:
            raise UserError(f'`smoothing`={smoothing:g}: give at least 0')
        self.optimum = OptimalDenoiser(self.images, precision=precision)
        random = torch.Generator()
        noise = [
            torch.randn(self.image_shape, generator=random.manual_seed(derived_seed(seed, m))) for m in range(draws)
        ]
        self.noise = smoothing * torch.stack(noise).to(self.device, torch.float64)

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        noisy = x.to(self.device).to(torch.float64)
        scale = torch.as_tensor(sigma, dtype=torch.float64, device=self.device).reshape(-1, 1, 1, 1)
        denoised = [self.optimum(noisy + scale * noise, sigma, class_labels) for noise in self.noise]
        return torch.stack(denoised).mean(dim=0).to(x.dtype if x.dtype == torch.float64 else torch.float32).to(x.device)
