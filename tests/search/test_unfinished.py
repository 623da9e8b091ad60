"""A study that runs or was killed shows what is there; what is known of the data is said before anything is trained."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial

from search.cli.export import export
from search.cli.front import front as show
from search.config.load import load_config
from search.deliver import study_attributes
from search.deliver.best_config import schema
from search.errors import UserError
from search.front.front import Front
from search.prepare import runner
from search.propose.study import OUTCOME, open_study, set_attribute
from search.space.choices import names

from . import factory

NAME = "movie-reviews"


def begun(mlruns: Path, front: Front, run: str | None = "one") -> Front:
    """A study in `mlruns` with the outcomes of `front` that has not ended."""
    mlruns.mkdir(exist_ok=True)
    study = open_study(mlruns, NAME, factory.TARGETS, RandomSampler, 0, {})
    for outcome in front.outcomes:
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={OUTCOME: outcome.to_json()}))
    if run is not None:
        about: Mapping[str, Any] = {
            "config": factory.CONFIG,
            "hardware": factory.HARDWARE,
            "rows": {"train": 9},
            "notes": [],
        }
        set_attribute(mlruns, NAME, study_attributes.BEGUN, {**about, "run": run})
    return front


def test_the_front_of_a_study_that_runs_is_shown_as_far_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also while another process writes to it."""
    front = begun(tmp_path, factory.front(12))
    writer = sqlite3.connect(tmp_path / "optuna.db")
    writer.execute("BEGIN IMMEDIATE")
    try:
        assert show(NAME, True, mlruns=tmp_path) == 0
        output, note = capsys.readouterr()
        assert show(NAME, False, mlruns=tmp_path) == 0
    finally:
        writer.close()
    data = json.loads(output)
    jsonschema.validate(data, schema("front"))
    assert [member["number"] for member in data["members"]] == [o.number for o in front.members]
    assert note.startswith("unfinished: 12 of 40 trials so far")
    text = capsys.readouterr()
    assert text.err == note and f"{len(front.members)} on the front" in text.out


def test_a_study_that_has_ended_is_not_called_unfinished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(tmp_path, factory.front(12))
    set_attribute(tmp_path, NAME, study_attributes.ENDED, "one")
    assert show(NAME, False, mlruns=tmp_path) == 0
    assert capsys.readouterr().err == ""


def test_a_study_that_goes_on_is_unfinished_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(tmp_path, factory.front(12), run="two")
    set_attribute(tmp_path, NAME, study_attributes.ENDED, "one")
    assert show(NAME, True, mlruns=tmp_path) == 0
    assert capsys.readouterr().err.startswith("unfinished: 12 of 40")


def test_before_the_first_trial_there_is_no_front_and_the_json_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(tmp_path, Front(factory.TARGETS))
    assert show(NAME, False, mlruns=tmp_path) == 1
    assert "unfinished: 0 of 40 trials so far" in capsys.readouterr().err
    assert show(NAME, True, mlruns=tmp_path) == 0
    data = json.loads(capsys.readouterr().out)
    jsonschema.validate(data, schema("front"))
    assert data["members"] == data["trials"] == []


def test_a_killed_study_is_exported_with_its_quick_timing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    front = begun(tmp_path / "mlruns", factory.stored(factory.front(12), tmp_path / "weights"))
    assert export(NAME, None, tmp_path / "out", tmp_path / "mlruns") == 0
    assert capsys.readouterr().err.startswith("unfinished: 12 of 40 trials so far")
    data = json.loads((tmp_path / "out" / "front.json").read_text())
    assert [member["quick"] for member in data["members"]] == [{}] * len(front.members)
    assert {path.name for path in (tmp_path / "out" / "models").iterdir()} == {str(o.number) for o in front.members}


def test_a_study_that_never_began_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    begun(tmp_path, factory.front(5), run=None)
    with pytest.raises(UserError, match=f"no study 'movie-review'.*did you mean \"{NAME}\""):
        show("movie-review", False, mlruns=tmp_path)
    with pytest.raises(UserError, match="has no trial yet"):
        show(NAME, False, mlruns=tmp_path)


class TrainedError(Exception):
    """The teacher's training has begun."""


def test_notes_about_data_and_space_come_before_the_teacher_is_trained(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stage(self: object, name: str, *rest: object) -> Path:
        if name == "teacher":
            raise TrainedError
        return tmp_path

    space = SimpleNamespace(shape=None, notes=("only bits are searched",), missing={"xla": "no jax"}, to_json=dict)
    cut = "no validation split: 3,862 rows were cut from train"
    (tmp_path / "data.json").write_text(json.dumps({"notes": [cut], "digest": "d"}))
    base = SimpleNamespace(folder=tmp_path, facts=None, notes=(), space=space)
    monkeypatch.setattr(runner, "searched_model", lambda *arguments: base)
    monkeypatch.setattr(runner.Stages, "__call__", stage)
    messages: list[str] = []
    chosen = load_config(config, [f"mlruns={tmp_path / 'mlruns'}"], names())
    with pytest.raises(TrainedError):
        runner.prepare(chosen, lambda stage, done: None, say=messages.append)
    assert messages == [f"note: {cut}", "note: only bits are searched", "xla is left out: no jax"]


def test_what_was_tried_since_the_final_timing_is_shown_by_its_quick_timing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study that had ended goes on: a trial since then is the fastest and the most accurate."""
    before = factory.front(12)
    best = factory.outcome(12, 0.9, 1.0)
    worse = factory.outcome(13, 0.5, 14.0)
    begun(tmp_path, Front(factory.TARGETS, (*before.outcomes, best, worse)), run="two")
    final = factory.campaign(before)
    about = {
        "config": factory.CONFIG,
        "hardware": factory.HARDWARE,
        "rows": {"train": 9},
        "notes": [],
        **study_attributes.NOTHING_FINAL,
        "trials": [outcome.number for outcome in before.outcomes],
        "final": final.to_json(),
    }
    set_attribute(tmp_path, NAME, "about", about)
    set_attribute(tmp_path, NAME, study_attributes.ENDED, "one")
    assert show(NAME, True, mlruns=tmp_path) == 0
    data = json.loads(capsys.readouterr().out)
    assert [member["number"] for member in data["members"]] == data["quick_timings"] == [12]
    [member] = data["members"]
    assert member["measurements"]["latency_p50_ms"]["value"] == pytest.approx(0.8), "at the campaign's speed"
    reasons = {trial["number"]: trial["reason"] for trial in data["trials"]}
    assert reasons[13].startswith("dominated by 12") and not reasons[12]
