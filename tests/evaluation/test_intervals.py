"""The intervals equal those of scipy.stats bit for bit (importing scipy.stats would take a second)."""

import numpy as np
import scipy.stats

from evaluation.intervals import t_quantile, wilson_interval


def test_wilsons_interval_equals_scipys():
    totals = [*range(1, 40), *np.random.default_rng(0).integers(40, 60_000, 100).tolist()]
    for total in totals:
        for successes in {0, 1, total // 3, total - 1, total}:
            expected = scipy.stats.binomtest(successes, total).proportion_ci(0.95, method='wilson')
            assert wilson_interval(successes, total) == (expected.low, expected.high)


def test_the_quantile_of_students_t_equals_scipys():
    assert [t_quantile(n) for n in range(1, 100)] == [scipy.stats.t.ppf(0.975, n) for n in range(1, 100)]
