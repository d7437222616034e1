"""The sampler options, which `training.sampling.sample` takes; this module does not import torch."""

import math
from dataclasses import dataclass, fields
from typing import Any

from dnnlib.options import option
from dnnlib.util import ArgumentError

CLASS_PRIORS = ('uniform', 'data')
PRECISIONS = ('fp32', 'tf32', 'bf16', 'fp16')


def class_prior_option() -> Any:
    """The option that chooses how classes are drawn."""
    help_text = 'How to draw classes: uniformly among those with training images, or in proportion to their number of training images (data).'
    return option('uniform', help_text, choices=CLASS_PRIORS)


def device_option() -> Any:
    """The option that names a device."""
    return option('auto', 'Device to compute on.', unit='auto|cuda|mps|cpu')


def precision_option() -> Any:
    """The option that chooses the precision of networks for sampling and measurements."""
    return option(None, 'Floating-point precision of the networks. [default: as in training]', choices=PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """The sampler to use: `edm_sampler`, or `ablation_sampler` if at least one of the last four options is given.

    None means the sampler's own default. Raises ArgumentError for an empty range of noise levels.
    """

    # fmt: off
    num_steps: int = option(18, 'Number of sampling steps.', name='steps', unit='INT', least=2)
    sigma_min: float | None = option(None, "Lowest noise level. [default: 0.002, or the denoiser's]", name='sigma_min', unit='FLOAT', above=0)
    sigma_max: float | None = option(None, "Highest noise level. [default: 80, or the denoiser's]", name='sigma_max', unit='FLOAT', above=0)
    rho: float = option(7, 'Exponent of the spacing of noise levels; larger values place more steps at low noise.', unit='FLOAT', least=0.01)
    S_churn: float = option(0, 'Strength of the stochasticity (churn).', name='S_churn', unit='FLOAT', least=0)
    S_min: float = option(0, 'Lowest noise level at which churn is applied.', name='S_min', unit='FLOAT', least=0)
    S_max: float = option(math.inf, 'Highest noise level at which churn is applied.', name='S_max', unit='FLOAT', least=0)
    S_noise: float = option(1, 'Factor that multiplies the noise added by churn.', name='S_noise', unit='FLOAT')
    solver: str | None = option(None, 'Solver of the ablation sampler.', choices=('euler', 'heun'))
    discretization: str | None = option(None, 'Time steps of the ablation sampler (discretization).', name='disc', choices=('vp', 've', 'iddpm', 'edm'))
    schedule: str | None = option(None, 'Noise schedule sigma(t) of the ablation sampler.', choices=('vp', 've', 'linear'))
    scaling: str | None = option(None, 'Signal scaling s(t) of the ablation sampler.', choices=('vp', 'none'))
    # fmt: on

    def __post_init__(self) -> None:
        low, high = self.sigma_min, self.sigma_max
        if low is not None and high is not None and low >= high:
            raise ArgumentError(f'`sigma_min`={low:g} must be below `sigma_max`={high:g}')
        if self.S_min > self.S_max:
            raise ArgumentError(f'`S_min`={self.S_min:g} must not be above `S_max`={self.S_max:g}')

    @property
    def name(self) -> str:
        choices = (self.solver, self.discretization, self.schedule, self.scaling)
        return 'edm_sampler' if all(choice is None for choice in choices) else 'ablation_sampler'

    def given(self) -> dict[str, Any]:
        """The options that are not None, as keyword arguments."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}
