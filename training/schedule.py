"""The paper's scaling rules for training length, learning-rate warm-up and weight average.

Everything is a function of the number of images seen before a step, so there is no state to save.
"""

import itertools
import math
from dataclasses import dataclass

from dnnlib.util import kimg_text

# Durations and half-lives are specified for 50,000 training images and scale with the size of the training set.
REFERENCE_SIZE = 50_000
# The learning rate warms up over this many epochs.
WARMUP_EPOCHS = 200
# The EMA's half-life is at most this share of the images seen; Karras et al. 2022, appendix F.
EMA_RAMPUP_RATIO = 0.05
# Images per step assumed by `mode2`, and half-life in images assumed by `mode3` and `mode4`.
REFERENCE_BATCH = 512
REFERENCE_HALFLIFE = 500_000
EMA_MODES = ('mode1', 'mode2', 'mode3', 'mode4')
# Largest number of times that a run can save; a larger number is surely a mistake and could exhaust memory.
MOST_PLACES = 100_000


@dataclass(frozen=True)
class Schedule:
    """Length, warm-up and EMA of one training run; all counts are numbers of images.

    dataset_size: size of the training set. batch_size: images per step.
    total_images: training ends after the first step that reaches this number. rampup_images: length of the linear
    warm-up. ema_mode, ema_halflife_images, final_ema: see `ema_beta`.
    ema_rampup_ratio: largest half-life as a fraction of the images seen, or None for no limit.
    """

    dataset_size: int
    batch_size: int
    total_images: int
    rampup_images: int
    ema_mode: str
    ema_halflife_images: int
    final_ema: float
    ema_rampup_ratio: float | None = EMA_RAMPUP_RATIO

    @property
    def total_steps(self) -> int:
        return -(-self.total_images // self.batch_size)

    @property
    def epochs(self) -> float:
        return self.total_images / self.dataset_size

    def lr_multiplier(self, images_seen: int) -> float:
        """The warm-up factor (in [0, 1]) that multiplies the learning rate of the step after `images_seen` images."""
        return min(images_seen / self.rampup_images, 1.0) if self.rampup_images else 1.0

    def ema_beta(self, images_seen: int) -> float:
        """The EMA decay (in [0, 1]) of the step after `images_seen` images, according to the rule `ema_mode`.

        Source: the paper's code; see tests/data/schedules.csv.
        """
        halflife: float = self.ema_halflife_images
        if self.ema_rampup_ratio is not None:
            halflife = min(halflife, images_seen * self.ema_rampup_ratio)
        halflife = max(halflife, 1e-8)
        scale = REFERENCE_SIZE / self.dataset_size
        if self.ema_mode == 'mode1':
            return 0.5 ** (self.batch_size / halflife)
        if self.ema_mode == 'mode2':
            return 0.5 ** (REFERENCE_BATCH / (halflife * scale))
        if self.ema_mode == 'mode3':
            return 0.5 ** (self.batch_size / REFERENCE_HALFLIFE)
        relative = self.final_ema / 0.5 ** (self.batch_size / REFERENCE_HALFLIFE)
        return relative * 0.5 ** (self.batch_size / (halflife * scale))


def scaled_kimg(mimg: float, dataset_size: int) -> int:
    """Scale a length in millions of images, specified for 50,000 training images, to `dataset_size`.

    Returns thousands of images, rounded down.
    """
    return math.floor(mimg * 1000 * dataset_size / REFERENCE_SIZE)


def rampup_kimg(dataset_size: int, epochs: int = WARMUP_EPOCHS) -> int:
    """The length of a warm-up of `epochs` epochs, in thousands of images, rounded down."""
    return dataset_size * epochs // 1000


def every(interval: int, total: int, batch_size: int) -> list[int]:
    """Image counts at which to save: the multiples of `interval`, and `total`.

    Each is rounded up to a whole step. Raises ValueError for more than `MOST_PLACES` counts.
    """
    _limit(total // interval)
    return [_reached(place, batch_size) for place in (*range(interval, total, interval), total)]


def evenly(count: int, total: int, batch_size: int) -> list[int]:
    """Image counts at which to save: `total` · k / count for k = 1 … count, each rounded up to a whole step.

    Raises ValueError if two counts round down to the same kimg, because their snapshots would have the same name.
    """
    _limit(count)
    places = [_reached(-(-total * k // count), batch_size) for k in range(1, count + 1)]
    for k, (before, after) in enumerate(itertools.pairwise(places), start=1):
        if _kimg(before) == _kimg(after):
            raise ValueError(f'snapshots {k} and {k + 1} would both be at {kimg_text(_kimg(before))}')
    return places


def logarithmically(count: int, total: int, batch_size: int) -> list[int]:
    """Up to `count` image counts at which to save, logarithmically spaced from 1,000 to `total` images.

    Each is rounded up to a whole step. Image counts that round down to the same kimg would give snapshots of the same
    name, so only the last of them is kept. Raises ValueError for a count above `MOST_PLACES`.
    """
    _limit(count)
    first = min(1000, total)
    shares = [k / max(count - 1, 1) for k in range(count - 1, -1, -1)]
    places = [_reached(round(total * (first / total) ** share), batch_size) for share in shares]  # ascending
    return list({_kimg(place): place for place in places}.values())


def _limit(count: int) -> None:
    if count < 0:
        raise ValueError(f'{count} is negative')
    if count > MOST_PLACES:
        raise ValueError(f'saving {count:,} times is too often; the limit is {MOST_PLACES:,} times')


def _kimg(images: int) -> float:
    """Thousands of images, as in snapshot names; see `training.snapshot.snapshot_path`."""
    return images // 1000 or images / 1000


def _reached(images: int, batch_size: int) -> int:
    return -(-images // batch_size) * batch_size
