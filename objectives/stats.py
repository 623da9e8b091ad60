"""Estimates with intervals. All functions are pure and seeded, and state their assumptions.

Times come in blocks: calls next to each other share the machine's state, so they are not independent, and the
block is the unit that is resampled or paired. Intervals are 95 %, for a number of units fixed in advance.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from objectives.arrays import Floats
from objectives.estimate import Estimate

Blocks = Sequence[Sequence[Floats]]  # samples, by block, by process
Bools = NDArray[np.bool_]
Interval = tuple[float, float]

CONFIDENCE = 0.95

#: Fewest samples for a percentile to be reported: with 99 % confidence at least two of them lie above it.
MINIMUM_SAMPLES = {50: 1, 90: 64, 99: 662}

#: Below this no rank-sum interval reaches 95 % (4 against 4: 2 / 70 is below 0.05; 3 against 3: 2 / 20 is not).
MINIMUM_PAIRS = 8

#: Largest autocorrelation of neighbouring rounds that is corrected for.
MAX_AUTOCORRELATION = 0.8


def enough_for(percentile: int, samples: int) -> bool:
    """Whether `percentile` (50, 90 or 99) may be reported from this many samples."""
    return samples >= MINIMUM_SAMPLES[percentile]


def paired_ratio(numerator: Floats, denominator: Floats, first: Bools) -> Estimate:
    """Ratio of two positive quantities timed in rounds, one after the other, in randomised order.

    numerator, denominator: (n,), the two values of round i. first: (n,), whether the denominator came first in
    round i; it does in half of the rounds, drawn at random.

    The interval comes from randomisation inference (Fisher, 1935). Take the log ratio of the second to the first of
    each round: the rounds of the two orders are two samples that differ only in location, by twice the log ratio.
    This holds under drift, bursts and bimodal speed of the machine, and under noise of any shape that is equal on
    both sides. The estimate is half the Hodges-Lehmann shift, and the interval is that of the rank-sum test
    (Hollander, Wolfe & Chicken, 2014, section 4.3), exact at or just above 95 % and robust to outliers.
    Randomisation does not cover noise of one side that is autocorrelated over rounds: for an observed lag-1
    autocorrelation r the interval is widened by sqrt((1 + r) / (1 - r)), as for the mean of an AR(1) series.

    Raises:
        ValueError: fewer than `MINIMUM_PAIRS` rounds, different lengths, or a value that is not positive.
    """
    if not len(numerator) == len(denominator) == len(first) or len(first) < MINIMUM_PAIRS:
        lengths = f"{len(numerator)}, {len(denominator)} and {len(first)}"
        raise ValueError(f"need {MINIMUM_PAIRS} rounds or more of both, and their order, got {lengths}")
    if min(numerator.min(), denominator.min()) <= 0:
        raise ValueError("a ratio of times needs positive times")
    difference = np.log(numerator) - np.log(denominator)
    ours, theirs = difference[first], -difference[~first]  # second over first, by order
    shifts = np.sort((ours[:, None] - theirs).ravel()) / 2
    cut = rank_sum_cut(len(ours), len(theirs))
    low, middle, high = shifts[cut], np.median(shifts), shifts[len(shifts) - 1 - cut]
    of_order = np.median(ours[:, None] + theirs) / 2  # the effect of coming second
    r = lag1_autocorrelation(difference - middle - np.where(first, of_order, -of_order))
    wider = math.sqrt((1 + r) / (1 - r))
    ends = (middle, middle - wider * (middle - low), middle + wider * (high - middle))
    return Estimate(*(math.exp(end) for end in ends))


@functools.cache
def rank_sum_cut(one: int, other: int) -> int:
    """How many of the one * other ordered differences to drop at each end: the largest c with P(U <= c) <= 2.5 %.

    Raises:
        ValueError: too few rounds for an interval of 95 %.
    """
    # By hand: scipy.stats.mannwhitneyu gives the p-value of samples, and not the distribution of U.
    # ways[j][u]: of the ways to choose j of the values so far, how many have Mann-Whitney statistic u
    ways = [[0] * (one * other + 1) for _ in range(one + 1)]
    ways[0][0] = 1
    for values in range(one + other):
        for chosen in range(min(values, one - 1), -1, -1):
            below = values - chosen  # left out so far
            for u in range(one * other - below, -1, -1):
                if below <= other:
                    ways[chosen + 1][u + below] += ways[chosen][u]
    allowed = (1 - CONFIDENCE) / 2 * math.comb(one + other, one)
    total, cut = 0, -1
    while total + ways[one][cut + 1] <= allowed:
        cut += 1
        total += ways[one][cut]
    if cut < 0:
        raise ValueError(f"no interval of {one} against {other} rounds reaches {CONFIDENCE:.0%}")
    return cut


def lag1_autocorrelation(residuals: Floats) -> float:
    """Correlation of neighbours in (n,) residuals, between 0 and `MAX_AUTOCORRELATION`."""
    around = float((residuals**2).sum())
    if around == 0:
        return 0.0
    return min(MAX_AUTOCORRELATION, max(0.0, float((residuals[1:] * residuals[:-1]).sum()) / around))


def over_processes(values: Floats) -> Estimate:
    """Geometric mean, and its interval, of positive values (k,), one from each of k >= 2 fresh processes.

    Student's interval on logs. The process is the unit, because its memory layout shifts all of its times by an amount
    that times within the process do not show. Autocorrelation within a process does not matter then.
    """
    logs = np.log(values)
    return _student(float(logs.mean()), logs)


def over_groups(groups: Sequence[Floats], statistic: Callable[[Floats], Floats]) -> list[Estimate]:
    """`statistic` of all samples pooled, its k positive values each with an interval over the groups.

    Student's interval on logs around the pooled value, with the standard error of the groups' own values (random
    groups: Wolter, 2007, "Introduction to Variance Estimation", section 2.4). Unlike a jackknife it stays valid
    where the statistic is not smooth, as is the median of bimodal times.
    """
    pooled = np.log(statistic(np.concatenate(groups)))
    own = np.log([statistic(group) for group in groups])  # (groups, k)
    return [_student(float(value), column) for value, column in zip(pooled, own.T, strict=True)]


def _student(middle: float, logs: Floats) -> Estimate:
    """exp of `middle`, with Student's interval from the standard error of (k,) independent values."""
    if len(logs) < 2:
        raise ValueError(f"an interval needs 2 processes or more, got {len(logs)}")
    from scipy.special import stdtrit

    # By hand: scipy.stats.t.interval has no value where all logs are equal, and this has one of no width.
    reach = float(stdtrit(len(logs) - 1, (1 + CONFIDENCE) / 2)) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return Estimate(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach))


def median_interval(values: Floats) -> Interval:
    """Interval of the median of the distribution of (n,) independent values, n >= 6 (Thompson, 1936).

    Two order statistics, from the binomial distribution of how many values lie below the median.
    """
    from scipy.stats import quantile_test

    low, high = quantile_test(values, p=0.5).confidence_interval(CONFIDENCE)
    if math.isnan(low) or math.isnan(high):
        raise ValueError(f"an interval of the median needs 6 values or more, got {len(values)}")
    return float(low), float(high)


def block_bootstrap(
    blocks: Sequence[Floats], statistic: Callable[[Floats], Floats], seed: int, draws: int = 1000
) -> list[Estimate]:
    """`statistic` of all samples pooled, its k values each with an interval from resampled blocks.

    Assumes exchangeable blocks; samples within one may depend on each other in any way.
    """
    # By hand: scipy.stats.bootstrap resamples single values, and blocks may differ in length.
    pooled = statistic(np.concatenate(blocks))
    picks = np.random.default_rng(seed).integers(len(blocks), size=(draws, len(blocks)))
    drawn = np.stack([statistic(np.concatenate([blocks[i] for i in pick])) for pick in picks])
    return [
        Estimate(float(value), *percentile_interval(column, len(blocks)))
        for value, column in zip(pooled, drawn.T, strict=True)
    ]


def pooled(processes: Blocks, statistic: Callable[[Floats], Floats], seed: int) -> list[Estimate]:
    """`statistic` of all samples, its k values with intervals over processes, or over blocks of a single process."""
    if len(processes) == 1:
        return block_bootstrap(processes[0], statistic, seed)
    return over_groups([np.concatenate(blocks) for blocks in processes], statistic)


def percentile_interval(draws: Floats, units: int) -> Interval:
    """Bootstrap percentile interval from `draws` (d,), widened for few resampled `units`.

    The plain interval of n units is too narrow by about sqrt((n - 1) / n) * z / t, so at n = 8 it covers 0.89
    and not 0.95. The "expanded" one moves the levels out (Hesterberg, 2015, "What teachers should know about
    the bootstrap", The American Statistician 69).
    """
    if units < 2:
        raise ValueError(f"an interval needs 2 resampled units or more, got {units}")
    from scipy.special import ndtr, stdtrit

    # By hand: scipy.stats.bootstrap has the plain percentile interval, which is too narrow here.
    tail = (1 - CONFIDENCE) / 2
    level = float(ndtr(math.sqrt(units / (units - 1)) * stdtrit(units - 1, tail)))
    low, high = np.quantile(draws, [level, 1 - level])
    return float(low), float(high)


def resample_counts(counts: NDArray[np.int64], seed: int, draws: int = 2000) -> NDArray[np.int64]:
    """Bootstrap of rows that fall into cells: (cells,) counts to (draws, cells).

    Drawing n rows with replacement and counting them again is a multinomial draw, whatever n is.
    """
    total = int(counts.sum())
    if total == 0:
        raise ValueError("nothing to resample: there are no rows")
    return np.random.default_rng(seed).multinomial(total, counts / total, size=draws)


def share_interval(hits: int, rows: int) -> Interval:
    """Interval of the chance of a hit, from `hits` in `rows` (Wilson, 1927)."""
    from scipy.stats import binomtest

    low, high = binomtest(hits, rows).proportion_ci(CONFIDENCE, method="wilson")
    return float(low), float(high)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value that two classifiers are right equally often (McNemar, 1947).

    Given the numbers of rows that only the first, and only the second, gets right.
    """
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
