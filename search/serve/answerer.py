"""An extractive question answerer with the results of transformers' question-answering pipeline.

(That pipeline was removed in transformers 5.3; `search.tasks.spans` names the definition that is followed.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from search.errors import UserError
from search.serve.exported_model import ExportedModel, check_whole
from search.tasks.question_answering import QuestionAnswering, QuestionRows
from search.tasks.questions import QuestionData, Questions
from search.tasks.spans import SpanAnswer


class Answerer(ExportedModel):
    """An exported question answerer."""

    def __call__(
        self,
        question: str | Sequence[str],
        context: str | Sequence[str],
        batch_size: int | None = None,
        top_k: int = 1,
        max_answer_len: int | None = None,
        n_best: int | None = None,
    ) -> Any:
        """{"score": ..., "start": ..., "end": ..., "answer": ...}: `start` and `end` are characters of the context.

        A list of questions gives a list; a single context is used for all of them.

        Args:
            batch_size: windows per call; None: all windows of as many questions as in a call that was measured.
            top_k: above 1 a question has a list of so many answers, best first, or of fewer where there are no more.
            max_answer_len: tokens of an answer, at most; when not given, those of the search (`data.max_answer_len`,
                30 by default; the pipeline had 15).
            n_best: spans of each window that may be the answer; when not given, those of the search (`data.n_best`, 20
                by default; the pipeline had `top_k`). Never fewer than `top_k`.

        Raises:
            TypeError: an argument that is not a string or a list of strings.
            ValueError: an empty question or context, lists of other lengths, a question that leaves no room for its
                context, or a number below 1.
        """
        single = isinstance(question, str)
        asked = [question] if isinstance(question, str) else list(question)
        contexts = [context] * len(asked) if isinstance(context, str) else list(context)
        _check(asked, contexts)
        check_whole("top_k", top_k, 1)
        rule = {"max_answer_len": max_answer_len, "n_best": n_best}
        given = {name: number for name, number in rule.items() if number is not None}
        for name, number in given.items():
            check_whole(name, number, 1)
        if not asked:
            return []
        rows = self._encoded(asked, contexts, replace(self._data, **given) if given else self._data)
        ranked = [list(map(_reply, answers)) for answers in rows.ranked(self._output_of(rows, batch_size), top_k)]
        replies: list[Any] = [answers[0] for answers in ranked] if top_k == 1 else list(ranked)
        return replies[0] if single else replies

    def _encoded(self, asked: Sequence[str], contexts: Sequence[str], data: QuestionData) -> QuestionRows:
        """Windows of the questions. Raises ValueError: a question leaves no room for its context."""
        none: tuple[tuple[Any, ...], ...] = ((),) * len(asked)
        names = tuple(str(number + 1) for number in range(len(asked)))
        part = Questions(names, tuple(asked), tuple(contexts), none, none)
        try:
            with self._tokenizing:
                return QuestionAnswering().encode(self._tokenizer, part, data, ())
        except UserError as error:
            raise ValueError(str(error)) from None

    def _output_of(self, rows: QuestionRows, batch_size: int | None) -> np.ndarray:
        """(tokens, 2) logits of start and end of all windows."""
        encoded = rows.encoded
        outputs: list[Any] = [None] * len(encoded)
        calls = self._calls(rows) if batch_size is None else self._outputs(encoded, self._size(batch_size))
        for chosen, batch in calls:
            for row, one in zip(chosen, batch, strict=True):
                outputs[row] = one[: encoded.lengths[row]]
        return np.concatenate(outputs)

    def _calls(self, rows: QuestionRows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(windows, the output for them) of each call as it was timed."""
        for start in range(0, len(rows), self._batch):
            chosen = np.flatnonzero((rows.windows.question >= start) & (rows.windows.question < start + self._batch))
            yield chosen, self.output(rows.encoded.batch(chosen))

    def answers(self, rows: Sequence[str | Mapping[str, str]]) -> list[Any]:
        if any(isinstance(row, str) for row in rows):
            raise TypeError("a row must be a mapping {question: ..., context: ...}, got a string")
        asked = [row for row in rows if not isinstance(row, str)]
        return list(self([row["question"] for row in asked], [row["context"] for row in asked]))


def _reply(answer: SpanAnswer) -> dict[str, Any]:
    return {"score": answer.score, "start": answer.start, "end": answer.end, "answer": answer.text}


def _check(questions: Sequence[Any], contexts: Sequence[Any]) -> None:
    if len(questions) != len(contexts):
        raise ValueError(f"as many contexts as questions are needed, got {len(contexts)} and {len(questions)}")
    for what, texts in (("question", questions), ("context", contexts)):
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"a {what} must be a string, got {text!r:.80}")
            if not text.strip():
                raise ValueError(f"a {what} must not be empty, got {text!r}")
