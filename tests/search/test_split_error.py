"""What too few rows cannot tell apart is not given up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from objectives.estimate import Estimate
from search.config.schema import LimitsConfig
from search.front.front import Front
from search.front.outcome import LATENCY, LOSS, Outcome, Target
from search.propose.deployment_choice import DeploymentSelector, learner
from search.propose.known_latency import weights_grid
from search.propose.study import OUTCOME, PARAMS
from search.propose.surrogate.history import StudyHistory
from search.propose.surrogate.quality import QualityModel
from search.space.deployments import Deployment
from spaces.generation.program import CacheSettings

from .factory import measurement, recipe
from .test_resume import DEPLOYMENTS, SPACE, TARGETS, recipe_of


def measured(number: int, layers: int, accuracy: float, ms: float, error: float) -> Outcome:
    """`error`: standard error of the accuracy, and of the loss against the uncompressed model."""
    figures = (
        measurement("accuracy", accuracy, 1.96 * error, "fraction", "higher"),
        measurement(LOSS, 100 * (0.8 - accuracy), 0.0 if layers == 6 else 196 * error, "accuracy points"),
        measurement(LATENCY, ms, unit="ms"),
    )
    recipe = recipe_of({"distill.layers": layers})
    return Outcome(
        number, recipe, "complete", measurements={m.objective: m for m in figures}, baseline=not recipe.steps
    )


def studied(outcomes: list[Outcome]) -> optuna.Study:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for outcome in outcomes:
        attributes = {OUTCOME: outcome.to_json(), PARAMS: {**SPACE.off, **outcome.recipe.params}}
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=attributes))
    return study


def test_a_quality_is_known_as_well_as_its_loss_against_the_uncompressed_model() -> None:
    record = StudyHistory(weights_grid(SPACE), SPACE.off, TARGETS[0])
    errors = (0.004, 0.010, 0.006)
    outcomes = [measured(0, 6, 0.80, 6.0, 0.02), *(measured(n, n + 1, 0.7, 2.0, e) for n, e in enumerate(errors, 1))]
    observations = [record.observation(one) for one in record.refresh(studied(outcomes))]
    assert [one.error for one in observations] == pytest.approx([0.0, *errors])


def test_a_quality_is_believed_less_the_fewer_rows_it_was_measured_on() -> None:
    """Of two that differ, the model follows what was measured on many rows closely, and on few not."""
    from search.propose.surrogate.quality import QualityObservation

    exponents = []
    for error in (0.0, 0.03):
        model = QualityModel()
        values = [0.80, 0.78, 0.70, 0.76, 0.74, 0.72]
        observations = [
            QualityObservation((1 - n / 5,), {DEPLOYMENTS[0]: value}, error=error) for n, value in enumerate(values)
        ]
        model.learn(observations, 0.5, 0.8, (1.0,))
        exponents.append(float(model.predict([(0.6,)])[0][0]))
    assert exponents[0] < exponents[1] - 0.01


def selecting(deployments: Iterable[Deployment], objectives: tuple[str, ...] = ()) -> DeploymentSelector:
    return DeploymentSelector(cast(Any, SimpleNamespace(deployments=tuple(deployments), knobs={})), objectives)


def pairs_left(losses: dict[Deployment, tuple[Estimate, float]], objectives: tuple[str, ...] = ()) -> set[Deployment]:
    selector = selecting(losses, objectives)
    selector.learn(losses)
    return set(selector.deployments)


def test_a_pair_is_hopeless_only_where_its_accuracy_is_surely_no_better() -> None:
    eager, graph, int8, int4 = (
        Deployment(*pair) for pair in (("eager", "fp32"), ("onnx", "fp32"), ("onnx", "int8"), ("onnx", "int4"))
    )
    exact = Estimate(0.0, 0.0, 0.0)
    few = {
        eager: (exact, 9.0),
        graph: (Estimate(0.02, -0.1, 0.1), 6.0),  # the same outputs but for the last bits, and faster
        int8: (Estimate(-0.5, -3.0, 2.0), 3.0),  # on these rows it seems to gain
        int4: (Estimate(1.0, -2.5, 4.5), 4.0),
    }
    assert pairs_left(few) == {graph, int8, int4}
    many = {**few, int8: (Estimate(-0.5, -0.8, -0.2), 3.0), int4: (Estimate(1.0, 0.6, 1.4), 4.0)}
    assert pairs_left(many) == {int8}


def test_a_slower_cache_without_a_loss_is_dropped_and_a_lossy_one_only_where_it_is_surely_no_better() -> None:
    dynamic, static = Deployment("eager", "bf16"), Deployment("eager", "bf16", CacheSettings("static"))
    int8 = Deployment("eager", "bf16", CacheSettings("int8"))
    noisy = Estimate(0.0, -1.0, 1.0)
    losses = {dynamic: (noisy, 9.0), static: (noisy, 6.0), int8: (noisy, 9.0)}
    assert pairs_left(losses) == {static, int8}
    assert pairs_left({**losses, static: (noisy, 8.5)}) == {dynamic, static, int8}, "within the margin"
    exact = Estimate(0.0, 0.0, 0.0)
    lossy = {dynamic: (exact, 9.0), static: (exact, 6.0), int8: (Estimate(1.0, 0.6, 1.4), 9.0)}
    assert pairs_left(lossy) == {static}
    assert pairs_left(lossy, ("perplexity", "peak_memory_mb")) == {dynamic, static, int8}, "it may take less memory"


@pytest.mark.parametrize(
    ("limits", "objectives", "int4_mb", "left"),
    [
        ({}, (), 50.0, {"int8"}),
        ({"max_size_mb": 60.0}, (), 50.0, {"int8", "int4"}),
        ({"max_size_mb": 60.0}, (), 88.0, {"int8"}),  # not worth half a millisecond more
        ({"others": {"size_mb": 60.0}}, (), 50.0, {"int8", "int4"}),
        ({}, (Target("size_mb", "lower"),), 50.0, {"int8", "int4"}),
        ({}, (Target("throughput_per_s", "higher"),), 50.0, {"int8"}),
        ({"max_latency_ms": 3.5, "max_loss": 2.0}, (), 50.0, {"int8"}),  # what is compared in any case
    ],
)
def test_a_slower_deployment_stays_where_what_it_is_better_in_counts(
    limits: dict[str, Any], objectives: tuple[Target, ...], int4_mb: float, left: set[str]
) -> None:
    """int4 is slower than int8 and surely loses more, and its files are smaller."""
    prepared = SimpleNamespace(
        config=SimpleNamespace(limits=LimitsConfig(**limits)),
        targets=(Target("accuracy", "higher"), Target(LATENCY, "lower"), *objectives),
        metric="accuracy",
        time_objective=None if objectives else LATENCY,
    )
    selector = selecting(Deployment("onnx", precision) for precision in ("int8", "int4"))
    learn = learner(selector, cast(Any, prepared))
    for number, (precision, points, ms, mb) in enumerate([("int8", 0.1, 3.0, 90.0), ("int4", 2.0, 3.5, int4_mb)]):
        figures = (
            measurement("accuracy", 0.8, unit="fraction", better="higher"),
            measurement(LOSS, points, 0.2, "accuracy points"),
            measurement(LATENCY, ms, unit="ms"),
            measurement("size_mb", mb, unit="MB"),
            measurement("throughput_per_s", 1e3 / ms, unit="rows/s", better="higher"),
        )
        candidate = recipe({"bits": {"precision": precision}}, "onnx")
        measured_outcome = Outcome(number, candidate, "complete", baseline=True)
        learn(replace(measured_outcome, measurements={m.objective: m for m in figures}), Front(()))
    assert {deployment.precision for deployment in selector.deployments} == left
