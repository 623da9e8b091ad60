"""An extractive question answerer: what it returns is what transformers' question-answering pipeline returned.

(The pipeline itself is gone since transformers 5.3; `search.tasks.spans` names the definition that is followed.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from search.config.schema import DATA
from search.errors import UserError
from search.serve.model import Model
from search.tasks.question_answering import QuestionAnswering, QuestionRows
from search.tasks.questions import Questions


class Answerer(Model):
    """An exported question answerer."""

    def __call__(
        self,
        question: str | Sequence[str],
        context: str | Sequence[str],
        batch_size: int | None = None,
    ) -> Any:
        """{"score": ..., "start": ..., "end": ..., "answer": ...}: `start` and `end` are characters of the context.

        A list of questions gives a list; one context may stand for all of them.

        Args:
            batch_size: windows run together; when not given, all windows of a question, or of as many questions as the
                model was measured with.

        Raises:
            TypeError: something else than texts.
            ValueError: an empty question or context, lists of other lengths, or a question that leaves no room for
                its context.
        """
        single = isinstance(question, str)
        asked = [question] if isinstance(question, str) else list(question)
        contexts = [context] * len(asked) if isinstance(context, str) else list(context)
        _check(asked, contexts)
        if not asked:
            return []
        none: tuple[tuple[Any, ...], ...] = ((),) * len(asked)
        names = tuple(str(number + 1) for number in range(len(asked)))
        part = Questions(names, tuple(asked), tuple(contexts), none, none)
        task, data = QuestionAnswering(), DATA.validate_python(self.record.config["data"])
        try:
            with self._tokenizing:
                rows = task.encode(self._tokenizer, part, data, ())
        except UserError as error:
            raise ValueError(str(error)) from None
        encoded = rows.encoded
        outputs: list[Any] = [None] * len(encoded)
        for chosen, batch in self._calls(rows) if batch_size is None else self._outputs(encoded, batch_size):
            for row, one in zip(chosen, batch, strict=True):
                outputs[row] = one[: encoded.lengths[row]]
        answers = [
            {"score": answer.score, "start": answer.start, "end": answer.end, "answer": answer.text}
            for answer in rows.answers(np.concatenate(outputs))
        ]
        return answers[0] if single else answers

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


def _check(questions: Sequence[Any], contexts: Sequence[Any]) -> None:
    if len(questions) != len(contexts):
        raise ValueError(f"as many contexts as questions are needed, got {len(contexts)} and {len(questions)}")
    for what, texts in (("question", questions), ("context", contexts)):
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"a {what} must be a string, got {text!r:.80}")
            if not text.strip():
                raise ValueError(f"a {what} must not be empty, got {text!r}")
