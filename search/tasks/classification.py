"""Text classification: one text, or a pair of texts, and one label of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import Where
from search.tasks.rows import read_splits
from search.tasks.task import Split, Splits
from search.tasks.text import Encoded, encode

if TYPE_CHECKING:
    import torch

    from search.sections import DataConfig
    from search.tasks.heads import Head


class Classification:
    """One label a text. Models give "logits" (B, C)."""

    name = "classification"
    metrics: tuple[str, ...] = ("accuracy", "f1", "matthews")
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

    def reply(self, outputs: Mapping[str, np.ndarray], labels: Sequence[str]) -> list[dict[str, Any]]:
        """Each row's best label and its softmax probability: [{"label": "positive", "score": 0.98}]."""
        logits = np.asarray(outputs["logits"], dtype=np.float64)
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        scores = odds / odds.sum(axis=-1, keepdims=True)
        best = logits.argmax(axis=-1)
        return [{"label": labels[b], "score": float(row[b])} for b, row in zip(best, scores, strict=True)]
