"""Calibration of a closed form's windows: at each noise level, the window that best reproduces a network's output.

The states come from the network's own sampling trajectories. At each state, the best window is the one with the
highest cosine between the closed form's output and the network's output, each after subtracting its mean. The
calibrated window at a noise level is the median of the best windows over all trajectories.
Source: Kamb and Ganguli 2024.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from evaluation.diagnosis.image_sets import ImageSets, labels_of, noise_levels
from evaluation.diagnosis.levels import LATENT_SEED
from evaluation.diagnosis.result_files import Row
from evaluation.diagnosis.tasks import joined, run_tasks
from evaluation.diagnosis_options import CalibrateOptions
from evaluation.noise_levels import centred_cosine, denoise, noise_like, to_float64, trajectory
from training.closed_form import make_denoiser
from training.closed_form.closed_form import compute_device
from training.closed_form.rows import ImageRows
from training.denoiser import Denoiser

COLUMNS = {
    'sigma': 'sigma', 'window': 'window', 'lowest_quarter': '25 %', 'highest_quarter': '75 %', 'cosine': 'cosine',
}  # fmt: skip


def measure_windows(
    options: CalibrateOptions,
    sets: ImageSets,
    device: torch.device,
    load: Callable[[], Denoiser],
    partial: Path,
    settings: Row,
) -> Row:
    """Calibrate the windows; return a record with `rows`, one per level, and `windows`, a list of [sigma, window]."""
    network, batch_size = load(), options.denoising.batch_size
    levels = noise_levels(options.levels, network)
    labels = labels_of(sets, network.label_dim, options.denoising)
    images = ImageRows(sets.training.images, sets.training.labels if labels else None, compute_device(device))
    windows = list(range(3, network.img_resolution + 1, 2)) or [1]  # odd windows
    closed_forms = [make_denoiser(options.denoiser, images, window=window) for window in windows]

    def compute(task: str) -> dict[str, Tensor]:
        place = slice(int(task), min(int(task) + batch_size, sets.num))
        own = None if labels is None else labels['train'][place].to(device)
        clean = to_float64(sets.training.images[place].to(device))
        latents = noise_like(clean, options.seed + LATENT_SEED, range(place.start, place.stop))
        cosines = []
        for sigma, state in trajectory(network, latents, levels, own):
            if sigma:
                denoised = denoise(network, state, sigma, own)
                others = [denoise(closed_form, state, sigma, own) for closed_form in closed_forms]
                cosines.append(torch.stack([centred_cosine(denoised, other) for other in others]))
        return {'cosines': torch.stack(cosines)}  # [L, K, B]

    tasks = [str(start) for start in range(0, sets.num, batch_size)]
    found = torch.from_numpy(joined(run_tasks(tasks, compute, 'calibrate', partial, settings), axis=2)['cosines'])
    rows = []
    for sigma, cosines in zip(levels, found, strict=True):
        best = torch.tensor(windows)[cosines.argmax(dim=0)].sort().values
        low, window, high = (int(best[int(share * (len(best) - 1))]) for share in (0.25, 0.5, 0.75))
        mean = {f'cosine_{size}': float(cosine.mean()) for size, cosine in zip(windows, cosines, strict=True)}
        row = {'sigma': sigma, 'window': window, 'lowest_quarter': low, 'highest_quarter': high}
        rows.append(row | {'cosine': mean[f'cosine_{window}']} | mean)
    return {'rows': rows, 'windows': [[row['sigma'], row['window']] for row in rows]}
