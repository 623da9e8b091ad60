"""Latencies relative to a reference time of the baseline, so that times of different moments can be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from objectives.estimate import Estimate
from objectives.generation_times import GENERATE, TOKEN_OBJECTIVES, whole_call
from objectives.latency import P50, P90, P99, SPEEDUP_RATIO, THROUGHPUT, of_workload, renamed
from objectives.measurement import Measurement


def at_speed_of(reference: Estimate, timed: Mapping[str, Measurement]) -> dict[str, Measurement]:
    """`timed` scaled to the machine speed at which the baseline takes `reference` ms; unchanged without a baseline.

    The speed of a machine changes from one minute to the next, on some by a third or more, and both sides of a pair
    change with it. So times of different moments are compared relative to the baseline that was timed beside each: the
    median is the reference over the speedup, and the tail and the throughput are scaled by the same factor. The
    intervals combine their own error with the reference's, in quadrature on the log scale.
    `as_timed`, `reference_ms` and `reference_interval` join the conditions.
    """
    ratio = timed.get(SPEEDUP_RATIO.name)
    if ratio is None:
        return dict(timed)
    by_clock = {
        o.name: as_timed(timed[o.name]) for o in (P50, P90, P99, THROUGHPUT, *TOKEN_OBJECTIVES) if o.name in timed
    }
    median = reference.value / ratio.value
    slower = median / by_clock[P50.name].value

    def scaled(figure: Measurement, value: float, below: float, above: float) -> Measurement:
        """`below` and `above`: how far the interval reaches on the log scale without the reference's error."""
        down, up = _reach(reference)
        if figure.better == "higher":
            down, up = up, down
        ends = (value * math.exp(-math.hypot(below, down)), value * math.exp(math.hypot(above, up)))
        was = {"as_timed": figure.value, "as_timed_interval": [*figure.interval]}
        by = {"reference_ms": reference.value, "reference_interval": [*reference.interval]}
        return replace(figure, value=value, interval=ends, conditions={**figure.conditions, **was, **by})

    below, above = _reach(ratio.estimate)
    figures = {P50.name: scaled(by_clock[P50.name], median, above, below)}
    for objective in (P90, P99, THROUGHPUT, *TOKEN_OBJECTIVES):
        if objective.name in by_clock:
            figure = by_clock[objective.name]
            factor = slower if objective.better == "lower" else 1 / slower
            figures[objective.name] = scaled(figure, figure.value * factor, *_reach(figure.estimate))
    if GENERATE.name in timed:
        figures[GENERATE.name] = whole_call(figures[P50.name])
    return {**timed, **figures}


def as_timed(figure: Measurement) -> Measurement:
    """The clock time of a measurement that may be scaled to a reference, without the reference's error."""
    if "as_timed_interval" not in figure.conditions:
        return figure
    low, high = figure.conditions["as_timed_interval"]
    return replace(figure, value=figure.conditions["as_timed"], interval=(low, high))


def own_estimate(figure: Measurement) -> Estimate:
    """The value of a measurement with the interval of its own error alone, without that of its reference."""
    clock = as_timed(figure)
    low, high = (end * figure.value / clock.value for end in clock.interval)
    return Estimate(figure.value, low, high)


def at_speeds_of(references: Mapping[str, Estimate], measured: Mapping[str, Measurement]) -> dict[str, Measurement]:
    """`measured` with the latencies of each workload scaled to its reference (ms), which is given by workload mark."""
    counted = dict(measured)
    for mark, reference in references.items():
        own = of_workload(measured, mark)
        if P50.name in own:
            counted |= renamed(at_speed_of(reference, own), mark)
    return counted


def _reach(estimate: Estimate) -> tuple[float, float]:
    """How far the interval reaches below and above, on the log scale."""
    return math.log(estimate.value / estimate.low), math.log(estimate.high / estimate.value)


def reference_error(timed: Measurement) -> float:
    """Relative standard error of the reference that a latency is scaled to; 0 for an unscaled clock time."""
    low, high = timed.conditions.get("reference_interval", (1.0, 1.0))
    return math.log(high / low) / (2 * 1.96)
