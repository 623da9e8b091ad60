"""What `plan` says is what `run` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.config.load import load_config
from search.errors import UserError
from search.planning import plan_lines
from search.prepare import isolate, runner
from search.space.choices import names
from search.space.space import Space


class TrainedError(Exception):
    """The teacher's training has begun."""


@pytest.fixture
def spaces(monkeypatch: pytest.MonkeyPatch) -> list[Space]:
    """The spaces that are opened; stages run in this process, and the teacher's raises `TrainedError`."""
    opened: list[Space] = []
    real = runner.open_space

    def here(function: Any, folder: Path, *arguments: Any, timeout_s: float | None, progress: Any) -> None:
        if function is runner.make_teacher:
            raise TrainedError
        function(folder, *arguments, progress=progress)

    def opening(*arguments: Any) -> Space:
        opened.append(real(*arguments))
        return opened[-1]

    monkeypatch.setattr(isolate, "run", here)
    monkeypatch.setattr(runner, "open_space", opening)
    return opened


def test_plan_opens_the_space_and_says_the_notes_of_a_run(config: Path, tmp_path: Path, spaces: list[Space]) -> None:
    overrides = ["space.distill.layers=1", "data.max_length=4096", f"mlruns={tmp_path / 'mlruns'}"]
    chosen = load_config(config, overrides, names())
    messages: list[str] = []
    with pytest.raises(TrainedError):
        runner.prepare(chosen, lambda stage, done: None, say=messages.append)
    lines = list(plan_lines(chosen))
    of_run, of_plan = spaces
    assert of_plan.to_json() == of_run.to_json()
    assert any(f"{of_run.size():,} settings of {len(of_run.searched)} knobs" in line for line in lines)
    notes = [line.strip() for line in lines if line.startswith("  note: ")]
    assert notes == [message for message in messages if message.startswith("note: ")]
    assert any("rows are cut at" in note for note in notes)


def test_a_knob_out_of_range_is_refused_by_both_alike_before_data_are_read(
    config: Path, tmp_path: Path, spaces: list[Space]
) -> None:
    overrides = ["space.distill.layers=99", f"mlruns={tmp_path / 'mlruns'}"]
    chosen = load_config(config, overrides, names())
    done: list[str] = []
    with pytest.raises(UserError) as of_run:
        runner.prepare(chosen, lambda stage, share: done.append(stage))
    with pytest.raises(UserError) as of_plan:
        next(plan_lines(chosen))
    assert str(of_plan.value) == str(of_run.value) and "99" in str(of_run.value)
    assert spaces == [] and "reading data" not in done
