"""A denoiser's error at each noise level, and its distances to the optimal denoiser and to the Gaussian denoiser.

There are four sources of noisy images: training images with added noise, held-out images with added noise, states on
the denoiser's own sampling trajectories, and generated images with added noise.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evaluation.diagnosis.image_sets import USUAL_LEVELS, ImageSets, labels_of, noise_levels
from evaluation.diagnosis.result_files import Row, flat
from evaluation.diagnosis.tasks import Arrays, joined, run_tasks
from evaluation.diagnosis_options import SOURCES, LevelsOptions
from evaluation.noise_levels import (
    Estimate,
    centred_cosine,
    denoise,
    explained_share,
    linearity,
    mean_interval,
    noise_like,
    psnr,
    ratio_interval,
    squared_distance,
    to_float64,
    trajectory,
)
from training.closed_form import make_denoiser, require_levels
from training.closed_form.closed_form import compute_device
from training.closed_form.rows import ImageRows
from training.denoiser import Denoiser
from training.sampling import to_uint8

# Added to the seed, so that the initial noise of trajectories differs from the noise added to images.
LATENT_SEED = 1 << 31
COLUMNS = {
    'sigma': 'sigma', 'error_per_pixel': 'error/pixel', 'error_per_pixel_low': 'low', 'error_per_pixel_high': 'high',
    'optimum_error_per_pixel': 'optimum', 'gaussian_error_per_pixel': 'Gaussian', 'gap_per_pixel': 'gap',
    'gap_per_pixel_low': 'low', 'gap_per_pixel_high': 'high', 'to_optimum_per_pixel': 'to optimum',
    'to_gaussian_per_pixel': 'to Gaussian', 'linearity': 'linearity', 'psnr': 'PSNR',
}  # fmt: skip


# Two measures of how well a closed form F explains a denoiser D, by column prefix; the literature calls both r2.
EXPLAINED = {'cosine': 'cos(D - mean D, F - mean F)', 'explained': '1 - |D - F|² / |D - mean D|²'}


@dataclass(frozen=True, eq=False)
class LevelsRequest:
    """What to measure. sources: members of `SOURCES`.

    closed_forms: names of closed forms to compare with, in addition to the optimal and Gaussian denoisers.
    """

    options: LevelsOptions
    sets: ImageSets
    sources: Sequence[str]
    closed_forms: Sequence[str]
    device: torch.device

    @property
    def compared(self) -> list[str]:
        """The closed forms for which the measures in `EXPLAINED` are computed; empty if `closed_forms` is empty."""
        return [*dict.fromkeys(('optimal', 'gaussian', *self.closed_forms))] if self.closed_forms else []

    @functools.cache  # noqa: B019
    def references(self, with_labels: bool) -> dict[str, Denoiser]:
        """All closed forms to compare with, by name: the optimal and Gaussian denoisers, and `closed_forms`."""
        labels = self.sets.training.labels if with_labels else None
        rows = ImageRows(self.sets.training.images, labels, compute_device(self.device))
        return {name: make_denoiser(name, rows) for name in dict.fromkeys(('optimal', 'gaussian', *self.closed_forms))}


def measure_levels(request: LevelsRequest, load: Callable[[], Denoiser], partial: Path, settings: Row) -> Row:
    """Measure a denoiser; return a record with `rows`, one per source and level. partial, settings: see `run_tasks`."""
    measured, num = Measured(request, load()), request.sets.num
    sources = [source for source in SOURCES if source in request.sources]
    kinds = dict.fromkeys('sampled' if source in SOURCES[2:] else source for source in sources)
    batch_size = request.options.denoising.batch_size

    def compute(task: str) -> dict[str, Tensor]:
        kind, start = task.split()
        place = slice(int(start), min(int(start) + batch_size, num))
        return measured.sampled(place) if kind == 'sampled' else measured.noised(place, kind)

    names = [f'{kind} {start}' for kind in kinds for start in range(0, num, batch_size)]
    found = joined(run_tasks(names, compute, 'levels', partial, settings), axis=1)
    rows = level_rows(found, sources, measured.levels, request.sets.training.images[0].numel())
    for row in rows if request.compared else []:
        for kind in EXPLAINED:
            row[f'most_{kind}'] = max(request.compared, key=lambda name: _number(row[f'{kind}_{name}']))
    return {'rows': rows}


class Measured:
    """A denoiser, and the denoisers to compare it with."""

    def __init__(self, request: LevelsRequest, denoiser: Denoiser):
        self.request, self.denoiser, self.seed = request, denoiser, request.options.sets.seed
        self.levels = noise_levels(request.options.levels, denoiser)
        for name in request.closed_forms:
            require_levels(name, self.levels[-1], self.levels[0])
        self.labels = labels_of(request.sets, denoiser.label_dim, request.options.denoising)
        self.references = request.references(self.labels is not None)

    def noised(self, place: slice, kind: str) -> dict[str, Tensor]:
        """Measured values [L, B] for noisy training images ('train') or noisy held-out images ('test')."""
        dataset = self.request.sets.training if kind == 'train' else self.request.sets.held_out
        assert dataset is not None
        clean = to_float64(dataset.images[place].to(self.request.device))
        return self._of_images(kind, clean, place, self._labels_at(kind, place))

    def sampled(self, place: slice) -> dict[str, Tensor]:
        """Measured values [L, B] for states on sampling trajectories, and for generated images with added noise."""
        labels = self._labels_at('train', place)
        clean = to_float64(self.request.sets.training.images[place].to(self.request.device))
        latents = noise_like(clean, self.seed + LATENT_SEED, range(place.start, place.stop))
        steps = sorted({*self.levels, *noise_levels(USUAL_LEVELS, self.denoiser)}, reverse=True)
        on_trajectory = []
        for sigma, state in trajectory(self.denoiser, latents, steps, labels):
            if sigma in self.levels:
                on_trajectory.append(self._values(state, sigma, None, labels))
            last = state
        found = _stacked('trajectory', on_trajectory) if 'trajectory' in self.request.sources else {}
        if 'generated' in self.request.sources:
            found |= self._of_images('generated', to_float64(to_uint8(last)), place, labels)
        return found

    def _labels_at(self, kind: str, place: slice) -> Tensor | None:
        return None if self.labels is None else self.labels[kind][place].to(self.request.device)

    def _of_images(self, source: str, clean: Tensor, place: slice, labels: Tensor | None) -> dict[str, Tensor]:
        noise = noise_like(clean, self.seed, range(place.start, place.stop))
        return _stacked(source, [self._values(clean + sigma * noise, sigma, clean, labels) for sigma in self.levels])

    def _values(self, z: Tensor, sigma: float, clean: Tensor | None, labels: Tensor | None) -> dict[str, Tensor]:
        """Compute squared errors and distances, float64 [B] each, and the linearity, float64 [B // 2].

        z: noisy images [B, C, R, R]. clean: the images without noise; None for states on trajectories, for which no
        errors are computed.
        """
        denoised = denoise(self.denoiser, z, sigma, labels)
        others = {name: denoise(other, z, sigma, labels) for name, other in self.references.items()}
        optimal, gaussian = others['optimal'], others['gaussian']
        found = {
            'to_optimum': squared_distance(denoised, optimal),
            'to_gaussian': squared_distance(denoised, gaussian),
            'linearity': linearity(self.denoiser, z, sigma, labels, denoised).double(),
        }
        if clean is not None:
            found['error'] = squared_distance(denoised, clean)
            found['optimum_error'] = squared_distance(optimal, clean)
            found['gaussian_error'] = squared_distance(gaussian, clean)
        for name in self.request.compared:
            found[f'cosine_{name}'] = centred_cosine(denoised, others[name])
            found[f'explained_{name}'] = explained_share(denoised, others[name])
        return found


def _stacked(source: str, values: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f'{source}/{name}': torch.stack([level[name] for level in values]) for name in values[0]}


def level_rows(found: Arrays, sources: Sequence[str], levels: Sequence[float], num_values: int) -> list[Row]:
    """One row per source and level. found: measured values [L, N]. num_values: an image's pixels times channels."""
    rows = []
    for source in sources:
        own = {name.partition('/')[2]: values for name, values in found.items() if name.startswith(f'{source}/')}
        if source == 'test' and 'train/error' in found:
            own['gap'] = own['error'] - found['train/error']
        for level, sigma in enumerate(levels):
            at = {name: values[level] for name, values in own.items()}
            row = {'source': source, 'sigma': sigma, 'num_images': len(at['to_optimum'])}
            rows.append({**row, **flat(_estimates(at, num_values))})
    return rows


def _estimates(at: Arrays, num_values: int) -> dict[str, Estimate]:
    """Average each quantity over images; sums over pixels are also given per pixel. Error differences are paired."""
    alone = {name for name in at if name == 'linearity' or name.startswith(tuple(f'{kind}_' for kind in EXPLAINED))}
    summed = {name: mean_interval(values) for name, values in at.items() if name not in alone}
    if 'error' in at:
        summed['above_optimum'] = mean_interval(at['error'] - at['optimum_error'])
        summed['above_gaussian'] = mean_interval(at['error'] - at['gaussian_error'])
    found = dict(summed)
    for name, estimate in summed.items():
        low, high = estimate.low / num_values, estimate.high / num_values
        found[f'{name}_per_pixel'] = Estimate(estimate.mean / num_values, low, high)
    if 'error' in at:
        found['relative_to_optimum'] = ratio_interval(at['to_optimum'], at['optimum_error'])
        for name in ('error', 'optimum_error', 'gaussian_error'):
            found[name.replace('error', 'psnr')] = psnr(summed[name], num_values)
    found |= {name: mean_interval(at[name]) for name in at if name in alone and len(at[name]) > 1}
    return found


def explained_tables(compared: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield a heading and the columns to show, for each formula in `EXPLAINED`."""
    for kind, formula in EXPLAINED.items():
        columns = {f'{kind}_{name}': name for name in compared} | {f'most_{kind}': 'highest'}
        yield f'{formula}, for each closed form F:', {'sigma': 'sigma', **columns}


def _number(value: float | None) -> float:
    return -math.inf if value is None else value
