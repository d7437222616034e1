"""The agreement of two generators at the same seeds, next to the similarity of their images to their training sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.agreement import Distribution, cosines, distribution, nearest_cosines, rms_distances, unrelated
from evaluation.diagnosis.result_files import Row, flat
from evaluation.diagnosis.tasks import joined, run_tasks
from evaluation.diagnosis_options import DIFFERENT_SEEDS, NEAREST, SAME_SEED, TRAINING
from evaluation.generators import Generator
from evaluation.pictures import save_png, to_pil
from torch_utils import distributed
from training.dataset import Dataset

# Batches of seeds that a task samples: its generator is loaded once for them.
BATCHES_PER_TASK = 8
GALLERY_ROWS = 24
COLUMNS = {
    'pairs': 'pairs', 'num_pairs': 'number', 'mean': 'mean', 'mean_low': 'low', 'mean_high': 'high',
    **{f'quantile_{quantile}': f'{quantile} %' for quantile in (5, 25, 50, 75, 95)},
    'share': 'above threshold', 'share_low': 'low', 'share_high': 'high',
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """Two generators, the training set of each (possibly the same), and a held-out set or None.

    features: of the images of both at the seeds, float [N, d] each, or None.
    """

    generators: Sequence[Generator]
    training: Sequence[Dataset]
    held_out: Dataset | None
    features: Sequence[np.ndarray] | None = None


def measure_agreement(
    pair: Pair,
    seeds: Sequence[int],
    batch_size: int,
    threshold: float,
    gallery: Path,
    partial: Path,
    settings: Row,
) -> Row:
    """A record: `rows` with a distribution for each kind of pair, `images` with the numbers of each seed.

    threshold: of the cosine. partial, settings: see `run_tasks`. gallery: PNG of the first seeds.
    """
    size = batch_size * BATCHES_PER_TASK

    def compute(task: str) -> dict[str, Tensor]:
        which, start = map(int, task.split())
        part = seeds[start : start + size]
        batches = [part[first : first + batch_size] for first in range(0, len(part), batch_size)]
        images = [batch.images.cpu() for batch in pair.generators[which].generate(batches)]
        return {str(which): torch.cat(images)}

    names = [f'{which} {start}' for which in (0, 1) for start in range(0, len(seeds), size)]
    images = joined(run_tasks(names, compute, 'agreement', partial, settings), axis=0)

    def finish() -> Row:
        record, nearest = compare(pair, images['0'], images['1'], seeds, threshold)
        save_gallery(gallery, pair, (images['0'], images['1']), nearest)
        return record

    return distributed.on_main(finish)


def compare(
    pair: Pair, a: np.ndarray, b: np.ndarray, seeds: Sequence[int], threshold: float
) -> tuple[Row, list[Tensor]]:
    """The record of images uint8 [N, C, R, R] of the same seeds, and the nearest training image of each, by set."""
    sets = [dataset.images for dataset in pair.training]
    found = [nearest_cosines(images, training) for images, training in zip((a, b), sets, strict=True)]
    same = cosines(a, b)
    pairs = {
        SAME_SEED: same,
        DIFFERENT_SEEDS: cosines(*unrelated(a, b)),
        **{kind: cosine for kind, (_, cosine) in zip(NEAREST, found, strict=True)},
    }
    if pair.training[0].sha256 != pair.training[1].sha256:
        number = min(len(sets[0]), len(seeds))
        pairs[TRAINING] = nearest_cosines(sets[0][:number], sets[1])[1]
    if pair.held_out is not None:
        number = min(len(pair.held_out.images), len(seeds))
        for which, training in zip('AB', sets, strict=True):
            pairs[f"held-out images and the nearest of {which}'s"] = nearest_cosines(
                pair.held_out.images[:number], training
            )[1]
    if pair.features is not None:
        pairs['features of A and B at the same seed'] = cosines(*pair.features)
        pairs['features of A and B at different seeds'] = cosines(*unrelated(*pair.features))
    rms = rms_distances(a, b)
    images = [
        {
            'seed': seed, 'cosine': float(same[place]), 'rms_distance': float(rms[place]),
            **{f'nearest_{w}': int(found[k][0][place]) for k, w in enumerate('ab')},
            **{f'cosine_{w}': float(found[k][1][place]) for k, w in enumerate('ab')},
        }
        for place, seed in enumerate(seeds)
    ]  # fmt: skip
    rows = [distribution_row(name, values, threshold) for name, values in pairs.items()]
    record = {'rows': rows, 'images': images, 'threshold': threshold, 'rms': _row(distribution(rms))}
    return record, [index for index, _ in found]


def distribution_row(name: str, values: Tensor, threshold: float) -> Row:
    return {'pairs': name, 'num_pairs': len(values), **_row(distribution(values, threshold))}


def _row(found: Distribution) -> Row:
    quantiles = {f'quantile_{quantile}': value for quantile, value in found.quantiles.items()}
    return {**flat({'mean': found.mean}), **quantiles, **flat({'share': found.share})}


def save_gallery(path: Path, pair: Pair, images: Sequence[np.ndarray], nearest: Sequence[Tensor]) -> None:
    """Write a PNG with a column for each of the first seeds: A, B, and the nearest in the training set of each."""
    count = min(GALLERY_ROWS, len(images[0]))
    rows = [torch.from_numpy(one[:count]) for one in images]
    rows += [dataset.images[index[:count]] for dataset, index in zip(pair.training, nearest, strict=True)]
    scale = max(1, 32 // rows[0].shape[-1])
    large = [row.repeat_interleave(scale, dim=-1).repeat_interleave(scale, dim=-2) for row in rows]
    padded = [torch.nn.functional.pad(row, (1, 1, 1, 1), value=255) for row in large]
    save_png(path, to_pil(torch.cat([torch.cat(list(row), dim=-1) for row in padded], dim=-2)))
