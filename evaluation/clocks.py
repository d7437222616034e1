"""Clocks of a training run: when it has generalized (tau_gen), when it starts to memorize (tau_mem), and their scaling.

- tau_gen: the first snapshot whose held-out error is within `TOLERANCE` of its lowest value.
- tau_mem by the ratio: the first snapshot from which the 95 % interval of the memorization ratio always excludes 0.
  Source: Bonnaire et al. 2025.
- tau_mem by the error: the first snapshot from which the 95 % interval of the paired difference between held-out error
  and training error always lies above 0. Source: Marion and Wu 2026.

A time is a snapshot's time, in any unit that the caller chooses. Its interval comes from a bootstrap over images and
starts at the previous snapshot, since nothing was measured between the two.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

from evaluation.intervals import CONFIDENCE, t_quantile

# Height of the held-out error's plateau above its lowest value, relative to that value.
TOLERANCE = 0.05
RESAMPLES = 1000


@dataclass(frozen=True)
class Clock:
    """When an event happened in a training run. time: the first snapshot that shows the event, None if none does.

    low, high: the 95 % interval. low is 0, or the time of a snapshot that did not show the event yet; high is None if
    the event may lie after the last snapshot.
    """

    time: float | None
    low: float
    high: float | None


@dataclass(frozen=True)
class Slope:
    """A least-squares line y = intercept + slope · x, and the 95 % interval of its slope."""

    slope: float
    low: float
    high: float
    intercept: float


def generalization_clock(
    times: Sequence[float], held_out: np.ndarray, tolerance: float = TOLERANCE, seed: int = 0
) -> Clock:
    """tau_gen. times: times of S snapshots, ascending. held_out: the error of each held-out image, [S, N]."""
    values = np.asarray(held_out)
    lowest = int(
        values.mean(axis=1).argmin()
    )  # the same for all resamples, because the minimum of each resample is biased low

    def find(mean: np.ndarray, _: np.ndarray) -> int:
        return int(np.argmax(mean <= (1 + tolerance) * mean[lowest]))

    return _bootstrapped(times, values, find, seed)


def gap_clock(times: Sequence[float], gaps: np.ndarray, seed: int = 0) -> Clock:
    """tau_mem by the error. gaps: held-out error minus training error for each pair of images, [S, N], N >= 2."""
    critical = t_quantile(np.shape(gaps)[1] - 1)
    return _bootstrapped(times, np.asarray(gaps), lambda mean, error: _stays(mean > critical * error), seed)


def ratio_clock(
    times: Sequence[float], memorized: Sequence[int], num_images: int | Sequence[int], seed: int = 0
) -> Clock:
    """tau_mem by the ratio. memorized, num_images: the numbers of copies and of generated images for each snapshot.

    Wilson's interval excludes 0 as soon as one image is a copy. The bootstrap draws each snapshot's count
    independently.
    """
    counts = np.asarray(memorized)
    random = np.random.default_rng(seed)
    drawn = random.binomial(num_images, counts / np.asarray(num_images), [RESAMPLES, len(counts)])
    return _clock(times, _stays(counts > 0), np.array([_stays(row > 0) for row in drawn]))


def _stays(flags: np.ndarray) -> int:
    """The first index from which all flags are set; the number of flags if the last one is not set."""
    unset = np.flatnonzero(~flags)
    return int(unset[-1]) + 1 if len(unset) else 0


def _bootstrapped(
    times: Sequence[float], values: np.ndarray, find: Callable[[np.ndarray, np.ndarray], int], seed: int
) -> Clock:
    """The clock found by `find(means, standard errors) -> snapshot`; each resample uses the same images throughout."""
    count = values.shape[1]
    random = np.random.default_rng(seed)
    weights = random.multinomial(count, np.full(count, 1 / count), RESAMPLES)  # how often each image is drawn
    scale = np.abs(values).max() or 1.0
    values = values / scale
    means, squares = weights @ values.T / count, weights @ np.square(values).T / count  # [RESAMPLES, S]
    errors = np.sqrt(np.maximum(squares - means**2, 0) / (count - 1))
    places = np.array([find(mean, error) for mean, error in zip(means, errors, strict=True)])
    own = find(values.mean(axis=1), values.std(axis=1, ddof=1) / math.sqrt(count))
    return _clock(times, own, places)


def _clock(times: Sequence[float], place: int, places: np.ndarray) -> Clock:
    """The clock at snapshot `place`, with an interval from the bootstrap's `places`; the value S means no snapshot."""
    low, high = np.percentile(places, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)], method='nearest').tolist()
    low, high = min(low, place), max(high, place)
    before = times[low - 1] if low else 0.0
    known = [*times, None]
    return Clock(time=known[place], low=float(before), high=known[high])


def fit_line(x: Sequence[float], y: Sequence[float]) -> Slope:
    """Fit a line by least squares. Needs at least three points with at least two different x."""
    found = scipy.stats.linregress(x, y)
    half = t_quantile(len(x) - 2) * float(found.stderr)
    return Slope(float(found.slope), float(found.slope) - half, float(found.slope) + half, float(found.intercept))


def normalized_time(steps: float, run: Mapping[str, float], smallest: Mapping[str, float]) -> float:
    """T = steps · (n_min / n) · (B / B_min) · (lr / lr_min), the time in which the runs' curves should coincide.

    run: `size` (n, training images), `batch` (B) and `lr` for this run. smallest: the minimum of each over all runs.
    Source: Bonnaire et al. 2025.
    """
    return steps * smallest['size'] / run['size'] * run['batch'] / smallest['batch'] * run['lr'] / smallest['lr']


def spread(times: Sequence[float]) -> float:
    """How much times vary between N >= 2 runs: the standard deviation of their natural logarithms."""
    return float(np.log(times).std(ddof=1))
