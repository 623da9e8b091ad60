"""A study is of one machine: another one refuses to go on with it, or measures all of it again first."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import command
import optuna
import pytest
from conftest import STUDY, Finished
from optuna.trial import TrialState, create_trial

import search
from objectives.latency import P50
from search import remeasure
from search.config.load import load_config
from search.config.schema import DataConfig, ModelConfig, RunConfig
from search.errors import UserError
from search.front.outcome import LATENCY, Outcome
from search.prepare.prepared import Prepared
from search.propose.replacement import Replacement
from search.propose.study import (
    MACHINE,
    OUTCOME,
    PARAMS,
    check_study,
    find_study,
    open_study,
    outcomes_of,
    read_outcomes,
)
from search.propose.trials import add, reopened
from search.space.choices import names
from search.space.deployments import Deployment
from search.space.space import Space
from spaces.recipe import Step

from .test_resume import ACCURACY, SPACE, TARGETS, distribution, recipe_of

NAME = "shared"
PARTS = {"task": "classification", "searched": SPACE.to_json()}
THERE = {"cpu": "A", "cores": 4, "libraries": {"torch": "2.12"}}
HERE = {"cpu": "B", "cores": 4, "libraries": {"torch": "2.13"}}


def sampler(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def measured(number: int, layers: int, ms: float, **changes: Any) -> Outcome:
    figures = {"accuracy": ACCURACY.counted(0.8, {}), LATENCY: P50.counted(ms, {})}
    return replace(Outcome(number, recipe_of({"distill.layers": layers}), "complete", measurements=figures), **changes)


@pytest.fixture
def mlruns(tmp_path: Path) -> Path:
    """Of machine A: a baseline, a rejected candidate, a complete one, and one that was cut off."""
    study = open_study(tmp_path, NAME, TARGETS, sampler, 0, PARTS, THERE)
    distributions = {name: distribution(knob) for name, knob in SPACE.searched.items()}
    rejected = Outcome(1, recipe_of({"distill.layers": 3}), "rejected", "too slow there")
    for outcome in (measured(0, 6, 6.0, baseline=True), rejected, measured(2, 2, 2.0)):
        settings = {**SPACE.off, **outcome.recipe.params}
        add(study, SPACE, outcome, settings, TARGETS, lambda o: {}, distributions)
    study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={PARAMS: {**SPACE.off, "distill.layers": 4}}))
    return tmp_path


def replacement(mlruns: Path, machine: Any = HERE) -> Replacement:
    return Replacement(mlruns, NAME, SPACE, TARGETS, lambda o: {}, PARTS, machine)


def timed(mlruns: Path, name: str = NAME) -> dict[int, float]:
    return {o.number: o.value(LATENCY) for o in read_outcomes(mlruns, name)[1] if o.status == "complete"}


def test_another_machine_is_refused_in_words_and_the_same_one_goes_on(mlruns: Path) -> None:
    check_study(mlruns, NAME, PARTS, {**THERE, "governor": "powersave", "memory_gb": 7.9})
    other = {**PARTS, "searched": {"pairs": []}}  # what it can run is another machine's too
    with pytest.raises(UserError) as refused:
        check_study(mlruns, NAME, other, HERE)
    message = str(refused.value)
    assert message.startswith(f"--study {NAME}: it was measured on another machine")
    assert "cpu: A there, B here; torch: 2.12 there, 2.13 here" in message and "--remeasure" in message
    check_study(mlruns, NAME, other, HERE, remeasure=True)
    for remeasuring in (False, True):
        with pytest.raises(UserError, match="another task"):
            check_study(mlruns, NAME, {**PARTS, "task": "other"}, HERE, remeasuring)
    with pytest.raises(UserError, match="another searched"):
        check_study(mlruns, NAME, other, THERE)


def test_content_that_changed_is_told_apart_from_settings(tmp_path: Path) -> None:
    parts = {**PARTS, "data": {"digest": "a1", "max_length": 16}}
    open_study(tmp_path, NAME, TARGETS, sampler, 0, parts, THERE)
    rule = r'another data.digest: the content is another \("a1" there, "b2" now\); .* restore the files and settings'
    with pytest.raises(UserError, match=rule):
        check_study(tmp_path, NAME, {**parts, "data": {"digest": "b2", "max_length": 16}}, THERE)
    with pytest.raises(UserError, match=r"another data\.max_length: 16 there, 32 now; "):
        check_study(tmp_path, NAME, {**parts, "data": {"digest": "a1", "max_length": 32}}, THERE)


def test_until_all_is_measured_again_the_study_is_what_it_was(mlruns: Path) -> None:
    first = replacement(mlruns)
    assert [o.number for o in first.left] == [0, 2]
    first.add(replace(first.left[0], measurements=measured(0, 6, 12.0).measurements))
    with pytest.raises(ValueError, match="not measured again"):
        first.finish()
    del first  # killed
    assert timed(mlruns) == {0: 6.0, 2: 2.0}
    study = find_study(mlruns, NAME)
    assert study is not None and study.user_attrs[MACHINE] == THERE

    again = replacement(mlruns)
    assert [o.number for o in again.left] == [2], "what was measured here before the kill is kept"
    again.add(replace(again.left[0], measurements=measured(2, 2, 4.0).measurements))
    front = again.finish()
    assert timed(mlruns) == {0: 12.0, 2: 4.0} and timed(mlruns, front) == {0: 6.0, 2: 2.0}
    study = find_study(mlruns, NAME)
    assert study is not None and study.user_attrs[MACHINE] == HERE
    assert [t.values[1] for t in study.get_trials(states=(TrialState.COMPLETE,))] == [12.0, 4.0], "what samplers see"
    assert {o.number for o in outcomes_of(study)} == {0, 2}, "what was decided there is open again"
    assert len(study.trials) == 4 and not study.get_trials(states=(TrialState.RUNNING,))
    check_study(mlruns, NAME, PARTS, HERE)


def test_what_a_third_machine_or_an_older_state_left_begun_is_begun_again(mlruns: Path) -> None:
    begun = replacement(mlruns)
    begun.add(begun.left[0])
    assert len(replacement(mlruns, {**HERE, "cpu": "C"}).left) == 2
    begun = replacement(mlruns)
    begun.add(begun.left[0])
    begun.add(begun.left[0])
    study = find_study(mlruns, NAME)
    assert study is not None
    trial = reopened(study, study.trials[3])  # machine A goes on with it meanwhile
    trial.set_user_attr(OUTCOME, json.loads(json.dumps(measured(3, 4, 3.0).to_json())))
    assert [o.number for o in replacement(mlruns).left] == [3]


class Here:
    """Machine B: everything takes twice as long, and it has no ONNX Runtime."""

    def __init__(self, prepared: Any, progress: object, clock: object) -> None:
        assert not prepared.config.measure.reuse, "nothing is remembered"

    def evaluated_again(self, outcome: Outcome) -> Outcome:
        return measured(outcome.number, int(outcome.recipe.params.get("distill.layers", 6)), 2 * outcome.value(LATENCY))


def test_what_cannot_run_here_becomes_infeasible(mlruns: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributions = {name: distribution(knob) for name, knob in SPACE.searched.items()}
    study = find_study(mlruns, NAME)
    assert study is not None
    graph = measured(4, 2, 1.0, recipe=replace(recipe_of({"distill.layers": 2}), runtime=Step("onnx")))
    add(study, SPACE, graph, {**SPACE.off, **graph.recipe.params}, TARGETS, lambda o: {}, distributions)

    space = Space(SPACE.knobs, None, (Deployment("eager", "fp32"),), {"onnx": "ONNX Runtime is not installed"})
    config = RunConfig(
        ModelConfig("m"), "classification", DataConfig("t"), study=NAME, metric="accuracy", mlruns=str(mlruns)
    )
    prepared = Prepared(
        config, cast(Any, None), mlruns, cast(Any, None), space, mlruns, "t", mlruns, None, HERE, {"task": "x"}
    )
    monkeypatch.setattr(remeasure, "Evaluator", Here)
    monkeypatch.setattr(Prepared, "targets", TARGETS)
    messages: list[str] = []
    clock = SimpleNamespace(left=lambda: len(messages) < 3)
    view = SimpleNamespace(say=messages.append, progress=None)
    with pytest.raises(TimeoutError, match="2 of 3 trials were measured again; the study is as it was"):
        remeasure.measure_again(prepared, cast(Any, view), cast(Any, clock))
    assert timed(mlruns) == {0: 6.0, 2: 2.0, 4: 1.0}
    messages.clear()
    remeasure.measure_again(prepared, cast(Any, view), cast(Any, clock))
    assert timed(mlruns) == {0: 12.0, 2: 4.0}
    last = read_outcomes(mlruns, NAME)[1][-1]
    assert (last.number, last.status, last.reason) == (4, "infeasible", "ONNX Runtime is not installed")
    assert "measuring 1 trials again" in messages[0] and "before-1" in messages[-1]


def test_the_command_refuses_another_machines_study_before_anything_is_made(tmp_path: Path, finished: Finished) -> None:
    shutil.copytree(finished.mlruns, tmp_path / "mlruns")
    study = find_study(tmp_path / "mlruns", STUDY)
    assert study is not None
    study.set_user_attr(MACHINE, {**study.user_attrs[MACHINE], "cpu": "Z80"})
    ended = command.search("run", finished.config, "--trials", 9, cwd=tmp_path)
    assert ended.code == 2 and "cpu: Z80 there, " in ended.err and "--remeasure" in ended.err
    assert len(ended.err.splitlines()) <= 2
    assert len(read_outcomes(tmp_path / "mlruns", STUDY)[1]) == 6


def test_from_python_a_study_that_is_not_there_cannot_be_measured_again(tmp_path: Path, config: Path) -> None:
    chosen = replace(load_config(config, ["study=none"], names()), mlruns=str(tmp_path / "mlruns"))
    with pytest.raises(UserError, match="--remeasure: needs a study to measure again, and there is no 'none'"):
        search.run(chosen, remeasure=True)
    assert not (tmp_path / "mlruns" / "cache").exists()
