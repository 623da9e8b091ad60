"""Estimates against brute force, and the coverage of their intervals where it can be counted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm, sem, t

from objectives import stats
from objectives.arrays import Floats

Bools = stats.Bools


def holds(interval: stats.Interval, value: float) -> bool:
    return interval[0] <= value <= interval[1]


@pytest.mark.parametrize(("percentile", "samples"), [(90, 64), (99, 662)])
def test_a_percentile_needs_two_samples_beyond_it_with_99_percent_confidence(percentile: int, samples: int) -> None:
    beyond = 1 - percentile / 100
    assert binom.cdf(1, samples, beyond) <= 0.01 < binom.cdf(1, samples - 1, beyond)
    assert stats.enough_for(percentile, samples)
    assert not stats.enough_for(percentile, samples - 1)


def orders(rounds: int) -> Iterator[Bools]:
    """Every order of the rounds in which each side is first in half of them."""
    for chosen in itertools.combinations(range(rounds), rounds // 2):
        yield np.isin(np.arange(rounds), chosen)


def without_autocorrelation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "lag1_autocorrelation", lambda residuals: 0.0)


@pytest.mark.parametrize("rounds", [8, 10, 12])
def test_the_ratios_interval_covers_as_promised_over_all_orders(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Arbitrary machine noise: the order is the only randomness, so every possible order is counted.
    without_autocorrelation(monkeypatch)
    generator = np.random.default_rng(rounds)
    machine = np.cumsum(generator.standard_t(2, size=2 * rounds)).reshape(rounds, 2)  # logs; first and second
    covered = []
    for first in orders(rounds):
        below = np.where(first, machine[:, 0], machine[:, 1])
        above = np.where(first, machine[:, 1], machine[:, 0]) + math.log(1.7)
        covered.append(holds(stats.paired_ratio(np.exp(above), np.exp(below), first).interval, 1.7))
    assert np.mean(covered) == pytest.approx(_rank_sum_confidence(rounds // 2))
    assert 0.95 <= np.mean(covered) < 0.98


def rank_sums(one: int, other: int) -> list[int]:
    """U of every choice of `one` ranks, by counting."""
    chosen = itertools.combinations(range(one + other), one)
    return [sum(rank - place for place, rank in enumerate(ranks)) for ranks in chosen]


def _rank_sum_confidence(half: int) -> float:
    """The lowest confidence of 95 % or more that a rank-sum interval of half against half can have."""
    every = [
        sum(rank - place for place, rank in enumerate(chosen))
        for chosen in itertools.combinations(range(2 * half), half)
    ]
    tails = [2 * sum(u <= cut for u in every) / len(every) for cut in range(half * half)]
    return 1 - max(tail for tail in tails if tail <= 0.05)


@pytest.mark.parametrize(("one", "other"), [(4, 4), (4, 5), (5, 8), (8, 8)])
def test_the_cut_is_that_of_the_counted_rank_sums(one: int, other: int) -> None:
    every = rank_sums(one, other)
    cut = stats.rank_sum_cut(one, other)
    assert np.mean([u <= cut for u in every]) <= 0.025 < np.mean([u <= cut + 1 for u in every])


def test_too_few_rounds_for_any_cut_are_refused() -> None:
    with pytest.raises(ValueError, match="3 against 3"):
        stats.rank_sum_cut(3, 3)


def random_order(rounds: int, seed: int = 0) -> Bools:
    return np.random.default_rng(seed).permutation(rounds) % 2 == 0


def test_the_ratio_is_half_the_shift_between_rounds_of_the_two_orders() -> None:
    generator = np.random.default_rng(0)
    top, bottom = generator.lognormal(size=(2, 10))
    first = random_order(10)
    logs = np.log(top / bottom)
    means = [(logs[i] + logs[j]) / 2 for i in np.flatnonzero(first) for j in np.flatnonzero(~first)]
    assert stats.paired_ratio(top, bottom, first).value == pytest.approx(math.exp(np.median(means)))


def test_what_both_sides_share_cancels_and_the_inverse_is_the_inverse() -> None:
    generator = np.random.default_rng(1)
    top, bottom, shared = generator.lognormal(size=(3, 12))
    first = random_order(12)
    alone = stats.paired_ratio(top, bottom, first)
    drifting = stats.paired_ratio(top * shared, bottom * shared, first)
    inverse = stats.paired_ratio(bottom, top, ~first)
    assert drifting.value == pytest.approx(alone.value)
    assert drifting.interval == pytest.approx(alone.interval)
    assert inverse.value == pytest.approx(1 / alone.value)
    assert inverse.interval == pytest.approx((1 / alone.interval[1], 1 / alone.interval[0]))


@pytest.mark.parametrize("first", [random_order(20), np.arange(20) < 10], ids=["drawn", "one order, then the other"])
def test_what_coming_second_costs_cancels(first: Bools) -> None:
    generator = np.random.default_rng(3)
    top, bottom = generator.lognormal(0.1, 0.02, 20), generator.lognormal(0, 0.02, 20)
    dearer = stats.paired_ratio(top * np.where(first, 1.4, 1), bottom * np.where(first, 1, 1.4), first)
    plain = stats.paired_ratio(top, bottom, first)
    assert (dearer.value, *dearer.interval) == pytest.approx((plain.value, *plain.interval))


def test_one_wild_round_hardly_moves_the_ratio() -> None:
    generator = np.random.default_rng(2)
    top, bottom = generator.lognormal(0.1, 0.02, 20), generator.lognormal(0, 0.02, 20)
    top[3] *= 50
    assert stats.paired_ratio(top, bottom, random_order(20)).value == pytest.approx(math.exp(0.1), rel=0.02)


def test_what_carries_over_between_rounds_widens_the_interval_by_the_ar1_factor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise = np.cumsum(np.random.default_rng(4).standard_normal(16)) / 100
    top, bottom, first = np.exp(noise), np.ones(16), random_order(16)
    wide = stats.paired_ratio(top, bottom, first)
    without_autocorrelation(monkeypatch)
    narrow = stats.paired_ratio(top, bottom, first)
    low, high = (np.log(e.interval) - np.log(e.value) for e in (narrow, wide))
    factor = high / low
    assert wide.value == narrow.value
    assert factor[0] == pytest.approx(factor[1])
    assert 1 < factor[0] <= math.sqrt((1 + stats.MAX_AUTOCORRELATION) / (1 - stats.MAX_AUTOCORRELATION))


def test_the_autocorrelation_is_that_of_neighbours_and_never_negative() -> None:
    assert stats.lag1_autocorrelation(np.array([1.0, -1.0] * 8)) == 0
    assert stats.lag1_autocorrelation(np.zeros(8)) == 0
    series = [0.0]
    for step in np.random.default_rng(5).standard_normal(20_000):
        series.append(0.5 * series[-1] + step)
    assert stats.lag1_autocorrelation(np.array(series)) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("top", "bottom", "rounds"), [(7, 7, 7), (8, 7, 8), (8, 8, 7)])
def test_too_few_or_unpaired_times_are_refused(top: int, bottom: int, rounds: int) -> None:
    with pytest.raises(ValueError, match="8 rounds or more of both, and their order, got"):
        stats.paired_ratio(np.ones(top), np.ones(bottom), random_order(rounds))


@pytest.mark.parametrize("time", [0.0, -1.0])
def test_times_that_are_not_positive_are_refused(time: float) -> None:
    for sides in ((np.ones(8), np.full(8, time)), (np.full(8, time), np.ones(8))):
        with pytest.raises(ValueError, match="positive"):
            stats.paired_ratio(*sides, random_order(8))


def test_over_processes_is_students_interval_of_logs() -> None:
    values = np.array([1.1, 1.3, 1.2, 1.25])
    estimate = stats.over_processes(values)
    expected = t.interval(0.95, 3, np.log(values).mean(), sem(np.log(values)))
    assert estimate.value == pytest.approx(math.exp(np.log(values).mean()))
    assert np.log(estimate.interval) == pytest.approx(expected)


def test_one_process_gives_no_interval_and_two_give_one() -> None:
    estimate = stats.over_processes(np.exp([0.0, 0.2]))
    assert np.log(estimate.interval) == pytest.approx((0.1 - 0.1 * t.ppf(0.975, 1), 0.1 + 0.1 * t.ppf(0.975, 1)))
    with pytest.raises(ValueError, match="2 processes or more, got 1"):
        stats.over_processes(np.array([1.0]))


def test_over_groups_the_interval_of_a_mean_of_logs_is_students() -> None:
    groups = [np.random.default_rng(i).lognormal(i / 10, 0.2, 50) for i in range(4)]
    [estimate] = stats.over_groups(groups, lambda pooled: np.array([np.exp(np.log(pooled).mean())]))
    expected = stats.over_processes(np.array([np.exp(np.log(group).mean()) for group in groups]))
    assert (estimate.value, *estimate.interval) == pytest.approx((expected.value, *expected.interval))


def test_the_median_over_groups_covers_when_processes_differ() -> None:
    generator = np.random.default_rng(6)
    covered = []
    for _ in range(400):
        groups = [np.exp(0.1 * generator.standard_normal() + 0.1 * generator.exponential(size=60)) for _ in range(4)]
        [estimate] = stats.over_groups(groups, lambda pooled: np.percentile(pooled, [50]))
        covered.append(holds(estimate.interval, math.exp(0.1 * math.log(2))))
    assert 0.91 <= np.mean(covered) <= 0.985  # 400 repetitions of 0.95 stay inside this 99.9 % of the time


@pytest.mark.parametrize("count", [6, 10, 16, 41])
def test_the_medians_interval_is_the_narrowest_pair_of_order_statistics_that_covers(count: int) -> None:
    low, high = stats.median_interval(np.arange(count, dtype=np.float64))
    assert low + high == count - 1
    outside = 2 * binom.cdf(low, count, 0.5)
    assert outside <= 0.05 < 2 * binom.cdf(low + 1, count, 0.5)


def test_the_median_of_five_has_no_interval() -> None:
    with pytest.raises(ValueError, match="6 values or more, got 5"):
        stats.median_interval(np.ones(5))


@pytest.mark.parametrize(("hits", "rows"), [(0, 5), (3, 9), (40, 40), (812, 1000)])
def test_the_interval_of_a_share_is_wilsons(hits: int, rows: int) -> None:
    expected = binomtest(hits, rows).proportion_ci(method="wilson")
    assert stats.share_interval(hits, rows) == pytest.approx((expected.low, expected.high))


def _mean(values: Floats) -> Floats:
    return np.array([values.mean()])


def test_bootstrap_of_two_blocks_is_the_list_of_all_resamples() -> None:
    # Two blocks can be drawn as aa, ab, ba, bb, and an interval from two reaches as far as they do.
    [estimate] = stats.block_bootstrap([np.array([1.0, 1.0]), np.array([2.0])], _mean, seed=0)
    assert estimate.value == pytest.approx(4 / 3)
    assert estimate.interval == (1.0, 2.0)


@pytest.mark.parametrize("blocks", [8, 20])
def test_the_block_bootstrap_covers_when_samples_of_a_block_go_together(blocks: int) -> None:
    generator = np.random.default_rng(blocks)
    covered = []
    for repetition in range(300):
        levels = generator.normal(size=blocks)  # all of a block's samples are the same: the worst dependence
        [estimate] = stats.block_bootstrap([np.full(5, x) for x in levels], _mean, repetition, draws=300)
        covered.append(holds(estimate.interval, 0.0))
    # 300 repetitions of 0.95 stay inside this 99.9 % of the time; the plain interval at 8 blocks is at 0.89.
    assert 0.905 <= np.mean(covered) <= 0.985


def test_equal_samples_leave_no_doubt() -> None:
    [estimate] = stats.block_bootstrap([np.full(3, 5.0)] * 4, _mean, seed=0)
    assert estimate == (5.0, 5.0, 5.0)


@pytest.mark.parametrize("units", [2, 8, 9])
def test_a_percentile_interval_is_expanded_by_the_factor_of_few_units(units: int) -> None:
    """The levels are those of a normal variable at Student's quantile times sqrt(n / (n - 1)) (Hesterberg, 2015)."""
    level = norm.cdf(t.ppf(0.025, units - 1) * math.sqrt(units / (units - 1)))
    draws = np.random.default_rng(units).permutation(np.linspace(0, 1, 1001))
    assert stats.percentile_interval(draws, units) == pytest.approx((level, 1 - level))
    assert level < 0.025


def test_an_interval_of_one_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="2 resampled units or more, got 1"):
        stats.percentile_interval(np.zeros(9), 1)


def test_counts_are_resampled_as_rows_would_be() -> None:
    counts = np.array([60, 30, 10])
    drawn = stats.resample_counts(counts, seed=0, draws=20_000)
    rows = np.repeat(np.arange(3), counts)
    picks = np.random.default_rng(1).integers(100, size=(20_000, 100))
    brute = np.stack([(rows[picks] == cell).sum(1) for cell in range(3)], axis=1)
    assert (drawn.sum(1) == 100).all()
    np.testing.assert_allclose(drawn.mean(0), brute.mean(0), atol=0.15)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(brute.T), atol=0.8)


def test_nothing_cannot_be_resampled() -> None:
    with pytest.raises(ValueError, match="no rows"):
        stats.resample_counts(np.zeros(3, dtype=np.int64), seed=0)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 5), (3, 3), (7, 2), (40, 61)])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    both = first + second
    expected = binomtest(min(first, second), both).pvalue if both else 1.0
    tail = sum(Fraction(math.comb(both, k), 2**both) for k in range(min(first, second) + 1))
    assert stats.mcnemar_p(first, second) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-12)
    assert stats.mcnemar_p(first, second) == stats.mcnemar_p(second, first) == pytest.approx(expected)


def test_mcnemar_takes_thousands_of_rows() -> None:
    assert stats.mcnemar_p(5000, 5000) == 1.0
    assert 0 < stats.mcnemar_p(4800, 5200) < 1e-4
