"""The limits of the configuration: sentences for those that an outcome breaks, and constraint values for samplers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from objectives import objective_named
from objectives.measurement import Measurement
from objectives.memory import PEAK_MEMORY
from objectives.quality import metric_named
from search.config.schema import LimitsConfig
from search.front.outcome import LATENCY, LOSS, PREDICTED_TIMES, Outcome
from search.prepare.prepared import Prepared

#: Share by which the peak memory of two processes that hold models of the same shapes may differ.
MEMORY_SPREAD = 0.02


@dataclass(frozen=True)
class Limit:
    """One bound on a measurement; `sign` is 1 for an upper bound and -1 for a lower one."""

    key: str
    measurement: str
    bound: float
    sign: int
    sentence: Callable[[float, float], str]

    def violation(self, value: float) -> float:
        """How far `value` is beyond the bound, in the measurement's unit; at most 0 inside it."""
        return self.sign * (value - self.bound)


def limits_of(wanted: LimitsConfig, metric: str) -> tuple[Limit, ...]:
    """The limits that are set, always in the same order."""
    lost = metric_named(metric).loss_unit
    every = (
        _most("max_latency_ms", LATENCY, wanted.max_latency_ms, "latency {:.2f} ms", "{:g} ms"),
        _most("max_loss", LOSS, wanted.max_loss, f"loss {{:.2f}} {lost}", f"{{:g}} {lost}"),
        _least_accuracy(metric, wanted.min_accuracy),
        _most("max_size_mb", "size_mb", wanted.max_size_mb, "size {:.1f} MB", "{:g} MB"),
        _most("max_memory_mb", "peak_memory_mb", wanted.max_memory_mb, "peak memory {:.1f} MB", "{:g} MB"),
        _most("max_ttft_ms", "ttft_ms", wanted.max_ttft_ms, "time to the first token {:.2f} ms", "{:g} ms"),
        _most("max_tpot_ms", "tpot_ms", wanted.max_tpot_ms, "time of a later token {:.2f} ms", "{:g} ms"),
    )
    named = (limit for limit in every if limit is not None)
    return (*named, *(_other(name, bound) for name, bound in wanted.others.items()))


def limits_of_times(wanted: LimitsConfig, metric: str) -> tuple[Limit, ...]:
    """The limits of median times of the main workload, which depend on the sizes of a model alone."""
    return tuple(limit for limit in limits_of(wanted, metric) if limit.measurement in PREDICTED_TIMES)


def limits_of_shapes(wanted: LimitsConfig, metric: str) -> tuple[Limit, ...]:
    """The limits of what untrained weights of the same shapes have too: of times, and of memory at its peak."""
    alike = (*PREDICTED_TIMES, PEAK_MEMORY.name)
    return tuple(limit for limit in limits_of(wanted, metric) if limit.measurement in alike)


def measured_for(wanted: LimitsConfig) -> tuple[str, ...]:
    """The measurements that are bounded and that not every model has."""
    named = {"peak_memory_mb": wanted.max_memory_mb, "ttft_ms": wanted.max_ttft_ms, "tpot_ms": wanted.max_tpot_ms}
    return (*(name for name, bound in named.items() if bound is not None), *wanted.others)


def _most(key: str, measurement: str, bound: float | None, value: str, limit: str) -> Limit | None:
    """An upper bound; `value` and `limit` are the formats of their numbers."""
    say = f"{value} is over the limit of {limit}".format
    return None if bound is None else Limit(key, measurement, bound, 1, say)


def _least_accuracy(metric: str, bound: float | None) -> Limit | None:
    def say(value: float, least: float) -> str:
        return f"{metric} {100 * value:.1f} % is under the limit of {100 * least:g} %"

    return None if bound is None else Limit("min_accuracy", metric, bound, -1, say)


def _other(name: str, bound: float) -> Limit:
    """A bound on any objective."""
    objective = objective_named(name)
    upper = objective.better == "lower"
    side = "over" if upper else "under"

    def say(value: float, limit: float) -> str:
        return f"{name} {value:.4g} {objective.unit} is {side} the limit of {limit:g} {objective.unit}"

    return Limit(name, name, bound, 1 if upper else -1, say)


def broken(wanted: LimitsConfig, metric: str, outcome: Outcome) -> tuple[str, ...]:
    """A sentence for every limit that a complete outcome breaks."""
    sentences = []
    for limit in limits_of(wanted, metric):
        value = outcome.value(limit.measurement)
        if limit.violation(value) > 0:
            sentences.append(limit.sentence(value, limit.bound))
    return tuple(sentences)


def surely_broken(limits: Iterable[Limit], measurements: Mapping[str, Measurement]) -> tuple[str, ...]:
    """A sentence for every upper limit that the whole interval of its measurement is over.

    Memory is read once, so its interval is `MEMORY_SPREAD` wide.
    """
    return tuple(
        limit.sentence(measurements[limit.measurement].value, limit.bound)
        for limit in limits
        if limit.measurement in measurements and _lowest(measurements[limit.measurement]) > limit.bound
    )


def _lowest(measured: Measurement) -> float:
    spread = MEMORY_SPREAD if measured.objective == PEAK_MEMORY.name else 0.0
    return measured.interval[0] * (1 - spread)


def violations(prepared: Prepared, outcome: Outcome) -> Mapping[str, float]:
    """Constraint values by limit, at most 0 inside it; 0 where a rejected trial was not measured."""
    measurements = outcome.measurements
    return {
        limit.key: limit.violation(measurements[limit.measurement].value) if limit.measurement in measurements else 0.0
        for limit in limits_of(prepared.config.limits, prepared.metric)
    }
