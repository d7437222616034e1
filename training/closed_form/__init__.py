"""Denoisers in closed form: functions of a training set, without a network.

`make_denoiser` makes one by its name. A new one is a class in a file of its own and a line in `DENOISERS`.
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

# By name: the class, or module:class, which is imported when it is first used.
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
# From text to the value of a parameter, by its type.
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
    """The closed-form denoiser of this name.

    name: with parameters as in local:window=5,precision=fp64, or a hybrid as in hybrid:optimal>4>FILE; see `read_name`.
    images: uint8 [N, C, R, R]. labels: int64 [N] or None. parameters: of its class.
    Raises UserError as `read_name`, for a parameter that this denoiser does not have, and as its class does.
    """
    name, spelled = read_name(name)
    made = denoiser_class(name)
    for parameter in parameters:
        _require_parameter(name, made, parameter)
    return made(images, labels, device, **spelled | parameters)


def read_name(text: str) -> tuple[str, dict[str, Any]]:
    """Parse a name and its parameters: NAME, NAME:PARAMETER=VALUE,… or hybrid:PART>LEVEL>PART….

    A part is such a text or the path of a network. Parts go from high to low noise, with noise levels between them.
    Raises UserError for unknown names and parameters, values of the wrong type, and levels that do not descend.
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
            raise UserError(f'`{parameter}`={value}: the {name} denoiser needs a number here')
    return name, parameters


def files_of(text: str) -> list[Path]:
    """The files that a denoiser of this name reads: networks and tables. Raises UserError as `read_name`."""
    name, parameters = read_name(text)
    if name == 'hybrid':
        parts = parameters['parts']
        return [path for part in parts for path in (files_of(part) if is_closed_form(part) else [Path(part)])]
    window = parameters.get('window')
    return [Path(window)] if isinstance(window, str) else []


def require_levels(text: str, lowest: float, highest: float) -> None:
    """Raise UserError if a table of windows does not cover the noise levels at which a denoiser of this name uses it.

    lowest, highest: noise levels of a sampler. Networks are not checked, since samplers keep within their range.
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
    """Whether a part of a hybrid is a closed form; otherwise it is the path of a network."""
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
            f'`denoiser`=hybrid:{text}: between two parts, give a noise level, as in optimal>4>FILE'
        ) from error
    parts = words[0::2]
    check_levels(levels, len(parts))
    for part in parts:
        if is_closed_form(part):
            read_name(part)
        elif not Path(part).is_file():
            raise UserError(f'`denoiser`: {part or "an empty part"} is neither a closed form nor the file of a network')
    return {'parts': parts, 'levels': levels}


def _require_parameter(name: str, made: Callable[..., 'Denoiser'], parameter: str) -> Any:
    """The type of a parameter. Raises UserError if the denoiser does not have it."""
    known = dict(list(inspect.signature(made).parameters.items())[3:])  # after images, labels and device
    if parameter not in known:
        raise UserError(f'`{parameter}`: the {name} denoiser does not have this parameter; remove it')
    return known[parameter].annotation


def __getattr__(name: str) -> Any:
    """The classes by their own names, as in `from training.closed_form import GaussianDenoiser`."""
    for made in DENOISERS.values():
        if isinstance(made, str) and made.endswith(f':{name}'):
            return pkgutil.resolve_name(made)
    raise AttributeError(f'module {__name__} has no attribute {name}')
