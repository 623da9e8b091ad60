"""A metric of which lower is better: the front, its reports, its limits, and what the search models of it."""

from __future__ import annotations

import math
import re
from functools import partial

import jsonschema
import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from objectives.estimate import Estimate
from objectives.quality import metric_named
from search.config.load import from_mapping
from search.config.schema import LimitsConfig
from search.deliver.best_config import plain_json, schema
from search.errors import UserError
from search.front.front import Front
from search.front.outcome import LATENCY, Outcome, Target
from search.front.study_record import StudyRecord
from search.measure.limits import broken, measured_for
from search.measure.teacher_check import standing
from search.propose.known_latency import weights_grid
from search.propose.study import OUTCOME, PARAMS
from search.propose.surrogate.history import StudyHistory
from search.propose.surrogate.surrogate import Aims
from search.report.page import front_html
from search.report.plot import draw
from search.report.text import front_json, headline, pick_lines
from search.space.choices import names
from search.tasks.regression import NumberRows
from search.tasks.tokens import Encoded

from . import factory
from .factory import measurement
from .test_resume import SPACE

TARGETS = (Target("rmse", "lower"), Target(LATENCY, "lower"))
BASELINE = 0.40


def measured(number: int, rmse: float, ms: float, candidate: object = None) -> Outcome:
    """The uncompressed model's outcome as trial 0, of others with so many layers."""
    all_figures = factory.measurements(0.8, ms)
    figures = {name: one for name, one in all_figures.items() if name not in ("accuracy", "quality_loss")}
    figures["rmse"] = measurement("rmse", rmse, 0.01, "RMSE")
    lost = 100 * (rmse / BASELINE - 1)
    if number:
        figures["quality_loss"] = measurement("quality_loss", lost, 2.0, "% of RMSE")
    recipe = factory.recipe({"distill": {"layers": 6 - number}} if number else None)
    return Outcome(number, recipe, "complete", measurements=figures, baseline=not number)


FRONT = Front(
    TARGETS, (measured(0, BASELINE, 15.0), measured(1, 0.42, 7.0), measured(2, 0.6, 5.0), measured(3, 0.7, 6))
)
STUDY = StudyRecord({**factory.CONFIG, "metric": "rmse"}, factory.HARDWARE)


def test_the_front_keeps_what_has_the_least_error() -> None:
    assert [one.number for one in FRONT.members] == [2, 1, 0]
    assert FRONT.why_not(FRONT.outcomes[3]) == "dominated by 2 (0.6 RMSE, 5.00 ms)"
    assert {name: one.number for name, one in FRONT.picks.items()} == {"fastest": 2, "balanced": 1, "most-accurate": 0}
    assert FRONT.hypervolume > 0
    assert [one.number for one in FRONT.within(max_loss=10).members] == [1, 0]
    [why] = FRONT.within(max_loss=10).outcomes[2].limits_broken
    assert why == "loss 50.0 % of RMSE is over the limit of 10 % of RMSE"


def test_reports_show_the_error_itself_and_a_loss_above_0() -> None:
    assert headline(FRONT) == "Balanced pick: 2.17x as fast as the uncompressed model, 5.0 % of RMSE lost"
    assert re.search(r"0\.42 RMSE, 7\.00 ms  \(.*, 5\.0 % of RMSE lost\)", pick_lines(FRONT)[1])
    page = front_html(FRONT, STUDY)
    assert "<th" in page and "RMSE" in page and "loss (% of RMSE)" in page and "-0.4" not in page
    data = plain_json(front_json(FRONT, STUDY))
    jsonschema.validate(data, schema("front"))
    assert data["targets"][0] == {"objective": "rmse", "better": "lower"}
    members = {one["number"]: one["measurements"] for one in data["members"]}
    assert members[1]["rmse"]["value"] == 0.42 and members[1]["quality_loss"]["unit"] == "% of RMSE"
    [axes] = draw(FRONT).axes
    bottom, top = axes.get_ylim()
    assert any(text.get_text() == "RMSE, lower is better" for text in axes.texts)
    assert bottom > top, "the least error is at the top"


def test_limits_are_in_the_metrics_own_unit() -> None:
    limits = LimitsConfig(max_loss=3.0, others={"rmse": 0.41})
    assert broken(limits, "rmse", FRONT.outcomes[1]) == (
        "loss 5.00 % of RMSE is over the limit of 3 % of RMSE",
        "rmse 0.42 RMSE is over the limit of 0.41 RMSE",
    )


def test_memory_and_times_of_tokens_are_limited_by_name() -> None:
    figures = {"peak_memory_mb": 700.0, "ttft_ms": 40.0, "tpot_ms": 9.0}
    outcome = Outcome(
        0, factory.recipe(None), "complete", measurements={n: measurement(n, v) for n, v in figures.items()}
    )
    limits = LimitsConfig(max_memory_mb=600, max_ttft_ms=30, max_tpot_ms=8.5)
    assert broken(limits, "perplexity", outcome) == (
        "peak memory 700.0 MB is over the limit of 600 MB",
        "time to the first token 40.00 ms is over the limit of 30 ms",
        "time of a later token 9.00 ms is over the limit of 8.5 ms",
    )
    assert broken(LimitsConfig(max_memory_mb=700, max_ttft_ms=40, max_tpot_ms=9), "perplexity", outcome) == ()
    assert measured_for(limits) == ("peak_memory_mb", "ttft_ms", "tpot_ms")


def test_a_least_accuracy_is_none_of_an_error() -> None:
    mapping = {
        "study": "s",
        "task": "classification",
        "model": {"name": "m", "problem_type": "regression"},
        "data": {"name": "d", "text": "text", "label": "label"},
        "metric": "rmse",
        "limits": {"min_accuracy": 0.5},
    }
    rule = "limits.min_accuracy: must be left out where lower is better; write limits.others.rmse, its most, got 0.5"
    with pytest.raises(UserError, match=re.escape(rule)):
        from_mapping(mapping, names())


def test_the_quality_model_learns_utilities_where_higher_is_better() -> None:
    metric = metric_named("rmse")
    space = SPACE
    study = optuna.create_study(directions=["minimize", "minimize"])
    for one in FRONT.outcomes[:3]:
        attributes = {OUTCOME: one.to_json(), PARAMS: {**space.off, **one.recipe.params}}
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=attributes))
    history = StudyHistory(weights_grid(space), space.off, TARGETS[0], space.canonical)
    qualities = [next(iter(one.quality.values())) for one in history.refresh(study)]
    assert qualities == pytest.approx([-math.log(0.4), -math.log(0.42), -math.log(0.6)])
    aims = Aims(TARGETS[0], metric.utility(1.2), keep=0.5, max_loss=metric.drop(10.0))
    _, floor = aims.reference(history.baseline)
    assert metric.utility(1.2) < floor < metric.utility(0.4)
    threshold = aims.quality_threshold(history.baseline)
    assert metric.utility(0.6) < threshold < metric.utility(0.42), "a loss of 50 % and one of 5 %"


def test_a_teacher_must_err_less_than_the_mean() -> None:
    truth = np.random.default_rng(0).normal(size=400)
    rows = NumberRows(Encoded({}, {}, np.zeros(0, dtype=np.int64)), truth, ("LABEL_0",))
    of = partial(standing, "rmse", rows=rows, seed=0)
    good, little, none = (of(share * truth) for share in (0.9, 0.05, 0.0))
    assert good.better and not good.near
    assert little.better and little.near
    assert not none.better
    assert str(good).startswith("its rmse is 0.0")


def test_members_that_err_alike_tie() -> None:
    alike = Front(TARGETS, (measured(0, BASELINE, 15.0), measured(1, 0.405, 14.9)))
    assert alike.speedup(alike.outcomes[1], alike.baseline) is not None
    assert alike.loss(alike.outcomes[1]) == Estimate(pytest.approx(1.25), pytest.approx(-0.75), pytest.approx(3.25))
