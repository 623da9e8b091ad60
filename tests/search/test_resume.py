"""What a proposer makes of a study that another process left, and of settings that the grid does not hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from objectives.latency import P50
from objectives.quality import metric_named
from search.front.outcome import LATENCY, Outcome, Target
from search.propose.known_latency import weights_grid
from search.propose.proposer import Proposer
from search.propose.study import OUTCOME, PARAMS, distribution, outcomes_of
from search.propose.surrogate.history import StudyHistory
from search.space.deployments import Deployment, siblings
from search.space.space import Params, Space
from spaces.knob import Knob
from spaces.recipe import Recipe, Step
from tests import worlds
from tests.worlds import World

ACCURACY = metric_named("accuracy").objective
TARGETS = (Target("accuracy", "higher"), Target(LATENCY, "lower"))
DEPLOYMENTS = (Deployment("eager", "fp32"), Deployment("onnx", "fp32"), Deployment("onnx", "int8"))
LAYERS = Knob("layers", off=6, low=1, high=6, step=1, help="")
SPACE = Space(
    {
        "distill.layers": LAYERS,
        "bits.precision": Knob("precision", off="fp32", choices=("fp32", "int8"), help=""),
        "runtime.name": Knob("name", off="eager", choices=("eager", "onnx"), help=""),
    },
    None,
    DEPLOYMENTS,
)


def recipe_of(params: Params) -> Recipe:
    layers, precision = params.get("distill.layers", 6), params.get("bits.precision", "fp32")
    steps = [Step("distill", {"layers": layers})] if layers != 6 else []
    steps += [Step("bits", {"precision": precision})] if precision != "fp32" else []
    recover = {"epochs": 1.0} if layers != 6 else {}
    return Recipe("m", "", "t", tuple(steps), recover, Step(str(params.get("runtime.name", "eager"))))


def complete(recipe: Recipe, baseline: bool = False) -> Outcome:
    measurements = {"accuracy": ACCURACY.counted(0.8, {}), LATENCY: P50.counted(2.0, {})}
    return Outcome(-1, recipe, "complete", measurements=measurements, seconds={"weights": 50.0}, baseline=baseline)


def proposer(
    study: optuna.Study, total: int = 30, go_on: Callable[[], bool] = lambda: True, retry_failed: bool = False
) -> Proposer:
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    others = lambda recipe: siblings(recipe, DEPLOYMENTS)  # noqa: E731
    return Proposer(study, SPACE, TARGETS, total, recipe_of, others, lambda o: {}, 0, go_on, retry_failed=retry_failed)


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(directions=["maximize", "minimize"])


def with_baseline(study: optuna.Study) -> optuna.Study:
    ours = proposer(study)
    job = next(iter(ours))
    assert job.baseline
    for recipe in (job.recipe, *job.siblings):
        ours.tell(complete(recipe, baseline=True))
    return study


def asked(study: optuna.Study, layers: int) -> optuna.Trial:
    """A trial that a killed process left: asked, and never told."""
    params = {"distill.layers": layers, "bits.precision": "int8", "runtime.name": "onnx"}
    study.enqueue_trial(params)
    trial = study.ask({name: distribution(knob) for name, knob in SPACE.searched.items()})
    trial.set_user_attr(PARAMS, params)
    return trial


def test_a_trial_whose_recipe_is_known_is_answered_and_not_built_again(study: optuna.Study) -> None:
    with_baseline(study)
    before = proposer(study)
    asked(study, 3)
    job = next(iter(before))  # of that trial
    number = before.tell(complete(job.recipe)).number
    twin = asked(study, 3)
    next(iter(proposer(study)))
    assert study.trials[twin.number].state == TrialState.COMPLETE
    assert study.trials[twin.number].user_attrs["same_as"] == number


def test_of_two_trials_left_with_one_recipe_one_is_built(study: optuna.Study) -> None:
    with_baseline(study)
    asked(study, 3), asked(study, 3)
    ours, built = proposer(study), []
    for job in ours:
        built.append(job.recipe.digest)
        for recipe in (job.recipe, *job.siblings):
            ours.tell(complete(recipe))
    assert built.count(recipe_of({"distill.layers": 3, "bits.precision": "int8", "runtime.name": "onnx"}).digest) == 1
    assert not [t for t in study.trials if t.state == TrialState.RUNNING]


def test_pairs_that_a_kill_left_out_are_measured_first(study: optuna.Study) -> None:
    with_baseline(study)
    before = proposer(study)
    trial = asked(study, 3)
    mine = recipe_of(trial.params)
    assert next(iter(before)).recipe == mine
    before.tell(complete(mine))
    job = next(iter(proposer(study)))
    assert {r.digest for r in (job.recipe, *job.siblings)} == {r.digest for r in siblings(mine, DEPLOYMENTS)}
    assert not job.baseline


def test_an_anchor_that_was_killed_is_asked_for_again(study: optuna.Study) -> None:
    with_baseline(study)
    jobs = iter(proposer(study))
    anchor = next(jobs)
    again = next(iter(proposer(study)))
    assert again.recipe == anchor.recipe


@pytest.mark.parametrize("waiting", [False, True])
def test_an_anchor_that_was_given_up_before_is_asked_for_again(study: optuna.Study, waiting: bool) -> None:
    with_baseline(study)
    anchor = next(iter(proposer(study)))
    list(proposer(study, total=3))  # a smaller total: what a killed process left is nobody's
    assert study.trials[-1].state == TrialState.FAIL
    if waiting:
        study.enqueue_trial({"distill.layers": 3, "bits.precision": "int8", "runtime.name": "onnx"})
    again = next(iter(proposer(study)))
    assert again.recipe == anchor.recipe


def test_a_search_that_expected_too_little_stops_at_once_when_it_goes_on(tmp_path: Path) -> None:
    world: World = worlds.synthetic()
    first = worlds.search(world, "known-latency", 0, 40, 0.05, folder=tmp_path)
    again = worlds.search(world, "known-latency", 0, 40, 0.05, folder=tmp_path)
    assert 3 < first.weights < 40
    assert again.weights == 0 and not [t for t in again.study.trials if t.state == TrialState.RUNNING]


# --- settings that the grid does not hold -----------------------------------------------------------------------


def narrowed(**knobs: Knob) -> Space:
    return Space({**SPACE.knobs, **{name.replace("_", "."): knob for name, knob in knobs.items()}}, None, DEPLOYMENTS)


@pytest.mark.parametrize(
    "space",
    [
        narrowed(distill_layers=Knob("layers", off=6, low=1, high=3, step=1, help="")),
        narrowed(
            prune_criterion=Knob("criterion", off="fisher", choices=("diagonal", "uniform"), method=True, help="")
        ),
    ],
    ids=["a number", "a name"],
)
def test_an_uncompressed_model_outside_the_ranges_is_known_and_not_placed(space: Space, study: optuna.Study) -> None:
    for pair in DEPLOYMENTS:
        params = {**space.off, **pair.settings}
        outcome = complete(recipe_of(params), baseline=True).numbered(0)
        attributes = {OUTCOME: outcome.to_json(), PARAMS: params}
        study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=attributes))
    record = StudyHistory(weights_grid(space), space.off, TARGETS[0])
    (one,) = record.refresh(study)
    assert one is record.baseline and one.row is None and set(one.quality) == set(DEPLOYMENTS)


def test_a_search_of_ranges_without_the_uncompressed_model_runs() -> None:
    """The sampler models what is inside, and the baseline is what the front is held against."""
    world = worlds.synthetic()
    inside = {**world.space.knobs, "distill.layers": Knob("layers", off=12, low=2, high=8, step=1, help="")}
    world.space = Space(inside, None, world.deployments)
    trace = worlds.search(world, "known-latency", 0, 12)
    assert trace.weights == 12 and all(math.isfinite(h) and h > 0 for h in trace.hypervolume[1:])
    layers = [t.params["distill.layers"] for t in trace.study.trials if "distill.layers" in t.params]
    assert layers and max(layers) <= 8


def test_a_mode_of_an_axis_that_is_off_makes_no_other_weights(study: optuna.Study) -> None:
    mode = Knob("criterion", off="fisher", choices=("fisher", "uniform"), method=True, help="")
    space = narrowed(prune_criterion=mode)
    record = StudyHistory(weights_grid(space), space.off, TARGETS[0], space.canonical)
    for settings in ({"prune.criterion": "uniform"}, {"prune.criterion": "fisher"}):
        params = {**space.off, **settings}
        attributes = {OUTCOME: complete(recipe_of(params)).to_json(), PARAMS: params}
        study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=attributes))
    assert len(record.refresh(study)) == 1


def test_what_failed_is_tried_again_when_it_is_asked_for_and_takes_its_own_place(study: optuna.Study) -> None:
    with_baseline(study)
    before = proposer(study, total=5)
    jobs = iter(before)
    first = next(jobs)
    failures = [before.tell(Outcome(-1, r, "failed", "killed")) for r in (first.recipe, *first.siblings)]
    assert len(failures) == 2 and before.left == 0
    assert list(proposer(study, total=5)) == [], "not by itself"

    again = proposer(study, total=5, retry_failed=True)
    assert again.left == 2
    built = []
    for job in again:
        built += [again.tell(complete(recipe)) for recipe in (job.recipe, *job.siblings)]
    assert {o.recipe.digest for o in built} == {o.recipe.digest for o in failures}
    outcomes = outcomes_of(study)
    assert len(outcomes) == 5 and {o.status for o in outcomes} == {"complete"}
    assert list(proposer(study, total=5, retry_failed=True)) == []


def test_a_baseline_that_failed_is_tried_again_as_one(study: optuna.Study) -> None:
    ours = proposer(study, total=3)
    job = next(iter(ours))
    for recipe in (job.recipe, *job.siblings):
        ours.tell(Outcome(-1, recipe, "failed", "killed", baseline=True))
    again = proposer(study, total=3, retry_failed=True)
    job = next(iter(again))
    assert job.baseline and len((job.recipe, *job.siblings)) == 3
