"""What too few rows cannot tell apart is neither rejected nor given up."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from objectives.estimate import Estimate
from search.front.outcome import LATENCY, LOSS, Outcome
from search.propose.deployments import DeploymentSelector
from search.propose.known_latency import weights_grid
from search.propose.study import OUTCOME, PARAMS
from search.propose.surrogate.bounds import Bounds
from search.propose.surrogate.outlook import Aims, Outlook
from search.propose.surrogate.quality import SEED_NOISE, QualityModel
from search.propose.surrogate.record import Record
from search.space.space import Params

from .factory import measurement
from .test_resume import DEPLOYMENTS, SPACE, TARGETS, recipe_of


def measured(number: int, layers: int, accuracy: float, ms: float, error: float) -> Outcome:
    """`error`: standard error of the accuracy, and of the loss against the uncompressed model."""
    figures = (
        measurement("accuracy", accuracy, 1.96 * error, "fraction", "higher"),
        measurement(LOSS, 100 * (0.8 - accuracy), 0.0 if layers == 6 else 196 * error, "points"),
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


class Linear:
    """Every layer takes a millisecond, under whatever deployment."""

    deployments = DEPLOYMENTS
    stored_settings: tuple[Params, ...] = ()

    def costs(self, pool: Any) -> Any:
        import numpy as np

        return self.predicted(pool), np.full(len(pool), 0.01)

    def predicted(self, pool: Any) -> Any:
        import numpy as np

        return np.array([[math.log(float(one["distill.layers"]))] * len(DEPLOYMENTS) for one in pool])

    def seconds(self, pool: Any) -> Any:
        import numpy as np

        return np.ones(len(pool))


def verdict(error: float, layers: int = 4) -> str:
    """On a candidate of four layers, where five were measured to be no better than three."""
    found = [(6, 0.80), (5, 0.70), (3, 0.72), (2, 0.66)]
    outcomes = [measured(n, layers, value, float(layers), error) for n, (layers, value) in enumerate(found)]
    record = Record(weights_grid(SPACE), SPACE.off, TARGETS[0])
    outlook = Outlook(record, Linear(), QualityModel(), Aims(TARGETS[0], 0.5))
    outlook.look(studied(outcomes))
    grid = weights_grid(SPACE)
    one = record._met({**SPACE.off, "distill.layers": layers})
    assert one.row is not None
    return Bounds(outlook, {name: SPACE.knobs[name] for name in grid.values}).verdict(one)


def test_what_is_expected_to_add_nothing_is_rejected_only_as_far_as_the_rows_can_tell() -> None:
    assert "adds nothing to the front" in verdict(error=0.001)  # some hundred thousand rows
    assert verdict(error=0.026) == ""  # two hundred: the five layers may be better than they seemed


def test_the_error_of_the_split_is_that_of_the_losses_and_before_there_are_any_of_the_accuracy() -> None:
    record = Record(weights_grid(SPACE), SPACE.off, TARGETS[0])
    baseline = measured(0, 6, 0.80, 6.0, 0.02)
    record.refresh(studied([baseline]))
    assert record.error == pytest.approx(0.02)
    again = Record(weights_grid(SPACE), SPACE.off, TARGETS[0])
    errors = (0.004, 0.010, 0.006)
    again.refresh(studied([baseline, *(measured(n, n + 1, 0.7, 2.0, e) for n, e in enumerate(errors, 1))]))
    assert again.error == pytest.approx(0.006)
    seen = [again.seen(one) for one in again._weights.values()]
    assert [one.error for one in seen] == pytest.approx([0.0, *errors])


def test_a_quality_is_believed_less_the_fewer_rows_it_was_measured_on() -> None:
    """Of two that differ, the model follows what was measured on many rows closely, and on few not."""
    from search.propose.surrogate.quality import Seen

    exponents = []
    for error in (0.0, 0.03):
        model = QualityModel()
        values = [0.80, 0.78, 0.70, 0.76, 0.74, 0.72]
        seen = [Seen((1 - n / 5,), {DEPLOYMENTS[0]: value}, error=error) for n, value in enumerate(values)]
        model.learn(seen, 0.5, 0.8, (1.0,), error)
        assert model.noise == pytest.approx(math.hypot(SEED_NOISE, error))
        exponents.append(float(model.predict([(0.6,)])[0][0]))
    assert exponents[0] < exponents[1] - 0.01


def pairs_left(losses: dict[tuple[str, str], tuple[Estimate, float]]) -> set[tuple[str, str]]:
    made = DeploymentSelector(cast(Any, SimpleNamespace(deployments=tuple(losses))))
    made.learn(losses)
    return set(made.deployments)


def test_a_pair_is_hopeless_only_where_its_accuracy_is_surely_no_better() -> None:
    eager, graph, int8, int4 = ("eager", "fp32"), ("onnx", "fp32"), ("onnx", "int8"), ("onnx", "int4")
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
