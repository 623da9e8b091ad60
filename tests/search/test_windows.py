"""Windows hold their question, cover their context, share the stride and mark the answers where they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.errors import UserError
from search.tasks.question_answering import QuestionRows
from search.tasks.questions import Questions
from search.tasks.windows import Windows, windows
from tests import tiny

#: Twelve words, each a token; "plot" and "funny" are there twice.
CONTEXT = "the plot is funny and the actor in the plot is funny"


def asked(*rows: tuple[str, str, list[tuple[str, int]]]) -> Questions:
    """Questions of (question, context, [(answer, start)])."""
    return Questions(
        tuple(f"q{i}" for i in range(len(rows))),
        tuple(question for question, _, _ in rows),
        tuple(context for _, context, _ in rows),
        tuple(tuple(text for text, _ in answers) for _, _, answers in rows),
        tuple(tuple(start for _, start in answers) for _, _, answers in rows),
    )


def at(text: str, context: str = CONTEXT) -> tuple[str, int]:
    return text, context.index(text)


def cut(questions: Questions, max_length: int = 12, doc_stride: int = 3) -> Windows:
    """In windows of 12 tokens, a question of two words leaves room for seven of its context."""
    return windows(tiny.word_tokenizer(), questions, max_length, doc_stride)


def words(pieces: Windows, window: int, questions: Questions) -> list[str]:
    """The context's part in a window, token by token."""
    context = questions.contexts[pieces.question[window]]
    return [context[s:e] for s, e in pieces.offsets[window] if s >= 0]


def test_a_long_context_becomes_windows_that_share_the_stride() -> None:
    questions = asked(("the score", CONTEXT, []))
    pieces, split = cut(questions), CONTEXT.split()
    assert [words(pieces, i, questions) for i in range(len(pieces))] == [split[:7], split[4:11], split[8:]]
    tokenizer = tiny.word_tokenizer()
    for i, row in enumerate(pieces.encoded.columns["input_ids"]):
        expected = ["[CLS]", "the", "score", "[SEP]", *words(pieces, i, questions), "[SEP]"]
        assert tokenizer.convert_ids_to_tokens(row.tolist()) == expected
        assert pieces.offsets[i].shape == (len(row), 2) and pieces.offsets[i].dtype == np.int32
        assert (pieces.offsets[i][[0, 1, 2, 3, -1]] == -1).all()
    assert pieces.encoded.lengths.tolist() == [12, 12, 9]


def test_token_types_are_there_for_models_that_take_them() -> None:
    tokenizer = tiny.word_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask", "token_type_ids"]
    pieces = windows(tokenizer, asked(("the score", CONTEXT, [])), 12, 3)
    assert pieces.encoded.columns["token_type_ids"][0].tolist() == [0] * 4 + [1] * 8
    assert set(pieces.encoded.padding) == {"input_ids", "attention_mask", "token_type_ids"}


def test_a_short_context_is_one_window_whatever_the_stride() -> None:
    questions = asked(("the score", "the plot is funny", []), ("the score", CONTEXT, []), ("plot", "film", []))
    pieces = cut(questions)
    assert pieces.question.tolist() == [0, 1, 1, 1, 2]
    assert words(pieces, 4, questions) == ["film"]
    assert len(cut(asked(("the score", "the plot is funny", [])), doc_stride=100)) == 1


@pytest.mark.parametrize(("contexts", "passes"), [(["the plot", "film"], 1), (["the plot", CONTEXT], 2)])
def test_contexts_are_tokenized_a_second_time_only_to_be_cut(contexts: list[str], passes: int) -> None:
    tokenizer, calls = tiny.word_tokenizer(), list[Any]()

    class Counted:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, *texts: Any, **settings: Any) -> Any:
            calls.append(texts)
            return tokenizer(*texts, **settings)

    windows(Counted(), asked(*(("the score", context, []) for context in contexts)), 12, 3)
    assert len(calls) == passes


def test_windows_are_those_of_each_question_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are tokenized at a time."""
    contexts = [" ".join(CONTEXT.split()[:length]) for length in (3, 12, 7, 8, 12)]
    questions = asked(*(("the score", context, [(context[:3], 0)]) for context in contexts))
    whole = cut(questions)
    monkeypatch.setattr("search.tasks.windows.QUESTION_CHUNK", 2)
    pieces = cut(questions)
    assert pieces.question.tolist() == whole.question.tolist()
    assert all((a == b).all() for a, b in zip(pieces.offsets, whole.offsets, strict=True))
    assert (pieces.targets == whole.targets).all()
    alone = [len(cut(questions.rows(np.array([i])))) for i in range(5)]
    assert np.bincount(whole.question).tolist() == alone == [1, 3, 1, 2, 3]


def test_the_target_is_the_answer_where_it_is_whole() -> None:
    last = CONTEXT.rindex("funny")
    questions = asked(("the score", CONTEXT, [("funny", last)]), ("the score", CONTEXT, [at("the actor in the")]))
    pieces = cut(questions)
    # Windows hold words 0-6, 4-10 and 8-11, behind four tokens; the answers are word 11 and words 5-8.
    assert pieces.targets.tolist() == [[0, 0], [0, 0], [7, 7], [0, 0], [5, 8], [0, 0]]
    assert pieces.targets.dtype == np.int64


def test_the_target_is_the_first_gold_answer_that_fits() -> None:
    pieces = cut(asked(("the score", CONTEXT, [at("actor in the plot"), at("is funny and"), at("the plot is")])))
    # Words 6-9, 2-4 and 0-2: the first is cut by the first window, and whole in the second.
    assert pieces.targets.tolist() == [[6, 8], [6, 9], [0, 0]]


def test_an_unanswerable_question_has_the_first_token_as_target() -> None:
    assert cut(asked(("the score", CONTEXT, []))).targets.tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("answer", ["funny", " funny", "funny ", "unn", "\u00a0"])
def test_an_answer_is_of_the_tokens_that_it_touches(answer: str) -> None:
    context = "the plot is funny and\u00a0warm"
    pieces = cut(asked(("the score", context, [at(answer, context)])))
    assert pieces.targets.tolist() == ([[0, 0]] if answer == "\u00a0" else [[7, 7]])


def test_characters_no_token_holds_do_not_hide_an_answer_at_an_end() -> None:
    """Line breaks around a context, as SQuAD's have them."""
    context = "\nthe plot\n"
    pieces = cut(asked(("the score", context, [(context, 0)])))
    assert pieces.targets.tolist() == [[4, 5]]


def test_offsets_are_of_characters_not_bytes() -> None:
    context = "“日本” the plot – funny 😀 warm"
    questions = asked(("the score", context, [at("warm", context)]))
    pieces = cut(questions, max_length=24)
    start, end = pieces.targets[0]
    assert context[pieces.offsets[0][start, 0] : pieces.offsets[0][end, 1]] == "warm"


def test_windows_are_the_same_after_they_were_written(tmp_path: Path) -> None:
    questions = asked(("the score", CONTEXT, [at("funny")]), ("plot", "film", []))
    pieces = cut(questions)
    QuestionRows(pieces, questions).write(tmp_path, "train")
    reread = QuestionRows.read(tmp_path, "train").windows
    assert reread.question.tolist() == pieces.question.tolist() and (reread.targets == pieces.targets).all()
    assert reread.encoded.padding == pieces.encoded.padding
    assert reread.encoded.lengths.tolist() == pieces.encoded.lengths.tolist()
    pairs = [(reread.offsets, pieces.offsets)]
    pairs += [(reread.encoded.columns[name], rows) for name, rows in pieces.encoded.columns.items()]
    for ours, theirs in pairs:
        assert all(a.dtype == b.dtype and (a == b).all() for a, b in zip(ours, theirs, strict=True))
    assert reread.encoded.batch(np.arange(4))["input_ids"].shape == (4, 12)


@pytest.mark.parametrize(
    ("question", "sizes", "message"),
    [
        (
            "the plot in the film",
            {"max_length": 8},
            r'data.max_length: must leave room for context behind question "q1" \(5 tokens: "the plot in the film"\) '
            "and 3 special tokens, got 8",
        ),
        (
            "the score",
            {"doc_stride": 7},
            r"data.doc_stride: must be less than the 7 tokens of context that fit into 12 tokens behind "
            r'question "q1" \(2 tokens: "the score"\), got 7; or raise data.max_length',
        ),
    ],
)
def test_a_window_without_room_is_refused(question: str, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        cut(asked(("the", "film", []), (question, CONTEXT, [])), **sizes)


def test_the_tokenizers_limit_holds_too() -> None:
    tokenizer = tiny.word_tokenizer()
    tokenizer.model_max_length = 12
    assert windows(tokenizer, asked(("the score", CONTEXT, [])), 384, 3).encoded.lengths.max() == 12


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    slow: Any = Slow()
    with pytest.raises(UserError) as caught:
        windows(slow, asked(("the score", CONTEXT, [])), 12, 3, lambda key: f"c.yaml: {key}")
    assert re.search(r"^c.yaml: model.name: question answering needs a fast tokenizer .*, got Slow$", str(caught.value))
