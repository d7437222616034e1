"""Closed-form denoisers: computed directly from a training set, without a network.

`make_denoiser` makes a denoiser from its name. To add a denoiser, write its class and list it in `DENOISERS`.
"""

import inspect
import itertools
import math
import pkgutil
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnnlib.util import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from training.closed_form.rows import Images
    from training.denoiser import Denoiser

# The class for each name, given as the class itself or as 'module:class', which is imported on first use.
DENOISERS: dict[str, Callable[..., 'Denoiser'] | str] = {
    'optimal': 'training.closed_form.optimal:OptimalDenoiser',
    'gaussian': 'training.closed_form.gaussian:GaussianDenoiser',
    'smoothed': 'training.closed_form.smoothed:SmoothedDenoiser',
    'patch': 'training.closed_form.patch:PatchDenoiser',
    'local': 'training.closed_form.local_score:LocalScoreDenoiser',
    'equivariant': 'training.closed_form.local_score:EquivariantLocalScoreDenoiser',
    'pca-locality': 'training.closed_form.pca_locality:PCALocalityDenoiser',
    'hybrid': 'training.closed_form.hybrid:HybridDenoiser',
}
# For each type of parameter, the function that converts a string to a value of that type.
VALUES: dict[type, Callable[[str], Any]] = {
    bool: {'0': False, '1': True}.__getitem__,
    int: int,
    float: float,
    str: str,
}


def make_denoiser(
    name: str,
    images: 'Images',
    labels: 'torch.Tensor | np.ndarray | None' = None,
    device: 'torch.device | str' = 'cpu',
    **parameters: Any,
) -> 'Denoiser':
    """Make a closed-form denoiser from its name.

    name: may include parameters, as in local:window=5,precision=fp64, or describe a hybrid, as in
    hybrid:optimal>4>FILE; see `read_name`.
    images: uint8 [N, C, R, R]. labels: int64 [N] or None. parameters: further arguments of the denoiser's class.
    Raises UserError if `read_name` refuses the name, if a parameter does not belong to the denoiser, or if its class
    refuses a value.
    """
    name, spelled = read_name(name)
    made = denoiser_class(name)
    for parameter in parameters:
        _require_parameter(name, made, parameter)
    return made(images, labels, device, **spelled | parameters)


def read_name(text: str) -> tuple[str, dict[str, Any]]:
    """Parse a name with its parameters: NAME, NAME:PARAMETER=VALUE,… or hybrid:PART>LEVEL>PART….

    Each part is itself a name, or the path of a network file. Parts are listed from high to low noise, separated by
    the noise levels at which to switch.
    Raises UserError for unknown names and parameters, values of the wrong type, and levels that are not in descending
    order.
    """
    name, _, rest = text.partition(':')
    if name not in DENOISERS:
        raise UserError(f'`denoiser`={name}: no such closed form; choose one of {", ".join(DENOISERS)}')
    if name == 'hybrid':
        return name, _read_hybrid(rest)
    made, parameters = denoiser_class(name), {}
    for assignment in rest.split(',') if rest else []:
        parameter, _, value = assignment.partition('=')
        annotation = _require_parameter(name, made, parameter)
        kinds = typing.get_args(annotation) or (annotation,)
        for kind in [kind for kind in VALUES if kind in kinds]:
            try:
                parameters[parameter] = VALUES[kind](value)
                break
            except (ValueError, KeyError):
                continue
        else:
            raise UserError(f'`{parameter}`={value} is not a valid number for this parameter of the {name} denoiser')
    return name, parameters


def files_of(text: str) -> list[Path]:
    """The network files and window tables that the named denoiser reads. Raises UserError if the name is invalid."""
    name, parameters = read_name(text)
    if name == 'hybrid':
        parts = parameters['parts']
        return [path for part in parts for path in (files_of(part) if is_closed_form(part) else [Path(part)])]
    window = parameters.get('window')
    return [Path(window)] if isinstance(window, str) else []


def require_levels(text: str, lowest: float, highest: float) -> None:
    """Raise UserError if the named denoiser would use a window table at noise levels that the table does not cover.

    lowest, highest: the sampler's range of noise levels. Networks are not checked, because samplers stay within a
    network's range.
    """
    from training.closed_form.windows import read_table

    name, parameters = read_name(text)
    if name == 'hybrid':
        ranges = itertools.pairwise([math.inf, *parameters['levels'], 0])
        for part, (high, low) in zip(parameters['parts'], ranges, strict=True):
            if is_closed_form(part) and low < highest and lowest <= high:
                require_levels(part, max(low, lowest), min(high, highest))
    elif isinstance(parameters.get('window'), str):
        read_table(parameters['window']).require(lowest, highest, f'`denoiser`={text}: its table')


def is_closed_form(text: str) -> bool:
    """Whether a part of a hybrid is a closed form; otherwise it is the path of a network file."""
    return text.partition(':')[0] in DENOISERS


def denoiser_class(name: str) -> Callable[..., 'Denoiser']:
    made = DENOISERS[name]
    return pkgutil.resolve_name(made) if isinstance(made, str) else made


def _read_hybrid(text: str) -> dict[str, Any]:
    from training.closed_form.hybrid import check_levels

    words = text.split('>')
    try:
        levels = [float(word) for word in words[1::2]]
    except ValueError as error:
        raise UserError(
            f'`denoiser`=hybrid:{text}: parts must be separated by noise levels, as in optimal>4>FILE'
        ) from error
    parts = words[0::2]
    check_levels(levels, len(parts))
    for part in parts:
        if is_closed_form(part):
            read_name(part)
        elif not Path(part).is_file():
            raise UserError(f'`denoiser`: {part or "an empty part"} is neither a closed form nor a network file')
    return {'parts': parts, 'levels': levels}


def _require_parameter(name: str, made: Callable[..., 'Denoiser'], parameter: str) -> Any:
    """The type of a parameter. Raises UserError if the denoiser does not have this parameter."""
    known = dict(list(inspect.signature(made).parameters.items())[3:])  # without images, labels and device
    if parameter not in known:
        raise UserError(f'`{parameter}`: the {name} denoiser does not have this parameter; remove it')
    return known[parameter].annotation


def __getattr__(name: str) -> Any:
    """Import a denoiser class on demand, as in `from training.closed_form import GaussianDenoiser`."""
    for made in DENOISERS.values():
        if isinstance(made, str) and made.endswith(f':{name}'):
            return pkgutil.resolve_name(made)
    raise AttributeError(f'module {__name__} has no attribute {name}')
