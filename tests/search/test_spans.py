"""The answer is the span that transformers' pipeline gives; "no answer" follows the rule of SQuAD v2.0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from search.tasks.questions import Questions
from search.tasks.spans import SpanAnswer, ranked_spans
from search.tasks.windows import Windows, windows
from tests import tiny

Logits = list[np.ndarray]


def asked(*contexts: str) -> tuple[Questions, Windows]:
    """A question of two words about each context, in windows of 12 tokens: at most seven words, behind four tokens."""
    count = len(contexts)
    questions = Questions(tuple(map(str, range(count))), ("the score",) * count, contexts, ((),) * count, ((),) * count)
    return questions, windows(tiny.word_tokenizer(), questions, 12, 3)


def random_case(seed: int) -> tuple[Questions, Windows, Logits, Logits]:
    rng = np.random.default_rng(seed)
    contexts = (" ".join(rng.choice(tiny.WORDS[5:], int(rng.integers(1, 25)))) for _ in range(30))
    questions, pieces = asked(*(text.title() if rng.random() < 0.5 else text for text in contexts))
    return questions, pieces, *([rng.normal(0, 3, len(o)) for o in pieces.offsets] for _ in range(2))


def certain(pieces: Windows, *places: tuple[int, int, int, float]) -> tuple[Logits, Logits]:
    """Logits that are 0 but for the start and end of spans (window, first token, last token, logit of each)."""
    start, end = ([np.zeros(len(o)) for o in pieces.offsets] for _ in range(2))
    for window, first, last, logit in places:
        start[window][first] = end[window][last] = logit
    return start, end


def best_answers(
    start: Logits, end: Logits, pieces: Windows, questions: Questions, **settings: Any
) -> list[SpanAnswer]:
    """The first answer to each question."""
    return [answers[0] for answers in ranked_spans(start, end, pieces, questions, **settings)]


def softmax(logits: np.ndarray) -> np.ndarray:
    chances: np.ndarray = np.exp(logits) / np.exp(logits).sum()
    return chances


def by_loops(
    start: Logits,
    end: Logits,
    offsets: Sequence[np.ndarray],
    question: Sequence[int] | np.ndarray,
    contexts: Sequence[str],
    n_best: int,
    longest: int,
) -> list[tuple[str, int, int, float]]:
    """(text, start, end, score) a question, as transformers' pipeline of 5.2.0 has them with `align_to_words=False`.

    `offsets` of each window's tokens are -1 outside of the context; `question` is the number of a window's.
    """
    answers: list[dict[str, tuple[str, int, int, float]]] = [{} for _ in range(len(contexts))]
    for number, places, starts, ends in zip(question, offsets, start, end, strict=True):
        context = [i for i, (begin, _) in enumerate(places) if begin >= 0]
        counted = [0, *context]
        first, last = (dict(zip(counted, softmax(logits[counted]), strict=True)) for logits in (starts, ends))
        spans = [(first[i] * last[j], i, j) for i in context for j in context if 0 <= j - i < longest]
        for score, i, j in sorted(spans, reverse=True)[:n_best]:
            begin, stop = int(places[i, 0]), int(places[j, 1])
            text = contexts[number][begin:stop]
            before = answers[number].get(text.lower(), (text, begin, stop, 0.0))
            answers[number][text.lower()] = (*before[:3], before[3] + score)
    return [max(scores.values(), key=lambda answer: answer[3]) for scores in answers]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n_best", "longest"), [(1, 30), (20, 30), (20, 3), (5, 1), (1000, 30)])
def test_answers_are_the_pipelines(seed: int, n_best: int, longest: int) -> None:
    questions, pieces, start, end = random_case(seed)
    answers = best_answers(start, end, pieces, questions, n_best=n_best, max_answer_len=longest)
    expected = by_loops(start, end, pieces.offsets, pieces.question, questions.contexts, n_best, longest)
    assert [(answer.text, answer.start, answer.end) for answer in answers] == [answer[:3] for answer in expected]
    np.testing.assert_allclose([answer.score for answer in answers], [answer[3] for answer in expected], rtol=1e-9)
    for answer, context in zip(answers, questions.contexts, strict=True):
        assert answer.text == context[answer.start : answer.end] != ""


def test_answers_do_not_depend_on_what_is_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    questions, pieces, start, end = random_case(3)
    whole = best_answers(start, end, pieces, questions)
    monkeypatch.setattr("search.tasks.spans.WINDOW_CHUNK", 3)
    for one, other in zip(best_answers(start, end, pieces, questions), whole, strict=True):
        assert (one.text, one.start, one.end) == (other.text, other.start, other.end)
        assert one.score == pytest.approx(other.score, rel=1e-12)
        assert one.null_odds == pytest.approx(other.null_odds, rel=1e-12)


def test_the_answer_is_the_span_with_the_likeliest_ends() -> None:
    questions, pieces = asked("the plot is funny and the actor")
    (answer,) = best_answers(*certain(pieces, (0, 5, 7, 9.0)), pieces, questions)
    assert (answer.text, answer.start, answer.end) == ("plot is funny", 4, 17)
    assert answer.score == pytest.approx((np.exp(9) / (np.exp(9) + 7)) ** 2)  # against seven other tokens
    assert answer.null_odds == pytest.approx(0 - 18)


def test_a_span_does_not_end_before_it_starts_nor_leave_the_context_nor_grow_too_long() -> None:
    questions, pieces = asked("the plot is funny and the actor")
    (backwards,) = best_answers(*certain(pieces, (0, 8, 5, 9.0)), pieces, questions, n_best=1)
    assert backwards.text and backwards.null_odds == pytest.approx(-9)  # one of its ends, with another token
    (outside,) = best_answers(*certain(pieces, (0, 2, 11, 9.0)), pieces, questions)
    assert outside.text in questions.contexts[0] and outside.null_odds == pytest.approx(0)
    (short,) = best_answers(*certain(pieces, (0, 4, 10, 9.0)), pieces, questions, max_answer_len=7)
    assert short.text == questions.contexts[0]
    (shorter,) = best_answers(*certain(pieces, (0, 4, 10, 9.0)), pieces, questions, max_answer_len=6)
    assert len(shorter.text.split()) <= 6


def test_the_best_window_answers() -> None:
    context = "the plot is funny and the actor in the scene is warm"
    questions, pieces = asked(context)
    assert len(pieces) == 3
    (answer,) = best_answers(*certain(pieces, (0, 5, 5, 2.0), (2, 7, 7, 8.0)), pieces, questions)
    assert answer.text == "warm" and context[answer.start :] == "warm"


def test_a_span_in_two_windows_adds_up() -> None:
    """As in the pipeline: "and" is the fifth word, in the windows of words 1-7 and 5-11."""
    questions, pieces = asked("the plot is funny and the actor in the scene is warm")
    start, end = certain(pieces, (0, 8, 8, 9.0), (1, 4, 4, 9.0))
    (answer,) = best_answers(start, end, pieces, questions, n_best=1)
    one = np.exp(9) / (np.exp(9) + 7)
    assert answer.text == "and" and answer.score == pytest.approx(2 * one**2, rel=1e-3)


def test_logits_of_padding_count_for_nothing() -> None:
    questions, pieces, start, end = random_case(4)
    padded = [[np.append(row, [99.0, 99.0]) for row in rows] for rows in (start, end)]
    assert best_answers(padded[0], padded[1], pieces, questions) == best_answers(start, end, pieces, questions)


def test_logits_that_are_no_numbers_lose() -> None:
    questions, pieces = asked("the plot is funny and the actor")
    start, end = certain(pieces, (0, 5, 7, 9.0))
    start[0][4], end[0][6], end[0][0] = np.nan, -np.inf, -np.inf
    (answer,) = best_answers(start, end, pieces, questions, null_threshold=0.0)
    assert answer.text == "plot is funny" and 0 < answer.score < 1


# --- No answer ----------------------------------------------------------------------------------------------


def test_an_answer_is_empty_where_no_answer_is_likelier_by_more_than_the_threshold() -> None:
    questions, pieces = asked("the plot is funny and the actor")
    start, end = certain(pieces, (0, 0, 0, 5.0), (0, 6, 6, 4.0))
    (odds,) = {best_answers(start, end, pieces, questions, null_threshold=t)[0].null_odds for t in (None, 1.0, 3.0)}
    assert odds == pytest.approx(2 * 5 - 2 * 4)
    thresholds = (None, odds, odds - 0.01)
    texts = {t: best_answers(start, end, pieces, questions, null_threshold=t)[0].text for t in thresholds}
    assert texts == {None: "is", odds: "is", odds - 0.01: ""}
    (empty,) = best_answers(start, end, pieces, questions, null_threshold=1.0)
    chance = np.exp(5) / (np.exp(5) + np.exp(4) + 6)
    assert empty == SpanAnswer("", 0, 0, pytest.approx(chance**2), odds)


def test_no_answer_is_as_likely_as_in_the_window_where_it_is_least() -> None:
    """A question is answered if any window holds its answer."""
    questions, pieces = asked("the plot is funny and the actor in the scene is warm")
    start, end = certain(pieces, (0, 0, 0, 9.0), (1, 0, 0, -1.0), (2, 0, 0, 9.0), (1, 5, 5, 3.0))
    (answer,) = best_answers(start, end, pieces, questions, null_threshold=0.0)
    assert answer.null_odds == pytest.approx(-2 - 6) and answer.text == "the"


@pytest.mark.parametrize("top_k", [1, 3, 50])
def test_the_best_answers_are_the_best_of_all_spans_that_read_differently(top_k: int) -> None:
    questions, pieces, start, end = random_case(5)
    ranked = ranked_spans(start, end, pieces, questions, top_k)
    best = best_answers(start, end, pieces, questions, n_best=max(20, top_k))
    for answers, first in zip(ranked, best, strict=True):
        assert answers[0] == first and 1 <= len(answers) <= top_k
        assert [answer.score for answer in answers] == sorted((answer.score for answer in answers), reverse=True)
        assert len({answer.text.lower() for answer in answers}) == len(answers)
    assert top_k == 1 or any(len(answers) == min(top_k, 20) for answers in ranked)


def test_no_answer_leads_the_spans_where_it_is_likelier() -> None:
    questions, pieces = asked("the plot is funny and the actor")
    start, end = certain(pieces, (0, 0, 0, 9.0), (0, 5, 7, 5.0))
    (answers,) = ranked_spans(start, end, pieces, questions, 3, null_threshold=0.0)
    assert [answer.text for answer in answers][:2] == ["", "plot is funny"] and len(answers) == 3
    (without,) = ranked_spans(start, end, pieces, questions, 3, null_threshold=10.0)
    assert "" not in [answer.text for answer in without] and without[0] == answers[1]
