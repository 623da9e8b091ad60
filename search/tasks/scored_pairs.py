"""Sentence similarity of scored pairs: two texts and their similarity, as in the STS benchmark.

A pair is scored by the cosine of its embeddings, and the metric correlates cosines with the scores of the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import Where
from search.tasks.encoded import read_encoded, write_encoded
from search.tasks.similarity import SentenceSimilarity
from search.tasks.task import ConstantGuess
from search.tasks.tokens import Encoded, encode

if TYPE_CHECKING:
    from search.tasks.corpus import PassageData


@dataclass(frozen=True)
class PairRows:
    """`Rows` of N scored pairs; outputs are embeddings (2N, D), of all first texts and then of all second ones."""

    encoded: Encoded
    references: np.ndarray  # (N,) float64

    classes = 0

    def __len__(self) -> int:
        return len(self.references)

    @property
    def calls(self) -> np.ndarray:
        return self.encoded.one_each

    def write(self, folder: Path, name: str) -> None:
        # (Training takes a target for each text, and here it is the teacher's embedding alone.)
        write_encoded(folder / f"{name}.npz", self.encoded, np.zeros(len(self.encoded), dtype=np.int64))
        np.save(folder / f"{name}.scores.npy", self.references)

    @classmethod
    def read(cls, folder: Path, name: str) -> PairRows:
        scores = np.load(folder / f"{name}.scores.npy", allow_pickle=False)
        return cls(read_encoded(folder / f"{name}.npz")[0], scores)

    def chosen(self, rows: np.ndarray) -> PairRows:
        return PairRows(self.encoded.chosen(np.concatenate([rows, len(self) + rows])), self.references[rows])

    def predictions(self, metric: str, output: np.ndarray) -> np.ndarray:
        """The cosine of each pair: (N,) float64."""
        from objectives import retrieval

        return retrieval.similarities(output[: len(self)], output[len(self) :])

    def constant_guess(self, metric: str) -> ConstantGuess:
        return ConstantGuess(np.zeros(len(self)), "where all pairs are equally alike")

    def problem(self) -> str:
        if len(np.unique(self.references)) > 1:
            return ""
        return f"must have pairs with different scores, got {len(self)} pairs of {self.references[0]:g}"

    def details(self, predictions: np.ndarray) -> dict[str, Any]:
        return {}


class ScoredSimilarity(SentenceSimilarity):
    """Sentence similarity with a score for each pair of texts."""

    chosen_by = "score"
    metrics: tuple[str, ...] = ("spearman", "pearson")

    def encode(
        self, tokenizer: Any, part: Any, data: PassageData, labels: tuple[str, ...], where: Where = str
    ) -> PairRows:
        return PairRows(encode(tokenizer, (*part.first, *part.second), None, data.max_length), part.scores)

    def read(self, folder: Path, name: str) -> PairRows:
        return PairRows.read(folder, name)
