"""Denoisers in closed form: functions of a training set, without a network.

`make_denoiser` makes one by its name. A new one is a class in a file of its own and a line in `DENOISERS`.
"""

import inspect
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dnnlib.util import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from training.closed_form.rows import Images
    from training.denoiser import Denoiser

# By name: the class, or module:class, which is imported when it is first used.
DENOISERS: dict[str, Callable[..., 'Denoiser'] | str] = {
    'optimal': 'training.closed_form.optimal:OptimalDenoiser',
    'gaussian': 'training.closed_form.gaussian:GaussianDenoiser',
    'smoothed': 'training.closed_form.smoothed:SmoothedDenoiser',
    'patch': 'training.closed_form.patch:PatchDenoiser',
    'local': 'training.closed_form.local_score:LocalScoreDenoiser',
    'equivariant': 'training.closed_form.local_score:EquivariantLocalScoreDenoiser',
    'pca-locality': 'training.closed_form.pca_locality:PCALocalityDenoiser',
}


def make_denoiser(
    name: str,
    images: 'Images',
    labels: 'torch.Tensor | np.ndarray | None' = None,
    device: 'torch.device | str' = 'cpu',
    **parameters: Any,
) -> 'Denoiser':
    """The closed-form denoiser of this name.

    images: uint8 [N, C, R, R]. labels: int64 [N] or None. parameters: of its class.
    Raises UserError for an unknown name, a parameter that this denoiser does not have, and as its class does.
    """
    require_known(name)
    made = DENOISERS[name]
    made = pkgutil.resolve_name(made) if isinstance(made, str) else made
    if unknown := set(parameters) - set(inspect.signature(made).parameters):
        raise UserError(f'`{min(unknown)}`: the {name} denoiser does not have this parameter; remove it')
    return made(images, labels, device, **parameters)


def require_known(name: str) -> None:
    """Raise UserError for a name that is not in `DENOISERS`."""
    if name not in DENOISERS:
        raise UserError(f'`denoiser`={name}: no such closed form; choose one of {", ".join(DENOISERS)}')


def __getattr__(name: str) -> Any:
    """The classes by their own names, as in `from training.closed_form import GaussianDenoiser`."""
    for made in DENOISERS.values():
        if isinstance(made, str) and made.endswith(f':{name}'):
            return pkgutil.resolve_name(made)
    raise AttributeError(f'module {__name__} has no attribute {name}')
