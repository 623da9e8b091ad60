"""Text classification: one text, or a pair of texts, and one label of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import Where
from search.tasks.rows import read_splits
from search.tasks.task import Split, Splits
from search.tasks.tokens import Encoded, encode

if TYPE_CHECKING:
    import torch

    from search.config.schema import DataConfig
    from search.tasks.heads import Head


class Classification:
    """One label a text. Models give "logits" (B, C)."""

    name = "classification"
    metrics: tuple[str, ...] = ("accuracy", "f1", "matthews_correlation")
    auto_model = "AutoModelForSequenceClassification"

    def load(self, data: DataConfig, where: Where = str, head: Head | None = None) -> Splits:
        return read_splits(data, where, head)

    def encode(self, tokenizer: Any, split: Split, max_length: int) -> Encoded:
        return encode(tokenizer, split.texts, split.pairs, max_length)

    def decide(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The label with the largest logit: (B, C) -> (B,) int64."""
        best: np.ndarray = np.argmax(outputs["logits"], axis=-1)
        return best

    def loss(self, outputs: Mapping[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy of logits (B, C), in float32, against labels (B,)."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs["logits"].float(), labels)

    def reply(
        self,
        outputs: Mapping[str, np.ndarray],
        labels: Sequence[str],
        problem: str | None = None,
        function: str | None = None,
        top_k: int | None = 1,
    ) -> list[list[dict[str, Any]]]:
        """Each row's `top_k` best labels (None: all), best first: [[{"label": "positive", "score": 0.98}]].

        As transformers' pipeline has it, scores are probabilities over all labels; of `problem`
        "multi_label_classification", and of a single label, each label's own; of "regression" the output itself.
        `function` ("softmax", "sigmoid", "none") overrules that.
        """
        logits = np.asarray(outputs["logits"], dtype=np.float64)
        scores = SCORES[function or _function_of(problem, logits.shape[-1])](logits)
        order = np.argsort(-scores, axis=-1, kind="stable")[:, :top_k]
        return [
            [{"label": labels[i], "score": float(row[i])} for i in best]
            for best, row in zip(order, scores, strict=True)
        ]


def _function_of(problem: str | None, labels: int) -> str:
    if problem == "regression":
        return "none"
    return "sigmoid" if problem == "multi_label_classification" or labels == 1 else "softmax"


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: np.ndarray = odds / odds.sum(axis=-1, keepdims=True)
    return shares


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(-np.abs(logits))  # no overflow on either side
    shares: np.ndarray = np.where(logits >= 0, 1, odds) / (1 + odds)
    return shares


#: Logits (B, C) to scores, by transformers' names.
SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": _softmax,
    "sigmoid": _sigmoid,
    "none": lambda logits: logits,
}
