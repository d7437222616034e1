"""The paper's scaling rules: length of a training, warm-up of its learning rate, and average of its weights.

Everything is a function of the images seen before a step, so nothing has to be saved.
"""

import itertools
import math
from dataclasses import dataclass

# Durations and half-lives are given for 50,000 images and scale with the size of the training set.
REFERENCE_SIZE = 50_000
# The learning rate rises over this many epochs.
WARMUP_EPOCHS = 200
# The EMA's half-life is at most this share of the images seen; Karras et al. 2022, appendix F.
EMA_RAMPUP_RATIO = 0.05
# The step that `mode2` and the half-life that `mode3` and `mode4` are written for, in images.
REFERENCE_BATCH = 512
REFERENCE_HALFLIFE = 500_000
EMA_MODES = ('mode1', 'mode2', 'mode3', 'mode4')
# Most times at which a training saves; a larger number is a mistake that would take all memory.
MOST_PLACES = 100_000


@dataclass(frozen=True)
class Schedule:
    """Length, warm-up and EMA of one training; all counts are images.

    dataset_size: |D|. total_images: the training ends at the first step that reaches it. rampup_images: length
    of the linear warm-up. ema_mode, ema_halflife_images, final_ema: the paper's four rules, see `ema_beta`.
    ema_rampup_ratio: cap of the half-life, or None for no cap.
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
        """Factor of the learning rate for the step after `images_seen` images, in [0, 1]."""
        return min(images_seen / self.rampup_images, 1.0) if self.rampup_images else 1.0

    def ema_beta(self, images_seen: int) -> float:
        """Weight of the old average for the step after `images_seen` images, in [0, 1].

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
    """A length in millions of images at 50,000 training images, in thousands at `dataset_size`, rounded down."""
    return math.floor(mimg * 1000 * dataset_size / REFERENCE_SIZE)


def rampup_kimg(dataset_size: int, epochs: int = WARMUP_EPOCHS) -> int:
    """Thousands of images of a warm-up over so many epochs, rounded down."""
    return dataset_size * epochs // 1000


def every(interval: int, total: int, batch_size: int) -> list[int]:
    """The numbers of images seen at each multiple of `interval` images, and at `total`, rounded up to full steps.

    Raises ValueError for more than `MOST_PLACES`.
    """
    _limit(total // interval)
    return [_reached(place, batch_size) for place in (*range(interval, total, interval), total)]


def evenly(count: int, total: int, batch_size: int) -> list[int]:
    """The numbers of images seen at k/count of `total` images, k = 1 … count, rounded up to full steps.

    Raises ValueError if two of them lie in the same thousand of images: their snapshots would share a name.
    """
    _limit(count)
    places = [_reached(-(-total * k // count), batch_size) for k in range(1, count + 1)]
    for k, (before, after) in enumerate(itertools.pairwise(places), start=1):
        if _kimg(before) == _kimg(after):
            raise ValueError(f'number {k} and {k + 1} both fall on {_kimg(before):g} kimg')
    return places


def logarithmically(count: int, total: int, batch_size: int) -> list[int]:
    """The numbers of images seen at `count` times from 1,000 images to `total`, rounded up to full steps.

    Each is the same multiple of the one before, before rounding. Of numbers within the same thousand of images, whose
    snapshots would share a name, one is kept, so there may be fewer. Raises ValueError for more than `MOST_PLACES`.
    """
    _limit(count)
    first = min(1000, total)
    shares = [k / max(count - 1, 1) for k in range(count - 1, -1, -1)]
    places = [_reached(round(total * (first / total) ** share), batch_size) for share in shares]  # ascending
    return list({_kimg(place): place for place in places}.values())


def _limit(count: int) -> None:
    if count < 0:
        raise ValueError(f'{count} is not a number of times')
    if count > MOST_PLACES:
        raise ValueError(f'{count:,} times are too many; the most are {MOST_PLACES:,}')


def _kimg(images: int) -> float:
    """Thousands of images as the names of snapshots give them; see `training.snapshot.snapshot_path`."""
    return images // 1000 or images / 1000


def _reached(images: int, batch_size: int) -> int:
    return -(-images // batch_size) * batch_size
