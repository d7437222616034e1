"""Clocks of a training run: when the model has generalized (tau_gen), and when it starts to memorize (tau_mem).

- tau_gen: the first snapshot whose held-out error is within `TOLERANCE` of its lowest value.
- tau_mem by the ratio: the earliest snapshot at and after which the 95 % interval of the memorization ratio always
  excludes 0. Source: Bonnaire et al. 2025.
- tau_mem by the error: the earliest snapshot at and after which the 95 % interval of the paired difference between
  held-out error and training error always lies above 0. Source: Marion and Wu 2026.

Times can be in any unit. Their intervals come from a bootstrap over images. The lower end of each interval is moved
back to the previous snapshot, because the event may have happened at any time since that snapshot.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dnnlib.util import UserError
from evaluation.intervals import CONFIDENCE, t_quantile

# At tau_gen, the held-out error exceeds its lowest value by at most this fraction of the lowest value.
TOLERANCE = 0.05
RESAMPLES = 1000


@dataclass(frozen=True)
class Clock:
    """When an event happened in a training run.

    time: the time of the first snapshot that shows the event; None if no snapshot shows it. low, high: ends of the 95 %
    interval of this time. low is 0 if the event may precede the first snapshot. high is None if the event may follow
    the last snapshot.
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
    """Find tau_gen. times: the times of S snapshots, ascending. held_out: the error on each held-out image, [S, N].

    Raises UserError unless there is a time for each snapshot, and at least one image.
    """
    values = _checked(times, held_out, 'held_out', 1)
    # The lowest error is taken at the same snapshot in all resamples, because each resample's own minimum would be
    # biased low.
    lowest = int(values.mean(axis=1).argmin())

    def find(mean: np.ndarray, _: np.ndarray) -> int:
        return int(np.argmax(mean <= (1 + tolerance) * mean[lowest]))

    return _bootstrapped(times, values, find, seed)


def gap_clock(times: Sequence[float], gaps: np.ndarray, seed: int = 0) -> Clock:
    """Find tau_mem by the error. gaps: held-out error minus training error for each image pair, [S, N], N >= 2.

    Raises UserError unless there is a time for each snapshot, and at least two image pairs.
    """
    values = _checked(times, gaps, 'gaps', 2)
    critical = t_quantile(values.shape[1] - 1)
    return _bootstrapped(times, values, lambda mean, error: _stays(mean > critical * error), seed)


def ratio_clock(
    times: Sequence[float], memorized: Sequence[int], num_images: int | Sequence[int], seed: int = 0
) -> Clock:
    """Find tau_mem by the ratio: the first snapshot such that it and all later snapshots have at least one copy.

    This condition is equivalent to the module's definition, because Wilson's interval excludes 0 if and only if at
    least one image is a copy. The bootstrap draws each snapshot's number of copies from a binomial distribution,
    independently of the other snapshots.
    memorized: each snapshot's number of copies. num_images: each snapshot's number of generated images, or one number
    for all snapshots.
    Raises UserError unless there are a time and possible numbers for each snapshot.
    """
    counts, totals = np.asarray(memorized), np.asarray(num_images)
    _require_times(times, counts.shape, 'memorized')
    if totals.shape not in ((), counts.shape) or not ((counts >= 0) & (counts <= totals) & (totals > 0)).all():
        raise UserError(
            f'`memorized`={memorized} and `num_images`={num_images}: give 0 to `num_images` copies for each snapshot'
        )
    random = np.random.default_rng(seed)
    drawn = random.binomial(totals, counts / totals, [RESAMPLES, len(counts)])
    return _clock(times, _stays(counts > 0), np.array([_stays(row > 0) for row in drawn]))


def _require_times(times: Sequence[float], shape: Sequence[int], name: str) -> None:
    """Raise UserError unless the times are ascending, and there is one for each entry of the argument `name`, [S]."""
    if len(shape) != 1 or not shape[0] or shape[0] != len(times) or list(times) != sorted(times):
        raise UserError(
            f'`times`={times} and `{name}` {list(shape)} do not match; give ascending times, one for each snapshot'
        )


def _checked(times: Sequence[float], values: np.ndarray, name: str, fewest: int) -> np.ndarray:
    """The argument `name`, [S, N]. Raises UserError unless its numbers are finite, S = len(times) and N >= fewest."""
    found = np.asarray(values)
    if found.ndim != 2 or found.shape[1] < fewest or not np.isfinite(found).all():
        raise UserError(
            f'`{name}` {list(found.shape)} must be finite numbers [S, N], for S snapshots and at least {fewest} images'
        )
    _require_times(times, found.shape[:1], name)
    return found


def _stays(flags: np.ndarray) -> int:
    """The first index at and after which all flags are set; the number of flags if the last flag is not set."""
    unset = np.flatnonzero(~flags)
    return int(unset[-1]) + 1 if len(unset) else 0


def _bootstrapped(
    times: Sequence[float], values: np.ndarray, find: Callable[[np.ndarray, np.ndarray], int], seed: int
) -> Clock:
    """Make a clock whose interval comes from a bootstrap; each resample uses the same images for all snapshots.

    find: takes the mean and the standard error of `values` at each snapshot, [S] each, and returns the index of the
    first snapshot that shows the event, or S.
    """
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
    """Make a clock from the index of the first snapshot that shows the event, in the data and in each resample.

    An index equal to the number of snapshots means that no snapshot shows the event.
    """
    low, high = np.percentile(places, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)], method='nearest').tolist()
    low, high = min(low, place), max(high, place)
    before = times[low - 1] if low else 0.0
    known = [*times, None]
    return Clock(time=known[place], low=float(before), high=known[high])


def fit_line(x: Sequence[float], y: Sequence[float]) -> Slope:
    """Fit a line by least squares. Needs at least three points with at least two different x values."""
    from scipy.stats import linregress  # rarely needed, and slow to import

    found = linregress(x, y)
    half = t_quantile(len(x) - 2) * float(found.stderr)
    return Slope(float(found.slope), float(found.slope) - half, float(found.slope) + half, float(found.intercept))


def spread(times: Sequence[float]) -> float:
    """The spread of times over N >= 2 runs: the standard deviation of their natural logarithms."""
    return float(np.log(times).std(ddof=1))
