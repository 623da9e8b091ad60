"""How values and recipes are written for people: in tables, pictures, and reasons."""

from __future__ import annotations

from objectives.estimate import Estimate
from objectives.measurement import Measurement
from objectives.quality import metrics
from search.front.outcome import LATENCY
from spaces.recipe import Recipe, Step

#: Names of measurements, other than metrics, in tables and plots.
MEASUREMENT_TITLES = {
    "latency_p50_ms": "latency",
    "latency_p90_ms": "p90 latency",
    "latency_p99_ms": "p99 latency",
    "generate_ms": "generation",
    "ttft_ms": "time to first token",
    "tpot_ms": "time per token",
    "tpot_p90_ms": "p90 time per token",
    "tpot_p99_ms": "p99 time per token",
    "tokens_per_s": "tokens a second",
    "throughput_per_s": "throughput",
    "first_call_ms": "first call",
    "compile_ms": "compilation",
    "prepare_s": "preparation",
    "cache_kb_per_token": "cache a token",
    "cache_mb": "cache",
    "size_mb": "size",
    "params": "parameters",
    "peak_memory_mb": "peak memory",
    "weights_memory_mb": "memory of weights",
    "activations_memory_mb": "memory of activations",
    "energy_mj": "energy a row",
    "floor_ms": "roofline floor",
    "roofline_fraction": "roofline reached",
    "decode_roofline_fraction": "roofline of a token",
    "quality_loss": "loss",
}


def title(objective: str) -> str:
    """`objective` in words: "latency" for "latency_p50_ms", "latency at b32" for "latency_p50_ms/b32"."""
    plain, mark = objective.partition("/")[::2]
    titles = {**MEASUREMENT_TITLES, **{metric.name: metric.title for metric in metrics()}}
    return titles.get(plain, plain.replace("_", " ")) + (f" at {mark}" if mark else "")


def in_time(text: str, time: str) -> str:
    """`text` about a speedup, with the time that it is of where that is not `LATENCY`: "x eager in time per token"."""
    return text if time == LATENCY else f"{text} in {title(time)}"


def quantity(value: float, unit: str) -> str:
    """`value` with its unit, to three significant digits: "83.1 %" for a fraction, "4.21 ms", "22.7 M"."""
    if unit == "fraction":
        return f"{100 * value:.1f} %"
    if unit == "count":
        return scaled(value)
    return f"{significant(value)} {unit}".strip()


def significant(value: float) -> str:
    """Three significant digits without an exponent: 0.0123, 4.21, 90.9, 1234."""
    size = abs(value)
    if size == 0 or size >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if 1 <= size < 10 else f"{value:.1f}" if size >= 10 else f"{value:.3g}"


def scaled(count: float) -> str:
    """A count to three significant digits: 22.7 M, 512."""
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(count) >= limit:
            return significant(count / limit) + suffix
    return f"{count:.0f}"


def text(measurement: Measurement) -> str:
    """The value of a measurement with its unit (`quantity`)."""
    return quantity(measurement.value, measurement.unit)


def interval(measurement: Measurement) -> str:
    """The 95 % interval alone, "82.1 to 84.0 %"; "" where it has no width."""
    low, high = measurement.interval
    if low == high:
        return ""
    first, second = quantity(low, measurement.unit), quantity(high, measurement.unit)
    unit = second.partition(" ")[2]
    return f"{first.removesuffix(unit).strip()} to {second}"


def chance(loss: Measurement) -> str:
    """How likely a loss is between equally good models: "p = 0.03 (exact McNemar test of the rows that are right)"."""
    p, test = loss.conditions.get("p"), loss.conditions.get("test")
    return "" if p is None else f"p = {p:.2g} ({test})"


def times(estimate: Estimate | None) -> str:
    """A speedup: "2.41x", or "" when there is none."""
    return f"{estimate.value:.{2 if estimate.value < 10 else 1}f}x" if estimate else ""


def describe(recipe: Recipe) -> str:
    """A recipe in one line: "distill layers 3 · sparse weights 0.5 (size only) · onnx · static cache"."""
    steps = [_step(step) for step in recipe.steps if step.name != "cache"] or ["uncompressed"]
    return " · ".join([*steps, _step(recipe.runtime), *cache_text(recipe)])


def cache_text(recipe: Recipe) -> list[str]:
    """Its cache, where it names one: ["int8 cache, recent 64"]."""
    step = recipe.step("cache")
    if step is None:
        return []
    others = (f"{name} {value}" for name, value in step.settings.items() if name != "kind")
    return [", ".join([f"{step.settings.get('kind', 'dynamic')} cache", *others])]


def _step(step: Step) -> str:
    # Measured costs are part of a recipe, but nobody chooses them.
    chosen = {name: value for name, value in step.settings.items() if name != "costs"}
    phrase = " ".join([step.name, *(f"{name} {value}" for name, value in chosen.items())])
    return f"{phrase} (size only)" if step.name == "sparse" and "pattern" not in step.settings else phrase
