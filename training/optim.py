"""An alias under which other codebases import the optimal denoiser; see `training.closed_form.optimal`."""

from training.closed_form.optimal import OptimalDenoiser

__all__ = ['OptimalDenoiser']
