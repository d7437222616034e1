"""Denoisers in closed form: functions of a training set, without a network."""

from training.closed_form.gaussian import GaussianDenoiser

__all__ = ['GaussianDenoiser']
