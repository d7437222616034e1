"""The geometry of a training set: the noise levels where memorization is decided, and the images memorized first."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.diagnosis.image_sets import ImageSets
from evaluation.diagnosis.result_files import Row, flat
from evaluation.diagnosis.tasks import Arrays, joined, run_tasks
from evaluation.geometry import (
    DECIDED,
    crossing_level,
    gaussian_collapse_level,
    gaussian_information,
    geometry,
    information,
    uncovered_levels,
)
from evaluation.noise_levels import mean_interval, share_interval
from torch_utils import distributed
from training.closed_form.gaussian import GaussianDenoiser

# Number of images compared with the training set at a time.
BATCH_SIZE = 256
COLUMNS = {
    'sigma': 'sigma', 'posterior_weight': 'posterior weight', 'posterior_weight_low': 'low',
    'posterior_weight_high': 'high', 'shell_coverage': 'shell coverage', 'shell_coverage_low': 'low',
    'shell_coverage_high': 'high', 'effective_number': 'effective number', 'covered': 'covered images',
    'information': 'information', 'held_out_information': 'held out', 'gaussian_information': 'Gaussian',
    'decided': 'decided',
}  # fmt: skip
CLASS_COLUMNS = {
    'class': 'class', 'num_images': 'images', 'uncovered_median': 'uncovered below sigma (median)',
    'uncovered_lowest': 'lowest', 'uncovered_highest': 'highest',
}  # fmt: skip


def measure_geometry(
    sets: ImageSets,
    gaussian: GaussianDenoiser,
    levels: Sequence[float],
    seed: int,
    device: torch.device,
    partial: Path,
    settings: Row,
) -> Row:
    """Measure the geometry and return a record.

    The record contains `rows` (one row per noise level), `images` (for each training image, the noise level below which
    it is not covered; see `evaluation.geometry`), and `classes` (statistics of these levels by class). It also contains
    two collapse levels, one for held-out images and one for a Gaussian population. A collapse level is the noise level
    at which the information reaches the logarithm of the training-set size.
    gaussian: the Gaussian denoiser fitted to the training set. partial, settings: see `run_tasks`.
    """
    training = sets.training.images.to(device)

    def compute(task: str) -> dict[str, Tensor]:
        kind, start = task.split()
        positions = range(int(start), min(int(start) + BATCH_SIZE, sets.num))
        dataset = sets.held_out if kind == 'test' else sets.training
        assert dataset is not None
        images = dataset.images[positions.start : positions.stop]
        found = geometry(training, images, levels, seed, positions, held_out=kind == 'test')
        if kind == 'test':
            return {'in_shell': found.in_shell, 'held_out_information': information(found)}
        return {
            'posterior_weight': found.posterior_weight,
            'effective_number': found.effective_number,
            'information': information(found),
            'log_coverage': found.log_coverage,
        }

    kinds = ['train', *(['test'] if sets.held_out else [])]
    names = [f'{kind} {start}' for kind in kinds for start in range(0, sets.num, BATCH_SIZE)]
    found = joined(run_tasks(names, compute, 'geometry', partial, settings), axis=1)

    def finish() -> Row:
        return summarize(found, levels, sets, gaussian.gaussian().variances.cpu().numpy() / 127.5**2)

    return distributed.on_main(finish)


def summarize(found: Arrays, levels: Sequence[float], sets: ImageSets, variances: np.ndarray) -> Row:
    """Compute the record. found: measured values, [L, N] each.

    variances: the eigenvalues of the training set's covariance, in [-1, 1] units.
    """
    gaussian = gaussian_information(variances, levels)
    rows = []
    for level, sigma in enumerate(levels):
        at = {name: values[level] for name, values in found.items()}
        estimates = {name: mean_interval(at[name]) for name in at if name not in ('in_shell', 'log_coverage')}
        if 'in_shell' in at:
            estimates['shell_coverage'] = share_interval(at['in_shell'])
        estimates['covered'] = share_interval(at['log_coverage'] >= 0)
        row = {'sigma': sigma, **flat(estimates), 'gaussian_information': float(gaussian[level])}
        if 'in_shell' in at:
            row['decided'] = min(row['posterior_weight'], row['shell_coverage']) >= DECIDED
        rows.append(row)
    count = len(sets.training.images)
    held_out = None
    if 'held_out_information' in found:
        held_out = crossing_level(levels, found['held_out_information'].mean(axis=1).tolist(), math.log(count))
    uncovered = uncovered_levels(levels, found['log_coverage'])
    labels = None if sets.training.labels is None else sets.training.labels[: sets.num].numpy()
    images = [
        {'image': place, 'class': None if labels is None else int(labels[place]), 'uncovered_below': float(level)}
        for place, level in enumerate(uncovered)
    ]
    return {
        'rows': rows,
        'images': images,
        'classes': class_rows(uncovered, labels),
        'collapse_level': held_out,
        'gaussian_collapse_level': gaussian_collapse_level(variances, count),
        'log_size': math.log(count),
    }


def class_rows(uncovered: np.ndarray, labels: np.ndarray | None) -> list[Row]:
    """Statistics, by class, of the noise levels below which images are not covered.

    There is one row per class, and the class with the highest median comes first.
    Without labels, a single row with class None describes all images.
    """
    rows = []
    for label in [None] if labels is None else np.unique(labels).tolist():
        own = uncovered if labels is None else uncovered[labels == label]
        rows.append({
            'class': label, 'num_images': len(own), 'uncovered_median': float(np.median(own)),
            'uncovered_lowest': float(own.min()), 'uncovered_highest': float(own.max()),
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row['uncovered_median'])
