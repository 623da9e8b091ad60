"""Sentence similarity: embeddings whose cosine ranks relevant passages or similar texts.

Rows are queries with relevant passages, scored by where these stand among all passages of the split; scored pairs are
in `scored_pairs`. The teacher is the model as it is; a candidate is recovered by the teacher's embeddings, without
labels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import Where
from search.tasks.corpus import PassageData
from search.tasks.encoded import read_encoded, write_encoded
from search.tasks.one_head import BaseTask
from search.tasks.parity_rule import EMBEDDING_PARITY
from search.tasks.passages import Passages, read_passages
from search.tasks.task import ConstantGuess, Splits
from search.tasks.tokens import Encoded, encode

if TYPE_CHECKING:
    from objectives.retrieval import Ranks
    from search.tasks.trained_labels import TrainedLabels

#: The rank at which each metric cuts the list off.
CUTOFFS = {"recall_at_1": 1, "recall_at_10": 10, "mrr_at_10": 10, "ndcg_at_10": 10}


def scores(metric: str, ranks: Ranks) -> np.ndarray:
    """The metric of each query (Q,), from the ranks of its relevant passages."""
    from objectives import retrieval

    by: dict[str, Callable[..., np.ndarray]] = {
        "recall": retrieval.recall_at,
        "mrr": retrieval.reciprocal_rank,
        "ndcg": retrieval.ndcg,
    }
    return by[metric.partition("_")[0]](ranks, CUTOFFS[metric])


@dataclass(frozen=True)
class PassageRows:
    """`Rows` of queries; outputs are embeddings (E, D), of the queries and then of all passages."""

    encoded: Encoded
    parts: Passages

    classes = 0

    @cached_property
    def references(self) -> np.ndarray:
        return np.zeros(len(self.parts), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def calls(self) -> np.ndarray:
        return self.encoded.one_each

    def write(self, folder: Path, name: str) -> None:
        write_encoded(folder / f"{name}.npz", self.encoded, np.zeros(len(self.encoded), dtype=np.int64))
        text = json.dumps(asdict(self.parts), ensure_ascii=False)
        (folder / f"{name}.passages.json").write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, name: str) -> PassageRows:
        columns = json.loads((folder / f"{name}.passages.json").read_text(encoding="utf-8"))
        relevant = tuple(map(tuple, columns.pop("relevant")))
        parts = Passages(**{key: tuple(column) for key, column in columns.items()}, relevant=relevant)
        return cls(read_encoded(folder / f"{name}.npz")[0], parts)

    def chosen(self, rows: np.ndarray) -> PassageRows:
        """These queries, among all passages: with fewer of them a query would be easier."""
        indices = np.concatenate([rows, np.arange(len(self.parts), len(self.encoded))])
        old = self.parts
        parts = Passages(
            tuple(old.queries[i] for i in rows),
            tuple(old.query_ids[i] for i in rows),
            old.passages,
            old.passage_ids,
            tuple(old.relevant[i] for i in rows),
        )
        return PassageRows(self.encoded.chosen(indices), parts)

    def predictions(self, metric: str, output: np.ndarray) -> np.ndarray:
        """The metric of each query: (N,) float64, by cosine."""
        from objectives import retrieval

        length = np.linalg.norm(output, axis=1, keepdims=True)
        unit = output / np.maximum(length, np.finfo(np.float32).tiny)
        count = len(self.parts)
        relevant = [np.array(passages) for passages in self.parts.relevant]
        return scores(metric, retrieval.ranks(unit[:count], unit[count:], relevant))

    def constant_guess(self, metric: str) -> ConstantGuess:
        """The expected score of a query whose passages are ranked uniformly at random."""
        total = len(self.parts.passages)
        rng = np.random.default_rng(0)
        drawn = [
            scores(metric, [np.sort(rng.choice(total, len(some), replace=False)) + 1 for some in self.parts.relevant])
            for _ in range(32)
        ]
        return ConstantGuess(np.mean(drawn, axis=0), "where passages stand in a random order")

    def problem(self) -> str:
        count = len(self.parts.passages)
        return "" if count > 1 else f"must have two passages or more, got {count}"

    def details(self, predictions: np.ndarray) -> dict[str, Any]:
        return {"passages": len(self.parts.passages)}


class SentenceSimilarity(BaseTask):
    """Texts with embeddings. Models give "sentence_embedding" (B, D)."""

    name = "sentence-similarity"
    keys = PassageData
    metrics: tuple[str, ...] = tuple(CUTOFFS)
    own_head = "embedding"
    supervised = False
    distills = BaseTask.distills - {"task"}  # the data have no labels
    embeds = True
    reply_model = "search.serve.embedder:Embedder"
    parity = EMBEDDING_PARITY

    variant_classes: tuple[str, ...] = ("search.tasks.scored_pairs:ScoredSimilarity",)

    def load(self, data: PassageData, where: Where = str, trained: TrainedLabels | None = None) -> Splits:
        (train, validation, test), notes = read_passages(data, where)
        return Splits(train, validation, test, notes=notes)

    def encode(self, tokenizer: Any, part: Any, data: PassageData, labels: tuple[str, ...], where: Where = str) -> Any:
        return PassageRows(encode(tokenizer, (*part.queries, *part.passages), None, data.max_length), part)

    def read(self, folder: Path, name: str) -> Any:
        return PassageRows.read(folder, name)
