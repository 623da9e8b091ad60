"""The time of a trial: how long each workload is timed, and in which stage each second counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from objectives import latency, memory, stats
from objectives.estimate import Estimate
from search.config.schema import LimitsConfig
from search.front.outcome import LATENCY
from search.measure import measurer, timing
from search.measure.measurer import Measurer, Stopwatch
from search.measure.timing import Timings
from spaces.recipe import Recipe
from spaces.runtime import Context

from . import factory

ONE_LENGTH = [{"input_ids": np.zeros((1, 8), np.int64)} for _ in range(16)]
MANY_LENGTHS = [{"input_ids": np.zeros((1, 8 + n), np.int64)} for n in range(16)]


def timings(monkeypatch: pytest.MonkeyPatch, ms: Mapping[str, float], inputs: Mapping[str, list[Any]]) -> Timings:
    """Timings under workloads whose calls of the baseline take `ms`, by mark."""
    monkeypatch.setattr(Timings, "marks", tuple(mark for mark in ms if mark))
    monkeypatch.setattr(Timings, "inputs", lambda self, mark: (inputs[mark], {"device": "cpu"}))
    references = {mark: SimpleNamespace(estimate=Estimate(one, one, one)) for mark, one in ms.items()}
    monkeypatch.setattr(Timings, "reference", lambda self, mark: references[mark])
    monkeypatch.setattr(timing, "model_sizes", lambda folder: None)
    measure = SimpleNamespace(quick_s=1.5, final_s=2.4)
    return Timings(cast(Any, SimpleNamespace(config=SimpleNamespace(seed=0, measure=measure))), cast(Any, None))


@pytest.mark.parametrize(
    ("ms", "b32", "few"),
    [
        ({"": 10.0, "b32": 700.0}, ONE_LENGTH, ["b32"]),
        ({"": 700.0, "b32": 10.0}, ONE_LENGTH, [""]),
        ({"": 10.0, "b32": 40.0}, MANY_LENGTHS, ["b32"]),
        ({"": 10.0, "b32": 40.0}, ONE_LENGTH, []),
    ],
)
def test_a_workload_has_few_blocks_where_its_own_take_long(
    monkeypatch: pytest.MonkeyPatch, ms: Mapping[str, float], b32: list[Any], few: list[str]
) -> None:
    blocks: list[int] = []

    def measure(candidate: object, baseline: object, inputs: object, protocol: Any, *_: object) -> dict[str, Any]:
        blocks.append(protocol.blocks)
        return {LATENCY: factory.measurement(LATENCY, 1.0, unit="ms")}

    monkeypatch.setattr(latency, "measure", measure)
    timed = timings(monkeypatch, ms, {"": ONE_LENGTH, "b32": b32})
    measured = timed.quick(cast(Any, lambda device: nullcontext((None, None))), factory.recipe(), Path("weights"))
    assert set(measured) == {LATENCY, f"{LATENCY}/b32"}
    usual = latency.QUICK.blocks
    assert blocks == [stats.MINIMUM_PAIRS if mark in few else usual for mark in ("", "b32")]


def test_the_campaign_of_a_workload_has_the_calls_that_its_own_lengths_need(monkeypatch: pytest.MonkeyPatch) -> None:
    times = timings(monkeypatch, {"": 10.0, "ldata": 10.0}, {"": ONE_LENGTH, "ldata": MANY_LENGTHS})
    assert (times.plan("").minimum, times.plan("ldata").minimum) == (1, 16)
    assert times.plan_after_export.minimum == 1 and times.plan_after_export.sets == 1
    other = timings(monkeypatch, {"": 10.0, "l8": 10.0}, {"": MANY_LENGTHS, "l8": ONE_LENGTH})
    assert (other.plan("").minimum, other.plan("l8").minimum, other.plan_after_export.minimum) == (16, 1, 16)


def test_every_second_of_a_trial_counts_in_one_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a runtime makes are made while its process is prepared."""
    now, watch = [0.0], Stopwatch()
    monkeypatch.setattr(measurer, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def takes(seconds: float, result: Any = None) -> Any:
        def step(*_: object) -> Any:
            now[0] += seconds
            return result

        return step

    @contextmanager
    def opened(self: object, recipe: Recipe, folder: Path) -> Iterator[object]:
        takes(1.0)()
        with watch.timed("export"):
            takes(30.0)()
        takes(2.0)()
        yield object()

    nothing = SimpleNamespace(find=lambda recipe, folder: None, keep=lambda recipe, folder, measurements: None)
    monkeypatch.setattr(measurer, "Reuse", lambda prepared, times: nothing)
    monkeypatch.setattr(memory, "memory", lambda bench: {})
    monkeypatch.setattr(Measurer, "opened", opened)
    for name, step in {"timings": takes(5.0, {}), "output": takes(7.0), "qualities": takes(0.0, {})}.items():
        monkeypatch.setattr(Measurer, name, step)
    monkeypatch.setattr(Measurer, "sizes", takes(0.0, {}))
    prepared = SimpleNamespace(
        context=Context(),
        store=None,
        task=SimpleNamespace(generates=False),
        config=SimpleNamespace(objectives=(LATENCY,), limits=LimitsConfig()),
    )
    measures = Measurer(cast(Any, prepared), lambda stage, done: None, lambda: 60.0, watch)
    measures.measured(factory.recipe({"bits": {"precision": "int8"}}, "onnx"), Path("weights"))
    assert watch.seconds == {"export": 30.0, "prepare": 3.0, "latency": 5.0, "quality": 7.0}
    assert sum(watch.seconds.values()) == now[0]
