"""Effective model memorization (EMM), the largest training-set size that a model memorizes, estimated from ratios.

`Ratios` holds the counts of all repeats at one training-set size. `effective_memorization` interpolates between sizes,
and draws from the posterior of the ratios to get an interval. `next_size` chooses the next size in a search.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from evaluation.intervals import CONFIDENCE, t_quantile, wilson_interval

# A model memorizes a training set if the ratio is at least 1 - epsilon; the paper sets epsilon to 0.1.
EMM_RATIO = 0.9
RESAMPLES = 10_000
# Standard deviation of a ratio's logit between repeats: the root mean square over the 22 triples of training runs in
# docs/results that have ratios between 5 and 97 %, after subtracting the sampling error due to the number of images.
TRAINING_SPREAD = 0.25


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval of a ratio in [0, 1]. kind: a description of the interval."""

    low: float
    high: float
    kind: str


@dataclass(frozen=True)
class Ratios:
    """The counts at one training-set size.

    memorized: the number of copies in each repeat. images: the number of generated images in each repeat.
    """

    size: int
    memorized: tuple[int, ...]
    images: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.size < 1 or len(self.memorized) != len(self.images) or not self.images:
            raise ValueError(f'{self}: give a size, and the numbers of copies and of images for at least one repeat')
        for memorized, images in zip(self.memorized, self.images, strict=True):
            if not 0 <= memorized <= images or not images:
                raise ValueError(f'{self}: {memorized} copies out of {images} images is impossible')

    @property
    def of_repeats(self) -> list[float]:
        return [memorized / images for memorized, images in zip(self.memorized, self.images, strict=True)]

    @property
    def mean(self) -> float:
        """The mean ratio over repeats, computed with fractions so that the mean of 85 % and 95 % is exactly 90 %."""
        return float(sum(map(Fraction, self.memorized, self.images)) / len(self.images))

    @property
    def interval(self) -> Interval:
        """Wilson's interval over the images of a single repeat, or Student's t interval over several repeats.

        The t interval has no width if the repeats agree by chance (such as three at 100 %). It is therefore widened to
        include Wilson's interval over the images of all repeats.
        """
        wilson = wilson_interval(sum(self.memorized), sum(self.images))
        if len(self.images) == 1:
            return Interval(*wilson, 'Wilson over images')
        spread = float(np.std(self.of_repeats, ddof=1)) / math.sqrt(len(self.images))
        half = t_quantile(len(self.images) - 1) * spread
        low, high = max(0.0, self.mean - half), min(1.0, self.mean + half)
        return Interval(min(low, wilson[0]), max(high, wilson[1]), 't over repeats')


@dataclass(frozen=True)
class Bound:
    """A training-set size. It is exact ('='), or only a bound ('≥', '<') if it is outside the measured range.

    '≥ 5000' means that the largest measured size, 5000, is memorized. '< 20' means that the smallest measured size, 20,
    is not memorized.
    """

    value: float
    relation: str = '='

    def __str__(self) -> str:
        number = f'{self.value:,.0f}' if self.value >= 10 else f'{self.value:.3g}'
        return number if self.relation == '=' else f'{self.relation} {number}'


@dataclass(frozen=True)
class EMM:
    """An effective model memorization and its 95 % interval; the interval can extend beyond the measured sizes."""

    estimate: Bound
    low: Bound
    high: Bound

    def __str__(self) -> str:
        return str(self.estimate) if self.low == self.high else f'{self.estimate} {self.interval}'

    @property
    def interval(self) -> str:
        """The interval as text, such as '[20, 25]'; if both ends are equal, only one of them, such as '< 20'."""
        return str(self.low) if self.low == self.high else f'[{self.low}, {self.high}]'

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the interval as numbers: a low end '< 20' becomes 0, and a high end '≥ 400' becomes infinity."""
        low, high = self.low, self.high
        return (0.0 if low.relation == '<' else low.value), (math.inf if high.relation == '≥' else high.value)


def effective_memorization(
    ratios: Iterable[Ratios], threshold: float = EMM_RATIO, resamples: int = RESAMPLES, seed: int = 0
) -> EMM:
    """Estimate the largest training-set size |D| whose ratio is at least `threshold`, by linear interpolation in |D|.

    The interval accounts for two uncertainties. First, the numbers of images and repeats are limited, so the ratios are
    drawn `resamples` times (see `_draw`). Second, the shape of the curve between sizes is unknown, so each draw is
    interpolated twice: linearly in |D|, and by a logistic curve in log |D| (a logistic regression over all sizes if
    there are three or more). The interval runs from the 2.5 % quantile of the smaller result to the 97.5 % quantile of
    the larger result.
    Simulated coverage: tests/evaluation/test_effective_memorization.py.
    Raises ValueError if no ratios are given, if a size is given twice, or if the threshold is not in (0, 1).
    """
    if not 0 < threshold < 1:
        raise ValueError(f'`threshold`={threshold} is out of range; give a ratio above 0 and below 1, such as 0.9')
    ratios = sorted(ratios, key=lambda r: r.size)
    sizes = np.array([r.size for r in ratios], dtype=np.float64)
    if not len(sizes) or len(set(sizes)) < len(sizes):
        raise ValueError('the EMM needs at least one size, and each size only once')
    estimate = crossings(sizes, np.array([[r.mean for r in ratios]]), threshold)[0]
    drawn = _draw(ratios, resamples, np.random.default_rng(seed))
    found = np.stack([crossings(sizes, drawn, threshold), _logistic_crossings(sizes, drawn, threshold)])
    tail = (1 - CONFIDENCE) / 2 * (resamples - 1)
    low = np.sort(found.min(axis=0))[math.floor(tail)]
    high = np.sort(found.max(axis=0))[math.ceil(resamples - 1 - tail)]
    # The interval of the draws can miss an estimate from ratios near 0 or 1, so it is widened to include the estimate.
    return EMM(*(_bound(x, sizes) for x in (estimate, min(low, estimate), max(high, estimate))))


def bracket(ratios: list[Ratios], threshold: float = EMM_RATIO) -> tuple[Ratios | None, Ratios | None]:
    """The largest measured size whose ratio reaches the threshold, and the next larger measured size.

    Each is None if there is no such size. ratios: in ascending order of size.
    """
    reached = [place for place, r in enumerate(ratios) if r.mean >= threshold]
    last = reached[-1] if reached else -1
    return (ratios[last] if reached else None), (ratios[last + 1] if last + 1 < len(ratios) else None)


def crossings(sizes: np.ndarray, ratios: np.ndarray, threshold: float = EMM_RATIO) -> np.ndarray:
    """Find the size at which each curve of ratios last falls below the threshold.

    sizes: ascending, [S]. ratios: [B, S]; they are interpolated linearly between sizes. Returns [B]: -inf if no size
    reaches the threshold, and inf if the largest size reaches it.
    """
    above = ratios >= threshold
    last = len(sizes) - 1 - np.argmax(above[:, ::-1], axis=1)  # the largest size that reaches the threshold, if any
    inner = np.minimum(last, len(sizes) - 2) if len(sizes) > 1 else np.zeros_like(last)
    after = np.minimum(inner + 1, len(sizes) - 1)
    rows = np.arange(len(ratios))
    here, there = ratios[rows, inner], ratios[rows, after]
    with np.errstate(divide='ignore', invalid='ignore'):
        share = (here - threshold) / (here - there)
    found = sizes[inner] + np.where(np.isfinite(share), share, 0) * (sizes[after] - sizes[inner])
    found = np.where(last == len(sizes) - 1, np.inf, found)
    return np.where(above.any(axis=1), found, -np.inf)


def _logistic_crossings(sizes: np.ndarray, ratios: np.ndarray, threshold: float) -> np.ndarray:
    """Like `crossings`, but with a logistic curve in log |D|. With three or more sizes, the curve is fitted.

    A crossing of the fitted curve is clipped to lie between the two sizes where the ratios fall below the threshold for
    the last time.
    """
    if len(sizes) < 3:
        found = crossings(np.log(sizes), _logit(np.clip(ratios, 1e-4, 1 - 1e-4)), _logit(threshold))
        return np.where(found == -np.inf, found, np.exp(found))
    offset, slope = _logistic_fit(np.log(sizes), ratios)
    with np.errstate(divide='ignore', over='ignore', invalid='ignore'):
        fitted = np.exp((_logit(threshold) - offset) / slope)
    above = ratios >= threshold
    last = len(sizes) - 1 - np.argmax(above[:, ::-1], axis=1)
    inner = np.minimum(last, len(sizes) - 2)
    fitted = np.clip(np.nan_to_num(fitted, nan=0.0), sizes[inner], sizes[inner + 1])
    fitted = np.where(last == len(sizes) - 1, np.inf, fitted)
    return np.where(above.any(axis=1), fitted, -np.inf)


def _logistic_fit(x: np.ndarray, ratios: np.ndarray, steps: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Fit logistic regressions of ratios on x by Newton's method.

    x: [S]. ratios: [B, S]. Returns the offsets [B] and the slopes [B].
    A small ridge penalty keeps the slopes finite if the ratios jump from 1 to 0.
    """
    center, ridge = x.mean(), 1e-4
    x, offset, slope = x - center, np.zeros(len(ratios)), np.full(len(ratios), -1.0)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(offset[:, None] + slope[:, None] * x, -30, 30)))  # [B, S]
        weight, residual = p * (1 - p), ratios - p
        a, b, c = weight.sum(1) + ridge, (weight * x).sum(1), (weight * x * x).sum(1) + ridge
        g, h = residual.sum(1), (residual * x).sum(1)
        by, turn = (c * g - b * h) / (a * c - b * b), (a * h - b * g) / (a * c - b * b)
        shorten = np.maximum(1, np.hypot(by, turn) / 3)  # a longer step can overshoot
        offset, slope = offset + by / shorten, slope + turn / shorten
    return offset - slope * center, slope


def _logit(share: Any) -> Any:
    return np.log(share / (1 - share))


def _draw(ratios: list[Ratios], draws: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the ratios at all sizes from their posterior given the counts (beta, with Jeffreys' prior): [draws, S].

    The counts are first divided by the overdispersion: the variance between repeats relative to the variance expected
    for independent images. The overdispersion is estimated from all sizes together, and the draws include its
    uncertainty. If each size has a single repeat, the overdispersion is computed from `TRAINING_SPREAD` instead.
    """
    images = np.array([sum(r.images) for r in ratios], dtype=np.float64)  # [S]
    means = np.array([r.mean for r in ratios])
    variance = means * (1 - means)
    freedom, excess = 0, 0.0
    for r, mean, v in zip(ratios, means, variance, strict=True):
        if len(r.images) > 1 and v > 0:
            freedom += len(r.images) - 1
            excess += float(((np.array(r.of_repeats) - mean) ** 2 * np.array(r.images)).sum() / v)
    if freedom:
        overdispersion = np.maximum(1, excess / rng.chisquare(freedom, draws))[:, None]  # [draws, 1]
    else:
        repeats = np.array([len(r.images) for r in ratios])
        overdispersion = np.maximum(1, 1 + (images / repeats - 1) * variance * TRAINING_SPREAD**2)[None]  # [1, S]
    effective = images / overdispersion
    shape = draws, len(ratios)
    return rng.beta(means * effective + 0.5, (1 - means) * effective + 0.5, shape)


def _bound(size: float, sizes: np.ndarray) -> Bound:
    if size == np.inf:
        return Bound(float(sizes[-1]), '≥')
    if size == -np.inf:
        return Bound(float(sizes[0]), '<')
    return Bound(float(size))


def rising_pairs(ratios: Iterable[Ratios]) -> list[tuple[Ratios, Ratios]]:
    """Pairs of sizes where the larger size has a higher ratio and the intervals are disjoint; normally none exist."""
    pairs = itertools.combinations(sorted(ratios, key=lambda r: r.size), 2)
    return [(small, large) for small, large in pairs if large.interval.low > small.interval.high]


def next_size(
    ratios: Mapping[int, float], low: int, high: int, tolerance: float, step: int = 1, threshold: float = EMM_RATIO
) -> int | None:
    """The size that a search for the EMM should measure next, or None if the search has ended.

    The smallest size comes first (it is the cheapest and may suffice), then the largest. Bisection on a geometric grid
    then narrows the bracket around the EMM until the bracket's ends are within `tolerance` of each other, or are
    neighbours on the grid. A search measures at most `most_sizes` sizes.

    ratios: known ratios by size, from this or earlier searches. low, high: the smallest and the largest size; both are
    multiples of `step`. tolerance (at least 0.001): the search stops when the bracket's ends differ by at most this
    fraction. step: all measured sizes are multiples of `step`.
    """
    known = sorted(size for size in ratios if low <= size <= high)
    replayed = [size for size in known if ratios[size] >= threshold]
    if not replayed:
        return None if low in ratios else low
    start = replayed[-1]
    if start == high:
        return None
    end = next((size for size in known if size > start), None)
    if end is None:
        return high
    inside = [size for size in size_grid(low, high, tolerance, step) if start < size < end]
    if not inside or end <= start * (1 + tolerance):
        return None
    return inside[(len(inside) - 1) // 2]


def size_grid(low: int, high: int, tolerance: float, step: int = 1) -> list[int]:
    """The sizes that a search can measure, in ascending order; they form a geometric grid with 2^k intervals.

    Neighbouring sizes differ by at most a factor of 1 + tolerance. Small sizes can differ by more, because each size is
    rounded to a multiple of `step`.
    """
    intervals = 2 ** (most_sizes(low, high, tolerance) - 2) if high > low else 1
    grid = {round(low * (high / low) ** (i / intervals) / step) * step for i in range(intervals + 1)}
    return sorted(size for size in grid if low <= size <= high)


def most_sizes(low: int, high: int, tolerance: float) -> int:
    """The maximum number of sizes that a search measures: 2 + ceil(log2(ln(high / low) / ln(1 + tolerance)))."""
    if high <= low:
        return 1
    halvings = math.log2(math.log(high / low) / math.log1p(tolerance))
    return 2 + max(0, math.ceil(halvings))
