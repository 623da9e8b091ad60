"""What a person sees while a search runs."""

from __future__ import annotations

import io
import re
import sys

import pytest
from rich.console import Console

from search.cli.terminal import show_table
from search.front.formatting import describe
from search.front.front import Front
from search.report import progress as view
from search.report.progress import Lines, LiveTable

from . import factory


@pytest.fixture
def text(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of 160 columns shows; every redraw is drawn."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160, color_system=None)
    monkeypatch.setattr("rich.console.Console", lambda: console)
    monkeypatch.setattr(view, "REDRAW_S", 0.0)
    return text


def plain(text: io.StringIO) -> str:
    """Without what moves the cursor."""
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]|\r", "", text.getvalue())


def observed(trials: int) -> tuple[LiveTable, Front]:
    """A live view after all trials of a made-up study."""
    whole = factory.front(trials)
    live, front = LiveTable(40, factory.study(whole)), Front(factory.TARGETS)
    for outcome in whole.outcomes:
        front = front.add(outcome)
        live.observe(outcome, front)
    return live, front


def test_the_live_view_has_a_line_for_each_trial_and_the_table_of_the_front(text: io.StringIO) -> None:
    live, front = observed(12)
    live.progress("recovery", 0.25)
    live.say("note: rows were cut")
    live.close()
    screen = plain(text)
    for outcome in front.outcomes:
        line = rf"(?<!\d){outcome.number}  [^\n]*{re.escape(describe(outcome.recipe)[:40])}"
        assert re.search(line, screen), outcome.number
    last = screen[screen.rindex("movie-reviews:") :]
    for member in front.members:
        assert re.search(rf"^.*\b{member.number}\b.*$", last, re.MULTILINE), member.number
    assert "recovery 25 %  (12 of 40" in last and "note: rows were cut" in screen


def test_the_live_view_tells_what_the_next_trial_is_expected_to_add(text: io.StringIO) -> None:
    live, front = observed(5)
    live.forecast(0.012)
    live.observe(front.outcomes[-1], front.add(front.outcomes[-1]))
    live.close()
    assert "next expected to add 1.2 %" in plain(text)


def test_before_the_first_trial_the_live_view_shows_the_stage_alone(text: io.StringIO) -> None:
    live = LiveTable(40, factory.study(factory.front(5)))
    live.progress("teacher", 0.5)
    live.close()
    assert "teacher 50 %" in plain(text) and "movie-reviews" not in plain(text)


def test_without_a_terminal_a_stage_is_a_line_once() -> None:
    text = io.StringIO()
    lines = Lines(40, text)
    for done in (0.0, 0.5, 1.0):
        lines.progress("teacher", done)
    lines.progress("statistics", 0.0)
    assert [line.split(maxsplit=1)[1] for line in text.getvalue().splitlines()] == ["teacher ...", "statistics ..."]


def test_lines_that_nobody_reads_any_more_end_a_search_as_ctrl_c_does() -> None:
    """As an OSError it would be taken for the failure of the trial that is being measured."""

    class Closed(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    with pytest.raises(KeyboardInterrupt):
        Lines(40, Closed()).progress("eager: timing", 0.0)


def test_a_table_on_a_narrow_terminal_still_has_its_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    front = factory.front()
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show_table(front, factory.study(front))
    shown = capsys.readouterr().out
    assert "trial" in shown and all(f" {member.number} " in shown for member in front.members)
