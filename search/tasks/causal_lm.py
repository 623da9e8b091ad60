"""Causal language models, scored by the likelihood that they give to texts.

Rows are windows of documents (`search.tasks.text_windows`), scored by the mean log-likelihood of their tokens; the
metric is the perplexity of all tokens together. The constant guess gives every token its frequency in the scored rows:
the best distribution that is the same at every position. A data set of many tokens is nearer to it than to the
vocabulary's size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import UserError, Where
from search.tasks.documents import DocumentData, Documents, read_documents
from search.tasks.one_head import BaseTask
from search.tasks.parity_rule import LIKELIHOOD_PARITY
from search.tasks.task import LIKELIEST, ConstantGuess, Splits
from search.tasks.text_windows import TextWindows, counted_from, sums_from, text_windows
from search.tasks.tokens import Encoded

if TYPE_CHECKING:
    from search.tasks.trained_labels import TrainedLabels

#: The tokens that count as one row where the number of rows is bounded: logits over a vocabulary are large.
TOKENS_A_ROW = 8


@dataclass(frozen=True)
class WindowRows:
    """`Rows` of windows; outputs are log-likelihoods (tokens,)."""

    windows: TextWindows

    classes = 0

    @property
    def encoded(self) -> Encoded:
        return self.windows.encoded

    @property
    def references(self) -> np.ndarray:
        """(N,) float64: the number of scored tokens of each window, which weights its mean."""
        return self.windows.counts.astype(np.float64)

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def calls(self) -> np.ndarray:
        return self.encoded.one_each

    def write(self, folder: Path, name: str) -> None:
        self.windows.write(folder, name)

    def chosen(self, rows: np.ndarray) -> WindowRows:
        return WindowRows(self.windows.chosen(rows))

    def predictions(self, metric: str, output: np.ndarray) -> np.ndarray:
        """The mean log-likelihood of each window's scored tokens: (N,) float64, in nats."""
        return self._means(output.astype(np.float64))

    def constant_guess(self, metric: str) -> ConstantGuess:
        tokens = np.concatenate(self.encoded.columns["input_ids"])
        scored = counted_from(self.encoded, self.windows.first)
        _, inverse, counts = np.unique(tokens[scored], return_inverse=True, return_counts=True)
        likelihoods = np.zeros(len(tokens))
        likelihoods[scored] = np.log(counts / counts.sum())[inverse]
        return ConstantGuess(self._means(likelihoods), "where every token is guessed by its frequency in these rows")

    def problem(self) -> str:
        return "" if len(self) > 1 else f"must have two windows or more, got {len(self)}"

    def details(self, predictions: np.ndarray) -> dict[str, Any]:
        """Bits per byte, which is comparable between tokenizers, and the numbers of scored tokens and bytes."""
        counts, size = self.windows.counts, int(self.windows.bytes.sum())
        bits = -float((predictions * counts).sum()) / math.log(2)
        return {"bits_per_byte": bits / max(1, size), "tokens": int(counts.sum()), "bytes": size}

    def _means(self, likelihoods: np.ndarray) -> np.ndarray:
        means: np.ndarray = sums_from(self.encoded, self.windows.first, likelihoods) / self.windows.counts
        return means


class CausalLM(BaseTask):
    """Texts continued token by token. Models give "log_likelihood" (B, L)."""

    name = "causal-lm"
    keys = DocumentData
    metrics: tuple[str, ...] = ("perplexity",)
    own_head = "causal"
    outputs: int | None = 0
    generates = True
    distills = BaseTask.distills | {LIKELIEST}
    reply_model = "search.serve.generator:Generator"
    parity = LIKELIHOOD_PARITY

    variant_classes: tuple[str, ...] = ("search.tasks.choice_rows:CausalChoices",)

    def variant(self, problem_type: str | None, data: DocumentData, metric: str) -> Any:
        questioned = super().variant(problem_type, data, metric)
        return self if questioned is self else type(questioned)(metric)

    def most_rows(self, rows: int, max_length: int) -> int:
        return max(1, rows * TOKENS_A_ROW // max_length)

    def forecast_rows(self, rows: WindowRows) -> tuple[Encoded, np.ndarray]:
        return rows.encoded, rows.windows.first

    def load(self, data: DocumentData, where: Where = str, trained: TrainedLabels | None = None) -> Splits:
        (train, validation, test), notes = read_documents(data, where)
        return Splits(train, validation, test, notes=notes)

    def encode(
        self, tokenizer: Any, part: Documents, data: DocumentData, labels: tuple[str, ...], where: Where = str
    ) -> Any:
        windows = text_windows(tokenizer, part, data.max_length, data.doc_stride, where)
        if not len(windows):
            rule = f"must have texts of two tokens or more, got none in {part.origin}"
            raise UserError(f"{where('data.text')}: {rule}")
        return WindowRows(windows)

    def read(self, folder: Path, name: str) -> Any:
        return WindowRows(TextWindows.read(folder, name))
