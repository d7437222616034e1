"""Hybrid denoisers, which switch from one denoiser to another at given noise levels.

A network can be replaced with the optimal denoiser in one range of noise levels. The change in the generated images
then shows what the network contributes in that range.
Source: Bertrand et al. 2025.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import UserError, counted
from training.closed_form import is_closed_form, make_denoiser
from training.closed_form.closed_form import check_images, compute_device
from training.closed_form.rows import ImageRows, Images
from training.dataset import checked_labels
from training.denoiser import Denoiser
from training.preconditioning import check_noisy
from training.snapshot import load_network


class HybridDenoiser:
    """Several denoisers, each used within its own range of noise levels.

    images, labels, device: arguments of the closed forms.
    parts: the denoisers, from high to low noise. Each is given as an object, as the name of a closed form (see
    `make_denoiser`), or as the path of a network file. A name or path that occurs several times is loaded once.
    levels: the len(parts) - 1 noise levels at which to switch, in descending order; parts[i] is used from
    levels[i - 1] (inclusive) down to levels[i] (exclusive).
    Raises UserError for levels that are not in descending order, and for parts that differ in image shape or number of
    classes.
    """

    def __init__(
        self,
        images: Images,
        labels: Tensor | np.ndarray | None = None,
        device: torch.device | str = 'cpu',
        parts: Sequence[str | Denoiser] = (),
        levels: Sequence[float] = (),
    ):
        check_levels(levels, len(parts))
        names = dict.fromkeys(part for part in parts if isinstance(part, str))
        if not isinstance(images, ImageRows) and any(map(is_closed_form, names)):
            check_images(images)
            # Shared by all parts.
            images = ImageRows(images, checked_labels(labels, len(images)), compute_device(device))
        made = {
            name: make_denoiser(name, images, labels, device) if is_closed_form(name) else load_network(name, device)
            for name in names
        }
        self.parts: list[Denoiser] = [made[part] if isinstance(part, str) else part for part in parts]
        self.levels = list(levels)
        first = self.parts[0]
        self.img_channels, self.img_resolution, self.label_dim = _kind(first)
        self.sigma_min, self.sigma_max = self.parts[-1].sigma_min, first.sigma_max
        for part, name in zip(self.parts, parts, strict=True):
            if _kind(part) != _kind(first):
                raise UserError(
                    f'`denoiser`: the parts of a hybrid must match, but {_shown(first, parts[0])}, and '
                    f'{_shown(part, name)}'
                )

    def part_at(self, sigma: float) -> Denoiser:
        """The denoiser used at a noise level."""
        return self.parts[sum(sigma <= level for level in self.levels)]

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        values = torch.as_tensor(sigma)
        rounded = [torch.as_tensor(self.part_at(float(one)).round_sigma(one)) for one in values.flatten()]
        return torch.stack([one.flatten()[0] for one in rounded]).reshape(values.shape).to(values)

    def __call__(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        check_noisy(x, sigma, self.img_channels, self.img_resolution)
        levels = torch.as_tensor(sigma).flatten()
        if len(levels) == 1:
            return self.part_at(float(levels))(x, sigma, class_labels)
        chosen = torch.tensor([sum(float(one) <= level for level in self.levels) for one in levels], device=x.device)
        result = torch.empty_like(x, dtype=x.dtype if x.dtype == torch.float64 else torch.float32)
        for index in chosen.unique().tolist():
            own = chosen == index
            labels = None if class_labels is None else class_labels[own]
            result[own] = self.parts[index](x[own], levels.to(x.device)[own], labels).to(result.dtype)
        return result


def check_levels(levels: Sequence[float], num_parts: int) -> None:
    """Raise UserError unless there are num_parts - 1 levels, which are positive and in descending order."""
    if num_parts < 2 or len(levels) != num_parts - 1:
        given = f'{counted(num_parts, "part")} and {counted(len(levels), "noise level")}'
        raise UserError(
            f'`denoiser`: the hybrid has {given}; give at least two parts, with a noise level between each part and '
            'the next'
        )
    if not all(high > low for high, low in itertools.pairwise([*levels, 0.0])):
        shown = ', '.join(f'{level:g}' for level in levels)
        raise UserError(
            f'`denoiser`: the noise levels of a hybrid must be positive and in descending order, not {shown}'
        )


def _kind(part: Denoiser) -> tuple[int, int, int]:
    return part.img_channels, part.img_resolution, part.label_dim


def _shown(part: Denoiser, name: str | Denoiser) -> str:
    channels, size, classes = _kind(part)
    return (
        f'{name if isinstance(name, str) else type(name).__name__} has {size}×{size}×{channels} and {classes} classes'
    )
