"""Clocks (generalization and memorization times) on curves with known times, and line fits with known slopes."""

import numpy as np
import pytest
import scipy.stats

from dnnlib.util import UserError
from evaluation.clocks import (
    Clock,
    fit_line,
    gap_clock,
    generalization_clock,
    ratio_clock,
    spread,
)
from evaluation.diagnosis.clocks_table import normalized_time

TIMES = [1, 2, 4, 8, 16, 32]


def noisy_curves(means: list[float], deviation: float, count: int, seed: int = 0) -> np.ndarray:
    """Normally distributed values of `count` images around each snapshot's mean, [S, count]."""
    random = np.random.default_rng(seed)
    return np.array(means)[:, None] + deviation * random.normal(size=[len(means), count])


def test_generalization_time_is_the_first_snapshot_on_the_plateau():
    found = generalization_clock(TIMES, noisy_curves([9, 5, 2, 1.01, 1, 3], 0.01, 100))
    assert found == Clock(time=8, low=4, high=8)
    assert generalization_clock(TIMES, noisy_curves([9, 5, 2, 1.01, 1, 3], 0.01, 100), tolerance=1.2).time == 4
    assert generalization_clock(TIMES, noisy_curves([1, 1, 1, 2, 2, 2], 0.001, 100)) == Clock(time=1, low=0, high=1)


def test_noise_widens_the_interval_of_the_generalization_time():
    found = generalization_clock(TIMES, noisy_curves([9, 5, 2, 1.06, 1.04, 1], 0.5, 100))
    assert found.low < 8 <= found.high
    assert found.high > found.time or found.low < 4


def test_memorization_time_is_when_the_gap_becomes_positive_for_good():
    found = gap_clock(TIMES, noisy_curves([0, 0.5, 0, 1, 2, 3], 0.1, 100))
    assert found == Clock(time=8, low=4, high=8)
    assert gap_clock(TIMES, noisy_curves([0, 0, 0, 0, 0, 0], 0.1, 50, seed=1)).time is None
    assert gap_clock(TIMES, noisy_curves([1, 1, 1, 1, 1, 0], 0.01, 50, seed=1)).time is None
    assert gap_clock(TIMES, noisy_curves([1, 1, 1, 1, 1, 1], 0.01, 50)) == Clock(time=1, low=0, high=1)


def test_the_interval_of_an_uncertain_gap_extends_beyond_the_last_snapshot():
    found = gap_clock(TIMES, noisy_curves([0, 0, 0, 0, 0, 0.25], 1, 100, seed=3))
    assert found.high is None


def test_the_ratio_clock_is_the_first_snapshot_with_copies():
    assert ratio_clock(TIMES, [0, 0, 0, 50, 500, 900], 1000) == Clock(time=8, low=4, high=8)
    found = ratio_clock(TIMES, [0, 0, 0, 1, 500, 900], 1000)
    assert found == Clock(time=8, low=4, high=16)  # with 1 copy in 1,000 images, about 1/3 of resamples have none
    assert ratio_clock(TIMES, [0, 0, 0, 0, 0, 0], 1000) == Clock(time=None, low=32, high=None)


@pytest.mark.parametrize(
    ('find', 'message'),
    [
        (lambda: ratio_clock([1, 2, 3], [0, 0, 5, 9], 100), r'`times`=\[1, 2, 3\] and `memorized` \[4\] do not match'),
        (lambda: ratio_clock([2, 1], [0, 5], 100), r'`times`=\[2, 1\] .* give ascending times'),
        (lambda: ratio_clock([], [], 100), r'`times`=\[\] and `memorized` \[0\]'),
        (lambda: ratio_clock([1, 2], [0, 5], [100]), '`num_images`=.100.: give 0 to `num_images` copies'),
        (lambda: ratio_clock([1, 2], [0, 101], 100), '`memorized`=.0, 101. and `num_images`=100: give 0 to'),
        (lambda: ratio_clock([1, 2], [-1, 5], 100), '`memorized`=.-1, 5. and `num_images`=100: give 0 to'),
        (lambda: generalization_clock([1, 2], np.ones([3, 9])), r'`times`=\[1, 2\] and `held_out` \[3\] do not match'),
        (lambda: generalization_clock([1, 2], np.ones([2, 0])), r'`held_out` \[2, 0\] must be finite .* at least 1'),
        (lambda: gap_clock([1, 2, 3], np.ones([2, 9])), r'`times`=\[1, 2, 3\] and `gaps` \[2\] do not match'),
        (lambda: gap_clock([1, 2], np.ones([2, 1])), r'`gaps` \[2, 1\] must be finite .* at least 2 images'),
        (lambda: gap_clock([1, 2], np.ones(2)), r'`gaps` \[2\] must be finite numbers \[S, N\]'),
        (lambda: gap_clock([1, 2], np.full([2, 9], np.nan)), '`gaps` .* must be finite'),
    ],
)
def test_curves_that_do_not_match_the_times_are_refused(find, message):
    with pytest.raises(UserError, match=message):
        find()


def test_the_interval_of_the_plateau_contains_the_true_time():
    """At least 90 % of 200 intervals contain the true time.

    The true time is 20, the first time at which the mean error is at most 1.07 times its minimum. An image's errors are
    correlated across snapshots: hard images have large errors at every snapshot.
    """
    times = np.arange(1, 41).tolist()
    means = np.array([2 - 0.05 * min(k, 20) for k in range(40)])  # 1.05 at time 20 (k = 19), but 1.1 before
    plateaus = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        difficulty = random.chisquare(4, 60) / 4
        held_out = means[:, None] * difficulty * (1 + 0.05 * random.normal(size=[40, 60]))
        found = generalization_clock(times, held_out, tolerance=0.07, seed=seed)
        plateaus += found.low < 20 and found.high is not None and found.high >= 20
    assert plateaus >= 180


@pytest.mark.parametrize(('step', 'widest'), [(0.5, 9), (1.0, 5)])
def test_the_interval_of_the_gap_contains_the_true_time_and_is_narrow(step, widest):
    """90 to 99 % of 200 intervals contain the true time; the median interval is at most `widest` snapshots wide.

    The gap is 0 up to time 10 and then rises by `step` standard errors per snapshot. The true time is the first at
    which the gap exceeds Student's critical value. Half of an image's noise variance is common to all snapshots.
    """
    count, times = 100, np.arange(1, 41)
    rise = step * np.maximum(times - 10.5, 0)
    truth = int(times[rise > scipy.stats.t.ppf(0.975, count - 1)][0])
    covered, widths = 0, []
    for seed in range(200):
        random = np.random.default_rng(seed)
        noise = random.normal(size=count) + random.normal(size=[40, count])
        found = gap_clock(times.tolist(), rise[:, None] / count**0.5 + noise / 2**0.5, seed=seed)
        covered += found.low < truth and (found.high is None or truth <= found.high)
        widths.append((found.high or np.inf) - found.low)
    assert 180 <= covered <= 198
    assert np.median(widths) <= widest


def test_the_interval_of_a_fitted_slope_contains_the_true_slope():
    found = fit_line([1, 2, 3, 4], [3, 5, 7, 9])
    assert (found.slope, found.low, found.high, found.intercept) == pytest.approx((2, 2, 2, 1))
    random = np.random.default_rng(0)
    x = np.linspace(0, 1, 8)
    lines = [fit_line(x.tolist(), (3 * x + random.normal(size=8)).tolist()) for _ in range(200)]
    assert 180 <= sum(line.low <= 3 <= line.high for line in lines) <= 198


def test_normalized_time_is_the_same_for_proportional_runs():
    smallest, other = {'dataset_size': 100, 'batch': 32, 'lr': 1e-3}, {'dataset_size': 400, 'batch': 64, 'lr': 2e-3}
    assert normalized_time(smallest, 32, [smallest, other]) == 1000
    assert normalized_time(other, 64, [smallest, other]) == 1000
    assert spread([1, 1]) == 0
    assert spread([1, np.e]) == pytest.approx(0.5**0.5)
