"""What a completion is taken to cost: the work of its pieces, and the times that a model is measured by."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from services import variant

from search.serve.completer import Asked
from search.serve.generation_request import PROMPTS, TIMED_TOKENS, timed
from search.serve.generator import READ, Piece
from search.serve.windows import CHARACTERS, WindowSettings


@pytest.mark.parametrize(
    ("windows", "prompt", "most", "work"),
    [
        (WindowSettings(100), 40, 10, 10 + 40 // READ),
        (WindowSettings(100), 40, 5000, 60 + 40 // READ),
        (WindowSettings(100), 400, 5000, 1 + 99 // READ),
        (WindowSettings(100, endless=True), 40, 5000, 5000 + 40 // READ),
        (WindowSettings(100, endless=True), 400, 5000, 5000 + 99 // READ),
    ],
    ids=["short", "to the end of the context", "long prompt", "beyond the context", "long prompt and beyond"],
)
def test_a_completion_is_queued_with_the_tokens_that_are_read_and_generated(
    windows: WindowSettings, prompt: int, most: int, work: int
) -> None:
    assert Asked("x" * CHARACTERS * (prompt - 1), max_tokens=most).work(windows) == work


def test_tokens_that_were_reused_are_no_work() -> None:
    assert Piece("", 10 * READ, 3).computed == 13
    assert Piece("", 10 * READ, 3, reused=9 * READ).computed == 4


@pytest.mark.parametrize("most", [TIMED_TOKENS, 1])
def test_the_time_per_token_is_that_of_steps_of_the_model(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """The pieces with held-back text and the reason of the ending take no step."""
    now = 0.0

    def pieces(prompt: str, max_new_tokens: int) -> Any:
        nonlocal now
        for number in range(min(max_new_tokens, most)):
            now += 0.1 if number else 0.5
            yield Piece("a", 8, number + 1)
        yield Piece("held back", 8, most)
        yield Piece("", 8, most, "length")

    monkeypatch.setattr("search.serve.generation_request.time", SimpleNamespace(perf_counter=lambda: now))
    model: Any = SimpleNamespace(pieces=pieces)
    measured = timed(variant(0, 1.0, 0.8), model)
    (one, first), (many, whole) = measured.points
    assert (one, many) == (1, TIMED_TOKENS) and first == pytest.approx(0.5)
    assert whole == pytest.approx(first + (TIMED_TOKENS - 1) * (0.1 if most > 1 else 0.5))
    assert now == pytest.approx(len(PROMPTS) * (0.5 + 0.1 * (most - 1)))
