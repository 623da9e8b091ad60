"""The simulated service: its bound, and what policies reach in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from search.serve.batching import Limits
from search.serve.policy import BacklogFit, Fixed
from search.serve.variants import Variant
from tests.worlds.arrivals import SHAPES, Arrivals, made_up_trace, read_trace, scaled, shaped
from tests.worlds.oracle import upper_bound
from tests.worlds.policies import SlackFit, Thresholds
from tests.worlds.serving import Machine, simulate

VARIANTS = tuple(
    Variant(number, 1 - loss / 100, loss, ((1, ms / 1e3),), 32, 1.5)
    for number, ms, loss in ((7, 0.5, 25), (3, 1, 20), (9, 3, 15))
)
LIMITS = Limits(slo_s=0.04, max_batch=16)
#: Calls that take exactly the front's times.
EXACT = Machine(speed=(1, 1), variant_sd=0, dispatch_s=0, stall=(0, 1))


def load(machine: Machine, shape: str, duration_s: float = 1.0) -> Arrivals:
    return shaped(shape, machine.capacity(VARIANTS[-1], 16, [32]), duration_s, 32, machine.seed)


@pytest.mark.parametrize("shape", SHAPES)
def test_ours_keeps_the_objective_where_the_most_accurate_variant_breaks(shape: str) -> None:
    machine = Machine(seed=1)
    arrivals = load(machine, shape)
    ours = simulate(arrivals, VARIANTS, BacklogFit(), LIMITS, machine)
    accurate, fastest = (
        simulate(arrivals, VARIANTS, Fixed(v.number), LIMITS, machine) for v in (VARIANTS[-1], VARIANTS[0])
    )
    bound, answered = upper_bound(arrivals, VARIANTS, LIMITS, machine)
    assert ours.attainment > 0.98 and accurate.attainment < 0.9
    assert fastest.effective_quality < ours.effective_quality <= bound and answered >= ours.attainment - 1e-9
    assert ours.offered == ours.in_time + ours.late + ours.refused + ours.dropped


def test_no_policy_exceeds_the_bound() -> None:
    for seed, shape in enumerate(SHAPES):
        machine = Machine(seed=seed)
        arrivals = load(machine, shape)
        bound = upper_bound(arrivals, VARIANTS, LIMITS, machine)[0]
        for policy in (BacklogFit(), Thresholds(LIMITS.slo_s), SlackFit(), *(Fixed(v.number) for v in VARIANTS)):
            assert simulate(arrivals, VARIANTS, policy, LIMITS, machine).effective_quality <= bound


def test_the_bound_of_few_requests_is_what_can_be_counted_by_hand() -> None:
    alone = Arrivals(np.array([0.0, 1.0]), np.array([32, 32]))
    assert upper_bound(alone, VARIANTS, LIMITS, EXACT) == pytest.approx((0.85, 1.0))
    # One variant of 1 ms a row, 3 ms to live: three of five that come together.
    flat = (Variant(0, 0.9, 10, ((1, 1e-3), (64, 64e-3)), 32, 1.0),)
    together = Arrivals(np.zeros(5), np.full(5, 32))
    tight = Limits(slo_s=0.003, max_batch=1)
    assert upper_bound(together, flat, tight, EXACT) == pytest.approx((0.9 * 3 / 5, 3 / 5), rel=1e-3)


def test_the_queue_is_bounded_in_overload_and_empties_behind_it() -> None:
    machine = Machine(seed=2)
    capacity = machine.capacity(VARIANTS[-1], 16, [32])
    heavy = shaped("steady", 10 * capacity, 0.5, 32, 0)
    later = shaped("steady", 0.1 * capacity, 1.0, 32, 1)
    both = Arrivals(
        np.concatenate([heavy.times_s, 0.6 + later.times_s]), np.concatenate([heavy.lengths, later.lengths])
    )
    result = simulate(both, VARIANTS, BacklogFit(), LIMITS, machine)
    assert result.refused > 0 and result.most_waiting <= LIMITS.max_queue
    assert np.quantile(result.latencies_s, 0.99) < 1.1 * LIMITS.slo_s
    last = [number for time, number, _ in result.batches if time > 0.7]
    assert last and last.count(9) > 0.9 * len(last)


def two_like_variants(rows: int) -> tuple[Variant, ...]:
    """Two variants whose times are near each other; 16 rows together take as long as `rows` alone."""
    return tuple(
        Variant(number, 1 - loss / 100, loss, ((1, ms / 1e3), (16, rows * ms / 1e3)), 32, 1.2)
        for number, ms, loss in ((9, 9, 12), (5, 13, 2))
    )


def test_a_burst_finds_a_short_queue() -> None:
    # A queue that the slower of two like variants has filled cannot be drained in time.
    limits, variants = Limits(slo_s=0.2), two_like_variants(12)
    bursts = shaped("bursts", 40.0, 40.0, 32, 0)
    attained = {
        hold: simulate(bursts, variants, BacklogFit(hold=hold), limits, EXACT).attainment
        for hold in (BacklogFit().hold, 1.0)
    }
    assert attained[BacklogFit().hold] > 0.99 > attained[1.0]


def test_where_batches_gain_nothing_a_burst_is_answered_in_time_row_by_row() -> None:
    variants = two_like_variants(16)
    bursts = shaped("bursts", 31.0, 40.0, 32, 0)
    result = simulate(bursts, variants, BacklogFit(), Limits(slo_s=0.2), EXACT)
    # In batches of up to seven rows it was 98.7 %.
    assert {size for _, _, size in result.batches} == {1} and result.attainment > 0.995


def test_a_trace_is_scaled_without_losing_its_bursts() -> None:
    trace = made_up_trace()
    for seed in range(3):
        fast = scaled(trace, 500.0, 32, seed)
        assert len(fast) / fast.times_s[-1] == pytest.approx(500, rel=0.01)
        whole, compressed = np.diff(trace.times_s), np.diff(fast.times_s)
        assert np.std(compressed) / np.mean(compressed) == pytest.approx(np.std(whole) / np.mean(whole), rel=0.02)
        assert fast.lengths.min() >= 4 and fast.lengths.max() <= 128


def test_a_trace_is_read_from_text_as_from_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = {"seconds": [5.0, 5.5, 7.25], "context_tokens": [10, 300, 20]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")
    lines = ["seconds,context_tokens", *(f"{s},{n}" for s, n in zip(*table.values(), strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    for name in ("t.parquet", "t.csv"):
        read = read_trace(tmp_path / name)
        assert read.times_s.tolist() == [0, 0.5, 2.25] and read.lengths.tolist() == [10, 300, 20]


def test_what_is_taken_in_an_overload_is_in_time() -> None:
    random = np.random.default_rng(0)
    for seed in range(3):
        machine = Machine(seed=seed)
        capacity = machine.capacity(VARIANTS[0], 16, [32])
        heavy = np.cumsum(random.exponential(1 / (5 * capacity), int(5 * capacity)))
        calm = heavy[-1] + np.cumsum(random.exponential(2 / capacity, int(capacity)))
        times = np.concatenate([heavy, calm])
        result = simulate(Arrivals(times, np.full(len(times), 32)), VARIANTS, BacklogFit(), LIMITS, machine)
        # It was 4 to 6 % where only the call of the row itself was expected to take its 99th percentile.
        assert (result.late + result.dropped) / (result.offered - result.refused) < 0.025
        assert result.refused > 0.5 * len(heavy)
