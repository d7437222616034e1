"""The denoising error of a denoiser by noise level, and its distance to the optimum and the Gaussian.

Noisy images come from four sources: noised training images, noised held-out images, the denoiser's own sampling
trajectory at that level, and images that it generated, noised again.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evaluation.diagnosis.image_sets import USUAL_LEVELS, ImageSets, labels_of, noise_levels
from evaluation.diagnosis.result_files import Row, flat
from evaluation.diagnosis.tasks import Arrays, joined, run_tasks
from evaluation.diagnosis_options import SOURCES
from evaluation.noise_levels import (
    Estimate,
    denoise,
    linearity,
    mean_interval,
    noise_like,
    psnr,
    ratio_interval,
    squared_distance,
    to_float64,
    trajectory,
)
from training.closed_form.gaussian import GaussianDenoiser
from training.denoiser import Denoiser
from training.optim import OptimalDenoiser
from training.sampling import to_uint8

# Latents of trajectories are different noise than the noise of training images.
LATENT_SEED = 1 << 31
COLUMNS = {
    'sigma': 'sigma', 'error_per_pixel': 'error/pixel', 'error_per_pixel_low': 'low', 'error_per_pixel_high': 'high',
    'optimum_error_per_pixel': 'optimum', 'gaussian_error_per_pixel': 'Gaussian', 'gap_per_pixel': 'gap',
    'gap_per_pixel_low': 'low', 'gap_per_pixel_high': 'high', 'to_optimum_per_pixel': 'to optimum',
    'to_gaussian_per_pixel': 'to Gaussian', 'linearity': 'linearity', 'psnr': 'PSNR',
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class LevelsRequest:
    """What to measure. levels: see `noise_levels`. sources: of `SOURCES`. class_index, use_labels: see `labels_of`."""

    sets: ImageSets
    levels: Sequence[float] | int
    sources: Sequence[str]
    class_index: int | None
    use_labels: bool
    batch_size: int
    seed: int
    device: torch.device

    @functools.cache  # noqa: B019
    def references(self, with_labels: bool) -> tuple[Denoiser, Denoiser]:
        """The optimum and the Gaussian of the training set."""
        images, labels = self.sets.training.images, self.sets.training.labels if with_labels else None
        return OptimalDenoiser(images, labels, self.device), GaussianDenoiser(images, labels, self.device)


def measure_levels(request: LevelsRequest, load: Callable[[], Denoiser], partial: Path, settings: Row) -> Row:
    """A record of one denoiser: `rows`, one for each source and level. partial, settings: see `run_tasks`."""
    denoiser, sets = load(), request.sets
    levels = noise_levels(request.levels, denoiser)
    labels = labels_of(sets, denoiser.label_dim, request.class_index, request.use_labels)
    measured = Measured(denoiser, *request.references(labels is not None), labels)
    sources = [source for source in SOURCES if source in request.sources]
    kinds = dict.fromkeys('sampled' if source in SOURCES[2:] else source for source in sources)

    def compute(task: str) -> dict[str, Tensor]:
        kind, start = task.split()
        place = slice(int(start), min(int(start) + request.batch_size, sets.num))
        if kind == 'sampled':
            return sampled_values(measured, request, levels, place)
        return noised_values(measured, request, levels, place, kind)

    names = [f'{kind} {start}' for kind in kinds for start in range(0, sets.num, request.batch_size)]
    found = joined(run_tasks(names, compute, 'levels', partial, settings), axis=1)
    return {'rows': level_rows(found, sources, levels, sets.training.images[0].numel())}


@dataclass(frozen=True)
class Measured:
    """A denoiser, the denoisers it is compared with, and the classes of all of them, see `labels_of`."""

    denoiser: Denoiser
    optimum: Denoiser
    gaussian: Denoiser
    labels: Mapping[str, Tensor] | None

    def labels_at(self, kind: str, place: slice, device: torch.device) -> Tensor | None:
        return None if self.labels is None else self.labels[kind][place].to(device)

    def values(self, z: Tensor, sigma: float, clean: Tensor | None, labels: Tensor | None) -> dict[str, Tensor]:
        """Squared errors and distances float64 [B], and linearity [B // 2], of noisy images. clean: None if unknown."""
        denoised = denoise(self.denoiser, z, sigma, labels)
        optimal, gaussian = (denoise(other, z, sigma, labels) for other in (self.optimum, self.gaussian))
        found = {
            'to_optimum': squared_distance(denoised, optimal),
            'to_gaussian': squared_distance(denoised, gaussian),
            'linearity': linearity(self.denoiser, z, sigma, labels, denoised).double(),
        }
        if clean is not None:
            found['error'] = squared_distance(denoised, clean)
            found['optimum_error'] = squared_distance(optimal, clean)
            found['gaussian_error'] = squared_distance(gaussian, clean)
        return found


def noised_values(
    measured: Measured, request: LevelsRequest, levels: Sequence[float], place: slice, kind: str
) -> dict[str, Tensor]:
    """Values [L, B] of noised training ('train') or held-out images ('test')."""
    dataset = request.sets.training if kind == 'train' else request.sets.held_out
    assert dataset is not None
    labels = measured.labels_at(kind, place, request.device)
    clean = to_float64(dataset.images[place].to(request.device))
    noise = noise_like(clean, request.seed, range(place.start, place.stop))
    return _stacked(kind, [measured.values(clean + sigma * noise, sigma, clean, labels) for sigma in levels])


def sampled_values(
    measured: Measured, request: LevelsRequest, levels: Sequence[float], place: slice
) -> dict[str, Tensor]:
    """Values [L, B] on trajectories, and on the images at their ends, noised again."""
    labels = measured.labels_at('train', place, request.device)
    clean = to_float64(request.sets.training.images[place].to(request.device))
    latents = noise_like(clean, request.seed + LATENT_SEED, range(place.start, place.stop))
    steps = sorted({*levels, *noise_levels(USUAL_LEVELS, measured.denoiser)}, reverse=True)
    on_trajectory = []
    for sigma, state in trajectory(measured.denoiser, latents, steps, labels):
        if sigma in levels:
            on_trajectory.append(measured.values(state, sigma, None, labels))
        last = state
    found = _stacked('trajectory', on_trajectory) if 'trajectory' in request.sources else {}
    if 'generated' in request.sources:
        generated = to_float64(to_uint8(last))
        noise = noise_like(generated, request.seed, range(place.start, place.stop))
        values = [measured.values(generated + sigma * noise, sigma, generated, labels) for sigma in levels]
        found |= _stacked('generated', values)
    return found


def _stacked(source: str, values: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f'{source}/{name}': torch.stack([level[name] for level in values]) for name in values[0]}


def level_rows(found: Arrays, sources: Sequence[str], levels: Sequence[float], num_values: int) -> list[Row]:
    """A row for each source and level, from values [L, N]. num_values: pixels and channels of an image."""
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
    """Means over images, summed over pixels and per pixel; differences are paired."""
    summed = {name: mean_interval(values) for name, values in at.items() if name != 'linearity'}
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
    if len(at['linearity']) > 1:
        found['linearity'] = mean_interval(at['linearity'])
    return found
