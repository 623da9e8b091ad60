"""A job's steps: what they may take together, and what is not trained because it would be too slow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from objectives.measurement import Measurement
from objectives.process import RemoteTimeout
from search.config.schema import LimitsConfig
from search.execute import evaluate
from search.execute.evaluate import Evaluator
from search.front.outcome import LATENCY, Outcome, Target
from search.loop import Job
from search.measure import measurer
from search.measure.measurer import Measurer, Stopwatch
from spaces.base import WEIGHTS
from spaces.recipe import Recipe, Step
from spaces.runtime import Context

from . import factory

TRAINED = factory.recipe({"distill": {"layers": 3}})
SIBLINGS = tuple(factory.recipe({"distill": {"layers": 3}}, runtime) for runtime in ("onnx", "openvino"))
#: Of every model here.
LATER = factory.measurement("tpot_ms", 2.0, 0.1, "ms")


class World:
    """A clock, and a weights builder and a measurer that take time by it and keep to their limit as processes do."""

    def __init__(self, weights_s: float = 4.0, measuring_s: float = 3.0) -> None:
        self.now = 1000.0
        self.takes = {"weights": weights_s, "untrained": 0.5, "measuring": measuring_s}
        self.done: list[str] = []
        self.latency: Callable[[Recipe], float] = lambda recipe: 5.0
        self.accuracy = 0.8
        self.peak_mb = 300.0
        self.shares: tuple[float, ...] = ()
        self.limit_s: Callable[[], float]

    def weights_builder(self, setting: Any, progress: Any, limit_s: Callable[[], float]) -> Any:
        self.limit_s = limit_s
        return self

    def measurer(self, setting: Any, progress: Any, limit_s: Callable[[], float], watch: Any) -> Any:
        return self

    def step(self, name: str) -> None:
        left = self.limit_s()
        self.now += min(left, self.takes[name])
        if left < self.takes[name]:
            raise RemoteTimeout(left)
        self.done.append(name)

    def get_or_build(self, recipe: Recipe) -> Path:
        self.step("weights" if recipe.recover else "untrained")
        return Path("weights")

    def measured(self, recipe: Recipe, folder: Path) -> dict[str, Measurement]:
        self.step("measuring")
        peak = factory.measurement("peak_memory_mb", self.peak_mb, unit="MB")
        figures = factory.measurements(self.accuracy, self.latency(recipe))
        return {**figures, "tpot_ms": LATER, "peak_memory_mb": peak}

    @contextmanager
    def opened(self, recipe: Recipe, folder: Path) -> Iterator[object]:
        yield self

    def call(self, method: str) -> dict[str, Any]:
        """What a process says of its memory, as an opened model."""
        assert method == "info"
        memory = {"empty_mb": 100.0, "opened_mb": 150.0, "peak_rss_mb": self.peak_mb}
        return {"device": "cpu", "peak_since": "opened", **memory}

    def timings(self, bench: object, recipe: Recipe, folder: Path) -> dict[str, Measurement]:
        figures = factory.measurements(0.8, self.latency(recipe))
        return {**{name: figures[name] for name in (LATENCY, "speedup")}, "tpot_ms": LATER}


def evaluator(world: World, monkeypatch: pytest.MonkeyPatch, **budget: float) -> Evaluator:
    monkeypatch.setattr(evaluate, "WeightsBuilder", world.weights_builder)
    monkeypatch.setattr(evaluate, "Measurer", world.measurer)
    monkeypatch.setattr(evaluate, "trained_s", lambda folder: world.takes["weights"])
    monkeypatch.setattr(evaluate, "digest_in", lambda folder, name: "digest")
    monkeypatch.setattr(evaluate, "broken", lambda limits, metric, outcome: ())
    monkeypatch.setattr(evaluate, "time", SimpleNamespace(monotonic=lambda: world.now))
    config = SimpleNamespace(
        budget=SimpleNamespace(trial_timeout=budget.get("trial_timeout", 1800.0)),
        limits=LimitsConfig(
            max_latency_ms=budget.get("max_latency_ms"),
            max_tpot_ms=budget.get("max_tpot_ms"),
            max_ttft_ms=budget.get("max_ttft_ms"),
            max_memory_mb=budget.get("max_memory_mb"),
        ),
    )
    targets = (Target("accuracy", "higher"), Target(LATENCY, "lower"))
    setting = SimpleNamespace(config=config, targets=targets, metric="accuracy", written=str)
    clock = SimpleNamespace(search_deadline=None if "ends" not in budget else world.now + budget["ends"])
    return Evaluator(cast(Any, setting), lambda stage, done: None, cast(Any, clock))


def told(outcomes: Iterator[Outcome]) -> list[tuple[str, str]]:
    return [(outcome.status, outcome.reason) for outcome in outcomes]


def test_all_steps_of_a_trial_share_its_limit_and_the_next_trial_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 s of weights and 3 s for each of three deployments are more than 9: the first fits, the second is cut off at
    its last 2 s, the third is not begun."""
    world = World()
    evaluates = evaluator(world, monkeypatch, trial_timeout=9.0)
    began, job = world.now, Job(TRAINED, siblings=SIBLINGS)
    over = ("failed", "budget.trial_timeout: a trial must end within 9 s, and this one did not")
    assert told(evaluates(job)) == [("complete", ""), over, over]
    assert world.now - began == 9
    assert told(evaluates(Job(TRAINED))) == [("complete", "")]


def test_weights_that_take_the_whole_limit_fail_their_trial_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(weights_s=20.0)
    [(status, reason)] = told(evaluator(world, monkeypatch, trial_timeout=9.0)(Job(TRAINED)))
    assert (status, world.done) == ("failed", [])
    assert reason.startswith("budget.trial_timeout: a trial must end within 9 s")


def test_between_trials_a_step_has_the_limit_of_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    evaluates = evaluator(world, monkeypatch, trial_timeout=9.0)
    told(evaluates(Job(TRAINED, siblings=SIBLINGS)))
    world.now += 100
    assert world.limit_s() == 9


def test_the_end_of_the_run_leaves_a_trial_open(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluates = evaluator(World(), monkeypatch, trial_timeout=9.0, ends=5.0)
    with pytest.raises(evaluate.OutOfTime):
        told(evaluates(Job(TRAINED, siblings=SIBLINGS)))


def test_every_process_that_is_measured_keeps_to_the_limit_at_each_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Timing has a limit of its own for an answer, which is longer than what may be left of a trial."""
    limits: list[object] = []

    @contextmanager
    def open_bench(*arguments: object) -> Iterator[object]:
        limits.append(arguments[-1])
        yield object()

    def limit_s() -> float:
        return 7.0

    monkeypatch.setattr(measurer, "open_bench", open_bench)
    (tmp_path / WEIGHTS).touch()
    setting = SimpleNamespace(context=Context(), teacher=tmp_path, store=None)
    timer = Measurer(cast(Any, setting), lambda stage, done: None, limit_s, Stopwatch())
    with timer.opened(Recipe("m", "", "t", (), {}, Step("eager")), tmp_path), timer.baseline():
        assert limits == [limit_s, limit_s]


def test_what_is_too_slow_under_every_deployment_is_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained model of the same shape takes the same time."""
    world = World()
    outcomes = list(evaluator(world, monkeypatch, max_latency_ms=4.0)(Job(TRAINED, siblings=SIBLINGS)))
    assert world.done == ["untrained"] * 3
    reason = "before training: latency 5.00 ms is over the limit of 4 ms"
    assert told(iter(outcomes)) == [("rejected", reason)] * 3
    assert [o.recipe for o in outcomes] == [TRAINED, *SIBLINGS]
    assert {o.value(LATENCY) for o in outcomes} == {5.0}


def test_what_one_deployment_runs_fast_enough_is_trained_and_measured_under_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And what was seen once to be fast enough is not timed untrained again."""
    world = World()
    world.latency = lambda recipe: 3.0 if recipe.runtime.name == "onnx" else 5.0
    evaluates = evaluator(world, monkeypatch, max_latency_ms=4.0)
    assert told(evaluates(Job(TRAINED, siblings=SIBLINGS))) == [("complete", "")] * 3
    assert world.done == ["untrained", "untrained", "weights", *["measuring"] * 3]
    told(evaluates(Job(TRAINED, siblings=SIBLINGS)))
    assert world.done[6:] == ["weights", *["measuring"] * 3]


def test_a_latency_that_may_keep_the_limit_is_not_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """5.00 ms within 2 % may be 4.95."""
    world = World()
    assert told(evaluator(world, monkeypatch, max_latency_ms=4.95)(Job(TRAINED))) == [("complete", "")]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_measurement_that_is_no_finite_number_fails_its_trial(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """No front can hold it, and no record can store it."""
    world = World()
    world.accuracy = value
    [(status, reason)] = told(evaluator(world, monkeypatch)(Job(TRAINED)))
    assert (status, reason) == ("failed", f"ArithmeticError: accuracy must be a finite number, got {value}")


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_tpot_ms": 1.5}, "time of a later token 2.00 ms is over the limit of 1.5 ms"),
        ({"max_tpot_ms": 1.95}, ""),  # it may be 1.9
        ({"max_tpot_ms": 9.0, "max_latency_ms": 4.0}, "latency 5.00 ms is over the limit of 4 ms"),
    ],
)
def test_a_limit_of_the_time_of_a_token_is_checked_before_a_training(
    monkeypatch: pytest.MonkeyPatch, limits: dict[str, float], reason: str
) -> None:
    outcomes = told(evaluator(World(), monkeypatch, **limits)(Job(TRAINED)))
    assert outcomes == [("rejected", f"before training: {reason}") if reason else ("complete", "")]


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        (250.0, "peak memory 300.0 MB is over the limit of 250 MB"),
        (297.0, ""),  # another process may take 294
        (400.0, ""),
    ],
)
def test_a_limit_of_memory_is_checked_before_a_training(
    monkeypatch: pytest.MonkeyPatch, limit: float, reason: str
) -> None:
    world = World()
    outcomes = told(evaluator(world, monkeypatch, max_memory_mb=limit)(Job(TRAINED)))
    assert outcomes == [("rejected", f"before training: {reason}") if reason else ("complete", "")]
    assert ("weights" in world.done) == (not reason)


def test_a_time_that_depends_on_the_text_is_no_reason_not_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many proposed tokens a model accepts is not known before it is trained, and how long its prompt takes is."""
    steps = {"distill": {"layers": 3}, "cache": {"kind": "static", "speculation": "prompt_lookup"}}
    proposing = factory.recipe(steps, "onnx")
    for job in (Job(proposing), Job(TRAINED, siblings=(proposing,))):
        world = World()
        outcomes = told(evaluator(world, monkeypatch, max_tpot_ms=1.5)(job))
        assert set(outcomes) == {("complete", "")} and "untrained" not in world.done
    first = factory.measurement("ttft_ms", 7.0, 0.1, "ms")
    world = World()
    monkeypatch.setattr(world, "timings", lambda *_: {"tpot_ms": LATER, "ttft_ms": first})
    [(status, reason)] = told(evaluator(world, monkeypatch, max_tpot_ms=1.5, max_ttft_ms=5.0)(Job(proposing)))
    why = "before training: time to the first token 7.00 ms is over the limit of 5 ms"
    assert (status, reason) == ("rejected", why)
