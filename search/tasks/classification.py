"""Text classification: one text, or a pair of texts, and one label of several; other problem types derive from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import Where, show
from search.tasks.encoded import EncodedRows, read_encoded
from search.tasks.one_head import BaseTask
from search.tasks.rows import LabelledData, one_label, read_splits
from search.tasks.task import ConstantGuess, Rows, Split, Splits
from search.tasks.tokens import Encoded, encode

if TYPE_CHECKING:
    from search.config.schema import DataConfig, ModelConfig
    from search.tasks.trained_labels import TrainedLabels

#: Descriptions of the heads of transformers' problem types.
PROBLEMS = {
    "single_label_classification": "one label a text",
    "multi_label_classification": "several labels a text",
    "regression": "a number a text",
}


@dataclass(frozen=True)
class LabelledRows(EncodedRows):
    """`Rows` of texts with one label each, references (N,) int64; outputs are logits (N, C)."""

    def predictions(self, metric: str, output: np.ndarray) -> np.ndarray:
        """The label with the largest logit: (N,) int64."""
        best: np.ndarray = np.argmax(output, axis=-1)
        return best

    def constant_guess(self, metric: str) -> ConstantGuess:
        from objectives import quality

        _, number = quality.constant_guess(metric, self.references, self.classes)
        return ConstantGuess(
            np.full_like(self.references, number), f"where every row is called {show(self.labels[number])}"
        )

    def problem(self) -> str:
        if len(np.unique(self.references)) > 1:
            return ""
        only = show(self.labels[int(self.references[0])])
        return f"must have rows of two labels or more, got {len(self)} rows of {only}"

    def details(self, predictions: np.ndarray) -> dict[str, Any]:
        from objectives import quality

        return {"classes": quality.per_class(predictions, self.references, self.labels)}


class Classification(BaseTask):
    """One label a text. Models give "logits" (B, C)."""

    name = "classification"
    keys: type[DataConfig] = LabelledData
    problem_type: str = "single_label_classification"
    metrics: tuple[str, ...] = ("accuracy", "f1", "matthews_correlation")
    own_head = "native"
    labelled = True
    reply_model = "search.serve.classifier:Classifier"
    rows: Callable[[Encoded, np.ndarray, tuple[str, ...]], Rows] = LabelledRows

    variant_classes: tuple[str, ...] = ("search.tasks.multi_label:MultiLabel", "search.tasks.regression:Regression")

    def head(self, model: ModelConfig, described: Any) -> str:
        from spaces.heads import head_named

        return "native" if model.head == "auto" and head_named("native").is_own(described) else "mean"

    def unusable(self, problem_type: str | None, outputs: int) -> str:
        trained_for = problem_type or ("regression" if outputs == 1 else self.problem_type)
        if trained_for == self.problem_type and outputs > 1:
            return ""
        gives = PROBLEMS.get(trained_for, trained_for)
        return (
            f"the model's head gives {gives} (problem_type {problem_type or 'null'}, {outputs} labels), and the search "
            f"is for {PROBLEMS[self.problem_type]}; set model.problem_type: {trained_for}, or model.head: mean for a "
            "new head"
        )

    def paired(self, data: LabelledData) -> bool:
        return data.text_pair is not None

    def load(self, data: LabelledData, where: Where = str, trained: TrainedLabels | None = None) -> Splits:
        return read_splits(data, where, trained, one_label)

    def encode(
        self, tokenizer: Any, part: Split, data: LabelledData, labels: tuple[str, ...], where: Where = str
    ) -> Rows:
        return self.rows(encode(tokenizer, part.texts, part.pairs, data.max_length), part.labels, labels)

    def read(self, folder: Path, name: str) -> Rows:
        labels = json.loads((folder / "data.json").read_text(encoding="utf-8"))["labels"]
        return self.rows(*read_encoded(folder / f"{name}.npz"), tuple(labels))


def reply(
    logits: np.ndarray,
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
    numbers = np.asarray(logits, dtype=np.float64)
    scores = SCORE_FUNCTIONS[function or _function_of(problem, numbers.shape[-1])](numbers)
    order = np.argsort(-scores, axis=-1, kind="stable")[:, :top_k]
    return [
        [{"label": labels[i], "score": float(row[i])} for i in best] for best, row in zip(order, scores, strict=True)
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
SCORE_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": _softmax,
    "sigmoid": _sigmoid,
    "none": lambda logits: logits,
}
