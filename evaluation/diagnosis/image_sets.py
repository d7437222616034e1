"""The image sets and noise levels of a measurement; checks that they match the denoiser and each other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dnnlib.util import UserError
from evaluation.diagnosis_options import DenoisingOptions
from training.dataset import Dataset, load_dataset, require_shape
from training.denoiser import Denoiser
from training.held_out_loss import refuse_shared
from training.sampling import rho_schedule

# Number of images measured in each set, unless the set is smaller.
USUAL_NUMBER = 1000
# Number of noise levels in EDM's sampler.
USUAL_LEVELS = 18
LOWEST, HIGHEST, RHO = 0.002, 80, 7


@dataclass(frozen=True)
class ImageSets:
    """A training set and an optional held-out set. num: how many images to measure, from the start of each set."""

    training: Dataset
    held_out: Dataset | None
    num: int

    @property
    def sha256(self) -> dict[str, str | None]:
        return {'training': self.training.sha256, 'held_out': self.held_out.sha256 if self.held_out else None}


def load_sets(data: str, test: str | None, num: int | None, allow_overlap: bool) -> ImageSets:
    """Read the sets. num: number of images to measure; None measures `USUAL_NUMBER`, or fewer if a set is smaller.

    Raises UserError if the sets differ in shape, share images (unless allowed), or have fewer images than `num`.
    """
    training = load_dataset(data, argument='data')
    held_out = None if test is None else load_dataset(test, argument='test')
    sizes = {f'`data`={data}': len(training.images)}
    if held_out is not None:
        require_shape(held_out.images.shape[1:], training.images.shape[1:], f'`test`={test}', 'the training set has')
        sizes[f'`test`={test}'] = len(held_out.images)
        if not allow_overlap:
            refuse_shared(held_out.images, training, f'`test`={test}')
    for name, size in sizes.items():
        if size < (num or 2):
            raise UserError(f'{name} has {size} images, fewer than the {num or 2} to measure; lower `num`')
    return ImageSets(training, held_out, num or min(USUAL_NUMBER, *sizes.values()))


def noise_levels(levels: Sequence[float] | int, denoiser: Denoiser) -> list[float]:
    """The noise levels at which to measure, rounded to levels that the denoiser supports, in descending order.

    levels: a list of noise levels, or the number of levels in EDM's schedule, limited to the denoiser's range.
    Raises UserError for a level that is not positive, or that is outside the denoiser's range.
    """
    low, high = denoiser.sigma_min, denoiser.sigma_max
    if isinstance(levels, int):
        levels = rho_schedule(max(LOWEST, low), min(HIGHEST, high), levels, RHO).tolist()
    for sigma in levels:
        if not (sigma > 0 and math.isfinite(sigma)):
            raise UserError(f'`levels`: {sigma:g} is not a noise level; give positive numbers')
        if not low * (1 - 1e-6) <= sigma <= high * (1 + 1e-6):
            raise UserError(f"`levels`: {sigma:g} is outside the denoiser's range, {low:g} to {high:g}")
    return sorted(
        {float(denoiser.round_sigma(torch.tensor(sigma, dtype=torch.float64))) for sigma in levels}, reverse=True
    )


def labels_of(sets: ImageSets, label_dim: int, options: DenoisingOptions) -> dict[str, Tensor] | None:
    """The classes to denoise with: `class_index` for all images or, without it, the class of each image.

    Returns int64 [num] for each set, or None if the denoiser is unconditional or `no_labels` is set.
    Raises UserError for a class or label that the denoiser does not have.
    """
    class_index = options.class_index
    if class_index is not None and not 0 <= class_index < label_dim:
        raise UserError(f'`class_index`={class_index}: the denoiser has {label_dim} classes')
    if not label_dim or options.no_labels:
        return None
    found = {}
    for name, dataset in (('train', sets.training), ('test', sets.held_out)):
        if dataset is None:
            continue
        if class_index is not None:
            found[name] = torch.full([sets.num], class_index)
        elif dataset.labels is None:
            raise UserError(
                f'{dataset.name} has no labels, but the denoiser needs them; give `class_index` or `no_labels`'
            )
        else:
            found[name] = dataset.labels[: sets.num]
            if int(found[name].max()) >= label_dim:
                raise UserError(
                    f'{dataset.name} has label {int(found[name].max())}; the denoiser has {label_dim} classes'
                )
    return found
