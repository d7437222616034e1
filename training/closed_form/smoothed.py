"""The smoothed denoiser: the optimal denoiser averaged over several points around the noisy image.

D(x; sigma) = (1/M) sum_m D*(x + s sigma e_m; sigma), where D* is the optimal denoiser and e_m are M draws of standard
normal noise. Its samples are averages of training images, whereas samples from the optimal denoiser are single
training images. Source: Scarvelis et al. 2023.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dnnlib.util import UserError
from torch_utils.misc import derived_seed
from training.closed_form.optimal import OptimalDenoiser
from training.closed_form.streamed import Streamed
from training.preconditioning import check_noisy


@dataclass(eq=False, repr=False, kw_only=True)
class SmoothedDenoiser(Streamed):
    """The smoothed denoiser for a training set.

    draws: number of draws M, at least 1. smoothing: scale s of the draws, at least 0.
    seed: seed of the draws, which are the same for all images and noise levels.
    precision: see `OptimalDenoiser`. Other arguments: see `Streamed`.
    Raises UserError if draws or smoothing is out of range.
    """

    draws: int = 2
    smoothing: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1:
            raise UserError(f'`draws`={self.draws} is too small; give at least 1')
        if self.smoothing < 0:
            raise UserError(f'`smoothing`={self.smoothing:g} is negative; give at least 0')
        self.optimum = OptimalDenoiser(self.rows, precision=self.precision)
        random = torch.Generator()
        noise = [
            torch.randn(self.image_shape, generator=random.manual_seed(derived_seed(self.seed, m)))
            for m in range(self.draws)
        ]
        self.noise = self.smoothing * torch.stack(noise).to(self.device, torch.float64)

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        check_noisy(x, sigma, self.img_channels, self.img_resolution)
        noisy = x.to(self.device).to(torch.float64)
        scale = torch.as_tensor(sigma, dtype=torch.float64, device=self.device).reshape(-1, 1, 1, 1)
        denoised = [self.optimum(noisy + scale * noise, sigma, class_labels) for noise in self.noise]
        return torch.stack(denoised).mean(dim=0).to(x.dtype if x.dtype == torch.float64 else torch.float32).to(x.device)
