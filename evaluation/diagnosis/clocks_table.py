"""The clocks of training runs, computed from the snapshots' errors and the records of memorization ratios."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import significant
from evaluation.clocks import fit_line, gap_clock, generalization_clock, ratio_clock, spread
from evaluation.diagnosis.image_sets import ImageSets, labels_of, noise_levels
from evaluation.diagnosis.result_files import Row, flat
from evaluation.diagnosis.tasks import joined, run_tasks
from evaluation.diagnosis_options import ClocksOptions
from evaluation.generators import Generator
from evaluation.noise_levels import denoise, mean_interval, noise_like, squared_distance, to_float64

SIGMA_DATA = 0.5  # from EDM's loss
CLOCKS = {'tau_gen': 'tau_gen', 'tau_mem_error': 'tau_mem (error)', 'tau_mem_ratio': 'tau_mem (ratio)'}
COLUMNS = {'run': 'run', 'dataset_size': '|D|', 'snapshots': 'snapshots'} | {
    name + end: heading if end == '' else end[1:] for name, heading in CLOCKS.items() for end in ('', '_low', '_high')
}


@dataclass(frozen=True)
class Run:
    """A training run.

    snapshots: its snapshots, oldest first. batch, lr: its batch size and learning rate, used to normalize times.
    records: the records of one evaluation of its snapshots.
    """

    name: str
    snapshots: Sequence[Generator]
    batch: int
    lr: float
    records: Sequence[Mapping]


def measure_clocks(
    run: Run, sets: ImageSets, options: ClocksOptions, device: torch.device, partial: Path, settings: Row
) -> Row:
    """Measure a run; return a record with its `clocks` in kimg and, in `rows`, the errors of each snapshot.

    The error is EDM's loss: the mean squared error per pixel, weighted by (sigma² + 0.25) / (0.5 sigma)² and averaged
    over the noise levels. partial, settings: see `run_tasks`.
    """
    load = functools.lru_cache(maxsize=1)(lambda place: run.snapshots[place].denoiser())
    first, batch_size = load(0), options.denoising.batch_size
    sigmas = noise_levels(options.levels, first)
    labels = labels_of(sets, first.label_dim, options.denoising)

    def compute(task: str) -> dict[str, Tensor]:
        place, kind, start = task.split()
        positions = range(int(start), min(int(start) + batch_size, sets.num))
        part = slice(positions.start, positions.stop)
        dataset = sets.training if kind == 'train' else sets.held_out
        assert dataset is not None
        clean = to_float64(dataset.images[part].to(device))
        noise = noise_like(clean, options.sets.seed, positions)
        classes = None if labels is None else labels[kind][part].to(device)
        errors = [
            squared_distance(denoise(load(int(place)), clean + sigma * noise, sigma, classes), clean)
            * (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
            for sigma in sigmas
        ]  # fmt: skip
        return {kind: torch.stack(errors).mean(dim=0)[None] / clean[0].numel()}

    places, starts = range(len(run.snapshots)), range(0, sets.num, batch_size)
    names = [f'{place} {kind} {start}' for place in places for kind in ('train', 'test') for start in starts]
    results = run_tasks(names, compute, run.name, partial, settings)
    errors = {
        kind: np.concatenate(
            [
                joined({name: results[name] for name in names if name.split()[:2] == [str(place), kind]}, axis=1)[kind]
                for place in places
            ]
        )
        for kind in ('train', 'test')
    }  # [S, N]
    return clocks_record(run, len(sets.training.images), errors['train'], errors['test'])


def clocks_record(run: Run, dataset_size: int, train: np.ndarray, test: np.ndarray) -> Row:
    """A run's record. train, test: the snapshots' errors on training and on held-out images, [S, N] each."""
    times = [snapshot.kimg or 0.0 for snapshot in run.snapshots]
    evaluated = {record['snapshot']: record for record in run.records}
    found = {'tau_gen': generalization_clock(times, test), 'tau_mem_error': gap_clock(times, test - train)}
    known = [evaluated[snapshot.name] for snapshot in run.snapshots if snapshot.name in evaluated]
    if known:
        found['tau_mem_ratio'] = ratio_clock(
            [record['kimg'] or 0.0 for record in known],
            [record['num_memorized'] for record in known],
            [record['num_images'] for record in known],
        )
    rows = []
    for place, snapshot in enumerate(run.snapshots):
        estimates = {
            'train_error': mean_interval(train[place]),
            'test_error': mean_interval(test[place]),
            'gap': mean_interval(test[place] - train[place]),
        }
        record = evaluated.get(snapshot.name, {})
        ratio = {name: record.get(name) for name in ('ratio', 'ratio_low', 'ratio_high')}
        rows.append({'snapshot': snapshot.name, 'kimg': snapshot.kimg, **flat(estimates), **ratio})
    return {
        'run': run.name,
        'dataset_size': dataset_size,
        'batch': run.batch,
        'lr': run.lr,
        'clocks': {name: asdict(clock) for name, clock in found.items()},
        'rows': rows,
    }


def summary_row(record: Row) -> Row:
    """A run's clocks in kimg as one row."""
    row = {name: record[name] for name in ('run', 'dataset_size', 'batch', 'lr')}
    row['snapshots'] = len(record['rows'])
    for name, clock in record['clocks'].items():
        row |= {name: clock['time'], f'{name}_low': clock['low'], f'{name}_high': clock['high']}
    return row


def compare_runs(records: Sequence[Row]) -> Row:
    """For each clock tau, compute the regression of tau on the training-set size |D|, and the spread of tau over runs.

    For three or more runs of at least two sizes, `slope` is the increase of tau in steps per training image, and
    `exponent` is the power of |D| with which tau grows (least squares on logarithms); both have intervals. For two or
    more runs, `spread_steps` is the standard deviation of ln tau with tau in steps, and `spread_normalized` is the
    standard deviation with tau in normalized time (see `normalized_time`). A clock's statistics skip the runs in which
    the clock's event did not happen.
    """
    found: Row = {}
    for clock in CLOCKS:
        known = [record for record in records if record['clocks'].get(clock, {}).get('time')]
        sizes = [record['dataset_size'] for record in known]
        steps = [1000 * record['clocks'][clock]['time'] / record['batch'] for record in known]
        if len(known) < 2:
            continue
        normalized = [normalized_time(record, record['clocks'][clock]['time'], records) for record in known]
        found[clock] = {'spread_steps': spread(steps), 'spread_normalized': spread(normalized)}
        if len(known) > 2 and len(set(sizes)) > 1:
            found[clock]['slope'] = asdict(fit_line(sizes, steps))
            found[clock]['exponent'] = asdict(fit_line(np.log(sizes).tolist(), np.log(steps).tolist()))
    return found


def normalized_time(record: Row, kimg: float, records: Sequence[Row]) -> float:
    """A run's normalized time T = steps · (n_min / n) · (B / B_min) · (lr / lr_min) after `kimg` thousand images.

    n is the run's number of training images, B its batch size, and lr its learning rate; n_min, B_min and lr_min are
    the lowest values over all runs. Plotted against T, the gap between held-out and training error should follow the
    same curve for all runs.
    records: the records of all runs. Source: Bonnaire et al. 2025.
    """
    size, batch, lr = (min(other[name] for other in records) for name in ('dataset_size', 'batch', 'lr'))
    steps = 1000 * kimg / record['batch']
    return steps * size / record['dataset_size'] * record['batch'] / batch * record['lr'] / lr


def comparison_lines(found: Row) -> list[str]:
    """The results of `compare_runs` as sentences."""
    lines = []
    for clock, values in found.items():
        text = f'{CLOCKS[clock]}: the standard deviation of ln tau over runs is {values["spread_steps"]:.3g} '
        text += f'with tau in steps, and {values["spread_normalized"]:.3g} with tau in normalized time'
        if 'exponent' in values:
            slope, exponent = values['slope'], values['exponent']
            text += f'; tau grows by {significant(slope["slope"], 4)} steps per training image '
            text += f'({significant(slope["low"], 4)} to {significant(slope["high"], 4)}) and scales as '
            text += f'|D|^{exponent["slope"]:.3g} ({exponent["low"]:.3g} to {exponent["high"]:.3g})'
        lines.append(text)
    return lines
