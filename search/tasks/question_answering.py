"""Extractive question answering: the span of a context that answers a question, in SQuAD's columns.

A context longer than a window is cut into overlapping ones (`search.tasks.windows`), and the best span of all windows
is the answer (`search.tasks.spans`). Where the data have questions without an answer, as SQuAD v2.0 has, "no answer"
is given where its logits are above the best span's by more than `data.null_threshold`; the search's figures and
`search.load` use the same threshold.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import Where, wrong
from search.tasks.encoded import read_encoded, write_encoded
from search.tasks.one_head import BaseTask
from search.tasks.questions import QuestionData, Questions, read_questions
from search.tasks.spans import SpanAnswer, ranked_spans
from search.tasks.squad import exact_match, f1
from search.tasks.task import ConstantGuess, Splits
from search.tasks.tokens import Encoded
from search.tasks.windows import Windows, windows

if TYPE_CHECKING:
    from search.tasks.trained_labels import TrainedLabels

#: A row's score by the name of the metric, from the answer and the gold answers.
ANSWER_SCORES: dict[str, Callable[[str, tuple[str, ...]], float]] = {"squad_f1": f1, "exact_match": exact_match}


@dataclass(frozen=True)
class QuestionRows:
    """`Rows` of questions, fed window by window; outputs are logits of start and end, (tokens, 2)."""

    windows: Windows
    questions: Questions
    null_threshold: float | None = None  # None: every question has an answer
    n_best: int = 20  # spans of each window that may be the answer
    max_answer_len: int = 30  # tokens of it

    classes = 0

    @property
    def encoded(self) -> Encoded:
        return self.windows.encoded

    @cached_property
    def references(self) -> np.ndarray:
        return np.zeros(len(self.questions), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.questions)

    @cached_property
    def calls(self) -> np.ndarray:
        """The windows of each question."""
        return np.bincount(self.windows.question, minlength=len(self)).astype(np.int64)

    def write(self, folder: Path, name: str) -> None:
        cut = self.windows
        write_encoded(folder / f"{name}.npz", cut.encoded, cut.targets)
        np.savez(folder / f"{name}.windows.npz", question=cut.question, offsets=np.concatenate(cut.offsets))
        rule = {key: getattr(self, key) for key in QuestionData.scores_rows}
        about = {**rule, "questions": asdict(self.questions)}
        (folder / f"{name}.questions.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, name: str) -> QuestionRows:
        encoded, targets = read_encoded(folder / f"{name}.npz")
        with np.load(folder / f"{name}.windows.npz", allow_pickle=False) as data:
            offsets = np.split(data["offsets"], np.cumsum(encoded.lengths)[:-1])
            cut = Windows(encoded, data["question"], offsets, targets)
        about = json.loads((folder / f"{name}.questions.json").read_text(encoding="utf-8"))
        columns = {key: tuple(_tuple(one) for one in column) for key, column in about.pop("questions").items()}
        return cls(cut, Questions(**columns), **about)

    def chosen(self, rows: np.ndarray) -> QuestionRows:
        number = np.full(len(self), -1)
        number[rows] = np.arange(len(rows))
        of = number[self.windows.question]
        here = np.flatnonzero(of >= 0)
        cut = Windows(
            self.encoded.chosen(here),
            of[here],
            [self.windows.offsets[i] for i in here],
            self.windows.targets[here],
        )
        return replace(self, windows=cut, questions=self.questions.rows(rows))

    def answers(self, output: np.ndarray) -> list[SpanAnswer]:
        """The answer to each question."""
        return [answers[0] for answers in self.ranked(output, 1)]

    def ranked(self, output: np.ndarray, top_k: int) -> list[list[SpanAnswer]]:
        """The `top_k` best answers to each question, best first."""
        lengths = self.encoded.lengths
        parts = [output[end - length : end] for end, length in zip(np.cumsum(lengths), lengths, strict=True)]
        starts, ends = ([part[:, side] for part in parts] for side in (0, 1))
        rule = (self.n_best, self.max_answer_len, self.null_threshold)
        return ranked_spans(starts, ends, self.windows, self.questions, top_k, *rule)

    def predictions(self, metric: str, output: np.ndarray) -> np.ndarray:
        """The metric of each question: (N,) float64."""
        return self._scores(metric, [answer.text for answer in self.answers(output)])

    def _scores(self, metric: str, texts: list[str]) -> np.ndarray:
        score = ANSWER_SCORES[metric]
        return np.array([score(text, golds) for text, golds in zip(texts, self.questions.answers, strict=True)])

    def constant_guess(self, metric: str) -> ConstantGuess:
        """No answer to any question: never right in SQuAD v1.1, right in half of the rows of v2.0."""
        return ConstantGuess(self._scores(metric, [""] * len(self)), "where no question is answered")

    def problem(self) -> str:
        return ""

    def details(self, predictions: np.ndarray) -> dict[str, Any]:
        return {}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class QuestionAnswering(BaseTask):
    """Questions about a context each. Models give "span_logits" (B, L, 2), of an answer's first and last token."""

    name = "question-answering"
    keys = QuestionData
    metrics: tuple[str, ...] = ("squad_f1", "exact_match")
    own_head = "span"
    outputs: int | None = 2
    slides = True
    call = "a question with all windows of its context"
    reply_model = "search.serve.answerer:Answerer"

    def unusable(self, problem_type: str | None, outputs: int) -> str:
        return "" if outputs == 2 else f"its question-answering head gives {outputs} numbers a token; a span has two"

    def paired(self, data: QuestionData) -> bool:
        return True

    def load(self, data: QuestionData, where: Where = str, trained: TrainedLabels | None = None) -> Splits:
        train, validation, test, notes = read_questions(data, where)
        unanswerable = any(not golds for part in (train, validation, test) for golds in part.answers)
        if unanswerable and data.null_threshold is None:
            rule = "a number where questions have no answer, as in SQuAD v2.0 (0.0: no answer where its logits lead)"
            raise wrong(where("data.null_threshold"), rule, None)
        return Splits(train, validation, test, notes=notes)

    def encode(
        self, tokenizer: Any, part: Questions, data: QuestionData, labels: tuple[str, ...], where: Where = str
    ) -> QuestionRows:
        if data.doc_stride >= data.max_length:
            raise wrong(where("data.doc_stride"), f"less than data.max_length ({data.max_length})", data.doc_stride)
        cut = windows(tokenizer, part, data.max_length, data.doc_stride, where)
        return QuestionRows(cut, part, data.null_threshold, data.n_best, data.max_answer_len)

    def read(self, folder: Path, name: str) -> QuestionRows:
        return QuestionRows.read(folder, name)
