"""The EMM and its interval from ratios with known answers, and the search for it on curves with known crossings."""

import math
import random

import numpy as np
import pytest
import scipy.stats

from evaluation import effective_memorization as module
from evaluation.effective_memorization import (
    EMM,
    TRAINING_SPREAD,
    Bound,
    Ratios,
    effective_memorization,
    most_sizes,
    next_size,
    rising_pairs,
)


def counted(ratios: dict[int, float], images: int = 1000) -> list[Ratios]:
    return [Ratios(size, (round(ratio * images),), (images,)) for size, ratio in ratios.items()]


def test_emm_is_interpolated_linearly_between_sizes():
    # From 95 % at 100 to 75 % at 200, 90 % is reached after a quarter of the way.
    emm = effective_memorization(counted({100: 0.95, 200: 0.75, 400: 0.1}))
    assert emm.estimate.value == pytest.approx(125)
    assert emm.estimate.relation == emm.low.relation == emm.high.relation == '='
    assert emm.low.value < 125 < emm.high.value


def test_emm_of_the_papers_ratios_is_the_papers_emm():
    # Ratios of unconditional CIFAR-10 in the paper: 92.1 % at 1,000 and 60.9 % at 2,000.
    ratios = {500: 0.992, 1000: 0.921, 2000: 0.609, 3000: 0.346}
    emm = effective_memorization(counted(ratios, images=10_000))
    assert emm.estimate.value == pytest.approx(1000 + 1000 * 2.1 / 31.2)
    assert str(emm.estimate) == '1,067'


def test_the_interval_of_the_emm_agrees_with_the_delta_method():
    # Delta method: the standard error of the EMM is the standard error of the interpolated ratio divided by the slope.
    # The repeats agree, so the error depends only on the number of images. The lower end of the interval comes from a
    # line, which crosses 90 % at 150, and the upper end from a logistic curve in log |D|, which crosses 90 % at a
    # larger size.
    images, logit = 1_000_000, lambda p: math.log(p / (1 - p))
    ratios = [Ratios(100, (950_000,) * 2, (images,) * 2), Ratios(200, (850_000,) * 2, (images,) * 2)]
    emm = effective_memorization(ratios, resamples=20_000)
    slope = (0.85 - 0.95) / 100
    error = math.sqrt(0.5**2 * 0.95 * 0.05 / images + 0.5**2 * 0.85 * 0.15 / images) / abs(slope) / math.sqrt(2)
    assert emm.low.value == pytest.approx(150 - 1.96 * error, abs=0.02)
    share = (logit(0.95) - logit(0.9)) / (logit(0.95) - logit(0.85))
    errors = [(1 - share) * math.sqrt(1 / (0.95 * 0.05)), share * math.sqrt(1 / (0.85 * 0.15))]
    error = math.hypot(*errors) / math.sqrt(2 * images) * math.log(2) / (logit(0.95) - logit(0.85))
    assert emm.high.value == pytest.approx(100 * 2**share * math.exp(1.96 * error), abs=0.02)


def test_the_interval_of_21_draws_ends_at_the_outermost_values(monkeypatch):
    # With 21 draws, the 2.5 % quantile is half a step above the smallest value and is rounded down to it; the 97.5 %
    # quantile is rounded up to the largest value. All draws have a ratio of 95 % at size 100. The smallest value comes
    # from the draw with 5 % at size 200: its line crosses 90 % at 100 + 100 / 18. The largest value comes from the
    # draw with 89 % at size 200: it is where its logistic curve crosses 90 %.
    drawn = np.array([[0.95, 0.05], *[[0.95, 0.85]] * 19, [0.95, 0.89]])
    monkeypatch.setattr(module, '_draw', lambda *arguments: drawn)
    emm = effective_memorization(counted({100: 0.95, 200: 0.85}), resamples=21)
    odds = [math.log(p / (1 - p)) for p in (0.95, 0.9, 0.89)]
    assert emm.low.value == pytest.approx(100 + 100 / 18)
    assert emm.high.value == pytest.approx(100 * 2 ** ((odds[0] - odds[1]) / (odds[0] - odds[2])))


def test_with_three_sizes_the_interval_includes_the_crossing_of_a_logistic_fit():
    # The ratios follow a logistic curve in log |D| that is 90 % at 150. Linear interpolation crosses 90 % at a smaller
    # size, so the upper end of the interval is 150.
    truth, slope, images = 150, 5, 10_000_000
    ratios = {d: 1 / (1 + math.exp(-math.log(9) + slope * math.log(d / truth))) for d in (100, 200, 400)}
    emm = effective_memorization(
        [Ratios(d, (round(images * p),) * 2, (images,) * 2) for d, p in ratios.items()], resamples=500
    )
    assert emm.estimate.value < 130
    assert emm.high.value == pytest.approx(truth, rel=1e-3)


def test_a_single_repeat_gets_an_assumed_spread_between_repeats():
    one = effective_memorization([Ratios(100, (960_000,), (10**6,)), Ratios(200, (700_000,), (10**6,))])
    # At the lower end of the interval, the ratio at size 100 has a logit of logit(96 %) - 1.96 · 0.25. The line from
    # this ratio to 70 % at size 200 crosses 90 % near 115.
    assert one.low.value < 115
    assert one.estimate.value == pytest.approx(100 + 100 * 6 / 26)


def test_the_interval_of_a_size_without_any_or_with_only_copies_is_that_of_jeffreys_prior():
    # The posterior of the ratio is a beta distribution with parameters 1/2 + copies and 1/2 + other images.
    edge = scipy.stats.beta.ppf(0.025, 20.5, 0.5)
    for threshold, low in [(edge - 0.01, '≥ 7'), (edge + 0.01, '< 7')]:
        assert str(effective_memorization([Ratios(7, (20,), (20,))], threshold).low) == low
    for threshold, high in [(1 - edge - 0.01, '≥ 7'), (1 - edge + 0.01, '< 7')]:
        assert str(effective_memorization([Ratios(7, (0,), (20,))], threshold).high) == high


def test_the_emm_between_ratios_of_1_and_0_still_has_an_interval():
    emm = effective_memorization([Ratios(20, (16,), (16,)), Ratios(50, (0,), (16,))])
    assert emm.low.value < emm.estimate.value < emm.high.value < 50


def test_repeats_whose_mean_equals_the_threshold_count_as_memorized():
    # The mean of 85 % and 95 % is 90 %, but in floating-point arithmetic it is slightly less.
    assert Ratios(10, (17, 19), (20, 20)).mean == 0.9
    emm = effective_memorization([Ratios(10, (17, 19), (20, 20)), Ratios(20, (10, 10), (20, 20))])
    assert str(emm.estimate) == '10'


@pytest.mark.parametrize(
    ('ratios', 'text'),
    [({20: 1.0, 50: 0.99}, '≥ 50'), ({20: 0.5, 50: 0.1}, '< 20'), ({20: 0.3}, '< 20'), ({7: 1}, '≥ 7')],
)
def test_an_emm_outside_the_measured_sizes_is_an_inequality(ratios, text):
    emm = effective_memorization(counted(ratios))
    assert str(emm.estimate) == text


def test_an_interval_with_two_equal_ends_is_shown_as_one_bound():
    emm = EMM(Bound(20, '<'), Bound(20, '<'), Bound(20, '<'))
    assert (str(emm), emm.interval) == ('< 20', '< 20')
    emm = EMM(Bound(20, '<'), Bound(20, '<'), Bound(21))
    assert (str(emm), emm.interval) == ('< 20 [< 20, 21]', '[< 20, 21]')


def test_an_end_of_the_interval_can_lie_outside_the_measured_sizes():
    emm = effective_memorization(counted({100: 0.91, 200: 0.5}, images=100))
    assert emm.estimate.relation == '='
    assert str(emm.low) == '< 100'


def test_if_ratios_rise_again_the_emm_is_the_last_crossing():
    # The largest |D| with at least 90 % lies between 300 (92 %) and 400 (50 %).
    ratios = counted({100: 0.95, 200: 0.7, 300: 0.92, 400: 0.5})
    emm = effective_memorization(ratios)
    assert emm.estimate.value == pytest.approx(300 + 100 * 2 / 42)
    assert [(small.size, large.size) for small, large in rising_pairs(ratios)] == [(200, 300)]


def test_a_rise_of_ratios_within_their_intervals_gives_no_warning():
    assert rising_pairs(counted({100: 0.50, 200: 0.52}, images=100)) == []


def test_a_ratio_equal_to_the_threshold_counts_as_memorized():
    assert effective_memorization(counted({100: 0.9, 200: 0.1})).estimate.value == pytest.approx(100)


def test_the_interval_over_repeats_is_students_t_interval():
    ratios = Ratios(100, (400, 500, 600), (1000, 1000, 1000))
    # Student's t with 2 degrees of freedom is 4.302653; the standard error is 0.1 / sqrt(3).
    assert ratios.interval.kind == 't over repeats'
    assert ratios.interval.low == pytest.approx(0.5 - 4.302653 * 0.1 / math.sqrt(3), abs=1e-6)
    assert ratios.mean == pytest.approx(0.5)


def test_repeats_that_agree_exactly_still_have_an_interval():
    interval = Ratios(100, (1000, 1000, 1000), (1000, 1000, 1000)).interval
    # The lower end of Wilson's interval for 3,000 of 3,000 is 1 / (1 + z² / n).
    assert interval.low == pytest.approx(1 / (1 + 1.959964**2 / 3000), abs=1e-6)
    assert interval.high == 1


def test_the_interval_of_one_repeat_is_wilsons_interval():
    assert Ratios(100, (50,), (100,)).interval.kind == 'Wilson over images'


def test_repeats_that_disagree_widen_the_interval_of_the_emm():
    same = [Ratios(100, (960, 960, 960), (1000,) * 3), Ratios(200, (700, 700, 700), (1000,) * 3)]
    apart = [Ratios(100, (920, 960, 1000), (1000,) * 3), Ratios(200, (600, 700, 800), (1000,) * 3)]
    narrow, wide = effective_memorization(same), effective_memorization(apart)
    assert narrow.estimate == wide.estimate
    assert wide.high.value - wide.low.value > 2 * (narrow.high.value - narrow.low.value)


CURVES = {
    'logistic': lambda t: 1 / (1 + math.exp(-math.log(9) + 4 * t)),
    'Gompertz': lambda t: math.exp(math.log(0.9) * math.exp(2.4 * t)),
    'linear': lambda t: min(max(0.9 - 0.7 * math.expm1(t), 0.0), 1.0),
}


@pytest.mark.parametrize('num_sizes', [2, 3])
@pytest.mark.parametrize('repeats', [1, 3])
def test_the_interval_contains_the_true_emm_in_90_to_99_percent_of_simulated_studies(repeats, num_sizes):
    """Each study's ratios follow one of the CURVES in t = log(|D| / EMM); each size is twice the previous one.

    Between repeats, the ratios' logits have standard deviation TRAINING_SPREAD. Each repeat has 512 generated images.
    """
    rng, covered, total = np.random.default_rng(num_sizes), 0, 0
    for curve in CURVES.values():
        for number in range(100):
            truth = 2 ** rng.uniform(0, num_sizes - 1)
            ratios = []
            for size in 2 ** np.arange(num_sizes):
                p = min(max(curve(math.log(size / truth)), 1e-6), 1 - 1e-6)
                logits = math.log(p / (1 - p)) + TRAINING_SPREAD * rng.normal(size=repeats)
                ratios.append(
                    Ratios(int(size), tuple(rng.binomial(512, 1 / (1 + np.exp(-logits))).tolist()), (512,) * repeats)
                )
            emm = effective_memorization(ratios, resamples=400, seed=number)
            low = emm.low.value if emm.low.relation == '=' else 0
            high = emm.high.value if emm.high.relation == '=' else math.inf
            covered += low <= truth <= high
            total += 1
    assert 0.90 <= covered / total <= 0.99


@pytest.mark.parametrize(('memorized', 'images'), [((5,), (4,)), ((), ()), ((1,), (2, 3)), ((0,), (0,))])
def test_impossible_counts_are_refused(memorized, images):
    with pytest.raises(ValueError, match='size=10'):
        Ratios(10, memorized, images)


@pytest.mark.parametrize('threshold', [90, 1.0, 0, math.nan])
def test_a_threshold_outside_0_to_1_is_refused(threshold):
    with pytest.raises(ValueError, match=f'`threshold`={threshold} is out of range'):
        effective_memorization([Ratios(10, (9,), (10,)), Ratios(20, (1,), (10,))], threshold=threshold)


def search(curve, low, high, tolerance, step=1, known=None):
    """Run a search on a known curve; return the sizes in order of measurement, and all ratios by size."""
    ratios, measured = dict(known or {}), []
    while (size := next_size(ratios, low, high, tolerance, step)) is not None:
        assert size not in ratios
        assert low <= size <= high
        assert size % step == 0
        ratios[size] = curve(size)
        measured.append(size)
    return measured, ratios


@pytest.mark.parametrize('tolerance', [0.02, 0.1, 0.5])
def test_a_search_brackets_the_emm_within_its_tolerance_and_its_bound_on_sizes(tolerance):
    rng = random.Random(1)
    for _ in range(300):
        low = rng.randrange(50, 2000)
        high = rng.randrange(low + 1, 200 * low)
        crossing = math.exp(rng.uniform(math.log(low), math.log(high)))
        measured, ratios = search(lambda size, c=crossing: 1.0 if size <= c else 0.2, low, high, tolerance)
        halvings = math.log2(math.log(high / low) / math.log(1 + tolerance))
        assert len(measured) <= 2 + max(0, math.ceil(halvings))
        start = max(size for size, ratio in ratios.items() if ratio >= 0.9)
        if start < high:
            end = min(size for size, ratio in ratios.items() if ratio < 0.9)
            assert start <= crossing < end
            assert end <= start * (1 + tolerance) + 1  # sizes are whole numbers


def test_a_search_measures_only_multiples_of_its_step():
    measured, _ = search(lambda size: size <= 1234, 100, 10_000, 0.05, step=10)
    assert all(size % 10 == 0 for size in measured)
    assert len(measured) <= most_sizes(100, 10_000, 0.05)


def test_a_search_measures_one_size_if_the_smallest_is_not_memorized():
    assert search(lambda size: 0.0, 100, 5000, 0.1)[0] == [100]


def test_a_search_measures_two_sizes_if_the_largest_is_memorized():
    assert search(lambda size: 1.0, 100, 5000, 0.1)[0] == [100, 5000]


def test_a_search_reuses_known_ratios():
    fresh, ratios = search(lambda size: size <= 1234, 100, 10_000, 0.05)
    assert search(lambda size: size <= 1234, 100, 10_000, 0.05, known=ratios)[0] == []
    # A search over a wider range reuses the known bracket.
    assert len(search(lambda size: size <= 1234, 50, 20_000, 0.05, known=ratios)[0]) < len(fresh)


def test_a_search_ends_when_no_size_is_left_between_its_bounds():
    assert search(lambda size: size <= 10, 10, 20, 0.1, step=10)[0] == [10, 20]


def test_the_interval_over_repeats_stays_between_0_and_1():
    interval = Ratios(10, (50, 100), (100, 100)).interval  # 75 % ± 12.7 · 25 %, clipped at both ends
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_counts_between_0_and_the_number_of_images_are_accepted():
    assert Ratios(1, (0,), (1,)).mean == 0
    for size, memorized, images in [(0, (1,), (1,)), (1, (2,), (1,)), (1, (-1,), (1,)), (1, (0,), (0,)), (1, (), ())]:
        with pytest.raises(ValueError, match=r'size|copies'):
            Ratios(size, memorized, images)


def test_a_search_ends_when_its_bracket_is_within_the_tolerance():
    assert next_size({100: 1.0, 125: 0.0}, 50, 800, tolerance=0.25) is None
    assert next_size({100: 1.0, 126: 0.0}, 50, 800, tolerance=0.25) in range(101, 126)
