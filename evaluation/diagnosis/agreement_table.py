"""How well two generators agree at the same seeds, and how similar their images are to their training sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from evaluation.agreement import THRESHOLD, cosines, nearest_cosines, rms_distances, unrelated
from evaluation.diagnosis.result_files import Row, flat
from evaluation.diagnosis.tasks import joined, run_tasks
from evaluation.diagnosis_options import DIFFERENT_SEEDS, NEAREST, SAME_SEED, TRAINING
from evaluation.generators import Generator
from evaluation.noise_levels import mean_interval, share_interval
from evaluation.pictures import GalleryEntry, draw_entries
from torch_utils import distributed
from training.contact_sheets import save_picture
from training.dataset import Dataset

# Batches of seeds per task; each task loads a generator once.
BATCHES_PER_TASK = 8
GALLERY_ROWS = 24
QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # in %
COLUMNS = {
    'pairs': 'pairs', 'num_pairs': 'number', 'mean': 'mean', 'mean_low': 'low', 'mean_high': 'high',
    **{f'quantile_{quantile}': f'{quantile} %' for quantile in (5, 25, 50, 75, 95)},
    'share': 'above threshold', 'share_low': 'low', 'share_high': 'high',
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """Two generators, their training sets (possibly the same set twice), and a held-out set or None.

    features: the features of each generator's images, float [N, d] each, or None.
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
    """Generate the images of both generators, compare them, draw the gallery, and return a record.

    The record's `rows` describe the similarities for each kind of image pair; `images` has the values for each seed.
    threshold: cosine above which two images count as the same. gallery: path of a PNG of the first images.
    partial, settings: see `run_tasks`.
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
        record = compare(pair, images['0'], images['1'], seeds, threshold)
        save_picture(gallery, draw_pairs(pair, (images['0'], images['1']), record['images']))
        return record

    return distributed.on_main(finish)


def compare(pair: Pair, a: np.ndarray, b: np.ndarray, seeds: Sequence[int], threshold: float) -> Row:
    """Compare the generators' images at the same seeds, and return the record; see `measure_agreement`.

    a: the images of the first generator, uint8 [N, C, R, R]. b: the images of the second generator.
    """
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
    rows = [
        {'pairs': name, 'num_pairs': len(values), **distribution(values, threshold)} for name, values in pairs.items()
    ]
    return {'rows': rows, 'images': images, 'threshold': threshold, 'rms': distribution(rms)}


def distribution(similarities: Tensor, threshold: float = THRESHOLD) -> Row:
    """The mean, the quantiles and the share above the threshold of N >= 2 similarities, float64 [N], as columns.

    The mean and the share have 95 % intervals; the interval of the share is Wilson's.
    """
    values = similarities.cpu().numpy()
    quantiles = zip(QUANTILES, np.percentile(values, QUANTILES).tolist(), strict=True)
    return {
        **flat({'mean': mean_interval(values)}),
        **{f'quantile_{percentage}': value for percentage, value in quantiles},
        **flat({'share': share_interval(values > threshold)}),
    }


def draw_pairs(pair: Pair, images: Sequence[np.ndarray], rows: Sequence[Row]) -> PIL.Image.Image:
    """Draw both generators' images at the first seeds, each with its nearest training image and the cosines.

    images: the images of A and the images of B, uint8 [N, C, R, R] each. rows: the `images` entry of the record from
    `compare`.
    """

    def entry(place: int, row: Row) -> GalleryEntry:
        nearest = [dataset.images[row[f'nearest_{which}']] for which, dataset in zip('ab', pair.training, strict=True)]
        cosine = f'A, B {row["cosine"]:.2f}; to nearest {row["cosine_a"]:.2f}, {row["cosine_b"]:.2f}'
        return GalleryEntry([*(torch.from_numpy(one[place]) for one in images), *nearest], [cosine])

    lines = [
        *(f'{letter}: {generator.where[-100:]}' for letter, generator in zip('AB', pair.generators, strict=True)),
        'Numbers: cosines of pixels (after subtracting the mean of each image) between A and B, and between',
        'each image and the nearest image in its own training set.',
    ]
    shown = [entry(place, row) for place, row in enumerate(rows[:GALLERY_ROWS])]
    heads = 'A', 'B', "nearest in\nA's set", "nearest in\nB's set"
    return draw_entries(lines, {f'The first {len(shown)} seeds': shown}, heads)
