"""Multiple-choice questions as rows of a language model, and windows and questions scored side by side.

A row is a context with one of its choices; a blank stands between them where neither brings one. The model's answer is
the choice of the highest log-likelihood over its characters: acc_norm of lm-evaluation-harness (Biderman et al. 2024,
arXiv 2405.14782). A row that is too long loses the beginning of its context.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import UserError, Where, show
from search.tasks.causal_lm import CausalLM, WindowRows
from search.tasks.documents import Documents
from search.tasks.encoded import read_encoded, write_encoded
from search.tasks.multiple_choice import ChoiceQuestions, read_choices
from search.tasks.rows import hash_fractions
from search.tasks.task import ConstantGuess, Rows, Splits
from search.tasks.text_windows import sums_from
from search.tasks.tokens import Encoded, with_padding

if TYPE_CHECKING:
    from search.tasks.documents import DocumentData
    from search.tasks.trained_labels import TrainedLabels

log = logging.getLogger(__name__)

QUESTIONS = "questions"  # in the name of a file beside a split's windows


@dataclass(frozen=True)
class ChoiceRows:
    """`Rows` of N questions with R choices in all; outputs are log-likelihoods (tokens,) of contexts with choices."""

    encoded: Encoded  # R rows
    first: np.ndarray  # (R,) position of the first token of the choice
    characters: np.ndarray  # (R,) of the choice
    counts: np.ndarray  # (N,) choices of each question
    references: np.ndarray  # (N,) int64: which is right

    @property
    def classes(self) -> int:
        return int(self.counts.max())

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def calls(self) -> np.ndarray:
        return self.encoded.one_each

    def write(self, folder: Path, name: str) -> None:
        write_encoded(folder / f"{name}.{QUESTIONS}.npz", self.encoded, self.first)
        answers = folder / f"{name}.{QUESTIONS}.answers.npz"
        np.savez(answers, characters=self.characters, counts=self.counts, references=self.references)

    @classmethod
    def read(cls, folder: Path, name: str) -> ChoiceRows:
        encoded, first = read_encoded(folder / f"{name}.{QUESTIONS}.npz")
        with np.load(folder / f"{name}.{QUESTIONS}.answers.npz", allow_pickle=False) as data:
            return cls(encoded, first, data["characters"], data["counts"], data["references"])

    def chosen(self, rows: np.ndarray) -> ChoiceRows:
        ends = np.cumsum(self.counts)
        of = np.concatenate([np.arange(ends[i] - self.counts[i], ends[i]) for i in rows])
        return ChoiceRows(
            self.encoded.chosen(of), self.first[of], self.characters[of], self.counts[rows], self.references[rows]
        )

    def predictions(self, metric: str, output: np.ndarray) -> np.ndarray:
        """(N,) int64: the choice of the highest likelihood for its length."""
        sums = sums_from(self.encoded, self.first, output.astype(np.float64))
        parts = np.split(sums / self.characters, np.cumsum(self.counts)[:-1])
        return np.array([int(part.argmax()) for part in parts], dtype=np.int64)

    def constant_guess(self, metric: str) -> ConstantGuess:
        from objectives import quality

        _, best = quality.constant_guess(metric, self.references, self.classes)
        return ConstantGuess(np.full_like(self.references, best), f"where every question is answered by choice {best}")

    def problem(self) -> str:
        if len(np.unique(self.references)) > 1:
            return ""
        return (
            f"must have questions with different answers, got {len(self)} whose answer is choice {self.references[0]}"
        )

    def details(self, predictions: np.ndarray) -> dict[str, Any]:
        return {"questions": len(self), "likelihood_over": "characters"}


def choice_rows(tokenizer: Any, asked: ChoiceQuestions, max_length: int, where: Where = str) -> ChoiceRows:
    """Rows of at most `max_length` tokens or the tokenizer's limit, of as many questions as `asked.most_tokens` allows.

    Questions are chosen by hash, because a file may be sorted.

    Raises:
        UserError: a choice that fills a row alone, so that nothing of its context would be left.
    """
    limit = min(max_length, tokenizer.model_max_length)
    by_question: dict[int, list[tuple[np.ndarray, int]]] = {}
    total = cut = 0
    for i in np.argsort(hash_fractions(asked.contexts), kind="stable"):
        rows = [_row(tokenizer, asked.contexts[i], choice) for choice in asked.choices[i]]
        size = sum(min(len(ids), limit) for ids, _ in rows)
        if total + size > asked.most_tokens and len(by_question) > 1:
            break
        for (ids, first), choice in zip(rows, asked.choices[i], strict=True):
            if len(ids) - first >= limit:
                raise UserError(
                    f"{where('data.choices')}: a choice must leave room for its context in {limit} tokens "
                    f"(data.max_length), got {len(ids) - first} tokens: {show(choice)} in {asked.origin}"
                )
        cut += any(len(ids) > limit for ids, _ in rows)
        by_question[int(i)] = [(ids[-limit:], first - max(0, len(ids) - limit)) for ids, first in rows]
        total += size
    if cut:
        log.info("%d questions of %s lose the beginning of their context (data.max_length)", cut, asked.origin)
    chosen = sorted(by_question)
    every = [row for i in chosen for row in by_question[i]]
    columns = {"input_ids": [ids for ids, _ in every], "attention_mask": [np.ones_like(ids) for ids, _ in every]}
    return ChoiceRows(
        with_padding(tokenizer, columns),
        np.array([first for _, first in every], dtype=np.int64),
        np.array([len(choice) for i in chosen for choice in asked.choices[i]], dtype=np.float64),
        np.array([len(asked.choices[i]) for i in chosen], dtype=np.int64),
        np.array([asked.answers[i] for i in chosen], dtype=np.int64),
    )


def _row(tokenizer: Any, context: str, choice: str) -> tuple[np.ndarray, int]:
    """(token ids, position of the first token with a character of the choice, at least 1).

    Tokens that the tokenizer appends to a text (such as an end token) are left out: they are no part of the choice.
    """
    blank = "" if context[-1].isspace() or choice[0].isspace() else " "
    row = tokenizer(context + blank + choice, return_offsets_mapping=True, verbose=False)
    ends = np.array([stop for _, stop in row["offset_mapping"]], dtype=np.int64)
    of_text = np.flatnonzero(ends > 0)
    inside = np.flatnonzero(ends > len(context.rstrip()))  # blanks belong to the first token of the choice
    ids = np.asarray(row["input_ids"], dtype=np.int64)[: int(of_text[-1]) + 1 if len(of_text) else None]
    return ids, max(1, int(inside[0]) if len(inside) else len(ids) - 1)


@dataclass(frozen=True)
class TextsAndQuestions:
    """A part of the data with texts and with questions."""

    texts: Documents
    questions: ChoiceQuestions

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def digest(self) -> str:
        return f"{self.texts.digest}{self.questions.digest}"

    def rows(self, chosen: np.ndarray) -> Documents:
        return self.texts.rows(chosen)

    def shown(self, row: int) -> str:
        return self.texts.shown(min(row, len(self) - 1))


@dataclass(frozen=True)
class BothRows:
    """`Rows` of windows and questions: a model is fed one, then the other; `metric` says by which models are ranked."""

    windows: WindowRows
    questions: ChoiceRows
    metric: str

    @property
    def _main(self) -> WindowRows | ChoiceRows:
        return self.questions if self.metric == "accuracy" else self.windows

    @cached_property
    def encoded(self) -> Encoded:
        first, then = self.windows.encoded, self.questions.encoded
        columns = {name: [*column, *then.columns[name]] for name, column in first.columns.items()}
        return Encoded(columns, first.padding, np.concatenate([first.lengths, then.lengths]))

    @property
    def references(self) -> np.ndarray:
        return self._main.references

    @property
    def classes(self) -> int:
        return self._main.classes

    @property
    def calls(self) -> np.ndarray:
        return self.encoded.one_each

    def __len__(self) -> int:
        return len(self._main)

    def write(self, folder: Path, name: str) -> None:
        self.windows.write(folder, name)
        self.questions.write(folder, name)

    def chosen(self, rows: np.ndarray) -> BothRows:
        if self.metric == "accuracy":
            return BothRows(self.windows, self.questions.chosen(rows), self.metric)
        return BothRows(self.windows.chosen(rows), self.questions, self.metric)

    def predictions(self, metric: str, output: np.ndarray) -> np.ndarray:
        return self._main.predictions(metric, self._parted(output)[0])

    def second(self, output: np.ndarray) -> tuple[str, Rows, np.ndarray]:
        """(metric, rows, their part of `output`) of the score that is reported as well as `metric`."""
        other = self._parted(output)[1]
        return ("perplexity", self.windows, other) if self.metric == "accuracy" else ("accuracy", self.questions, other)

    def _parted(self, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(`output` of the rows that `metric` scores, `output` of the other rows)."""
        windows, questions = np.split(output, [int(self.windows.encoded.lengths.sum())])
        return (questions, windows) if self.metric == "accuracy" else (windows, questions)

    def constant_guess(self, metric: str) -> ConstantGuess:
        return self._main.constant_guess(metric)

    def problem(self) -> str:
        return self._main.problem()

    def details(self, predictions: np.ndarray) -> dict[str, Any]:
        return self._main.details(predictions)


class CausalChoices(CausalLM):
    """Language models scored by texts and by multiple-choice questions; the first metric ranks models."""

    chosen_by = "choices"

    def __init__(self, *metrics: str) -> None:
        self.metrics = metrics or ("perplexity", "accuracy")

    def load(self, data: DocumentData, where: Where = str, trained: TrainedLabels | None = None) -> Splits:
        splits = super().load(data, where, trained)
        validation, test, notes = read_choices(data, where)
        both = (TextsAndQuestions(splits.validation, validation), TextsAndQuestions(splits.test, test))
        return Splits(splits.train, *both, notes=(*splits.notes, *notes))

    def encode(self, tokenizer: Any, part: Any, data: DocumentData, labels: tuple[str, ...], where: Where = str) -> Any:
        if not isinstance(part, TextsAndQuestions):
            return super().encode(tokenizer, part, data, labels, where)
        windows = super().encode(tokenizer, part.texts, data, labels, where)
        return BothRows(windows, choice_rows(tokenizer, part.questions, data.max_length, where), self.metrics[0])

    def read(self, folder: Path, name: str) -> Any:
        windows = super().read(folder, name)
        if not (folder / f"{name}.{QUESTIONS}.npz").is_file():
            return windows
        return BothRows(windows, ChoiceRows.read(folder, name), self.metrics[0])
