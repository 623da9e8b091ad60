"""What the packaged embedding model retrieves untrained: the context of each question, among all contexts of a file.

    python -m benchmarks.zero_shot                     the test split of the embedded example, 1,000 contexts
    python -m benchmarks.zero_shot --questions FILE    another parquet file in SQuAD's columns, or several
    python -m benchmarks.zero_shot --quick             500 questions of each, among their own contexts

Rows are read and scored as the task sentence-similarity does; intervals are 95 %, by bootstrap over questions. Beside
them: how many of the file's rows have an answer that does not stand at its `answer_start`, as the task
question-answering counts them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import header
from objectives import quality, retrieval
from objectives.measurement import Measurement
from search.front.formatting import interval, text
from search.serve.packaged_embedder import PackagedEmbedder
from search.tasks.corpus import PassageData
from search.tasks.passages import read_passages
from search.tasks.questions import QuestionData, read_questions
from search.tasks.similarity import CUTOFFS, scores

EXAMPLE = header.ROOT / "search" / "quickstart" / "question_answering"
QUICK = 500


@dataclass(frozen=True)
class Retrieved:
    """How well the contexts of a file's questions are found."""

    file: str
    questions: int
    contexts: int
    misplaced: int  # rows with an answer that does not stand where answer_start says
    metrics: tuple[Measurement, ...]


def measured(file: Path, embed: Callable[[Sequence[str]], np.ndarray], limit: int | None = None) -> Retrieved:
    """The metrics of retrieval over the questions of `file`, or over `limit` of them among their own contexts."""
    others = {split: str(EXAMPLE / f"{split}.parquet") for split in ("train", "validation")}
    data = PassageData(**others, test=str(file), query="question", passage="context", limit=limit)
    (_, _, part), _ = read_passages(data, str)
    *_, notes = read_questions(QuestionData(**others, test=str(file)), str)
    place = rf"(\d+) rows of {re.escape(file.name)} dropped: "
    misplaced = sum(int(match[1]) for note in notes if (match := re.match(place, note)))
    embeddings = embed([*part.queries, *part.passages])
    count = len(part)
    ranks = retrieval.ranks(embeddings[:count], embeddings[count:], [np.array(one) for one in part.relevant])
    none = np.zeros(count, dtype=np.int64)
    metrics = tuple(quality.quality(metric, scores(metric, ranks), none, 0, 0, {}) for metric in CUTOFFS)
    return Retrieved(file.name, count, len(part.passages), misplaced, metrics)


def row_of(one: Retrieved) -> tuple[Any, ...]:
    shown = (f"{text(metric)} ({interval(metric)})" for metric in one.metrics)
    return (one.file, f"{one.questions:,}", f"{one.contexts:,}", one.misplaced, *shown)


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--questions", type=Path, nargs="+", default=[EXAMPLE / "test.parquet"], metavar="FILE")
    arguments = parser.parse_args()
    about = header.hardware()
    print(header.heading(about), flush=True)
    embed = PackagedEmbedder()
    files = [measured(file, embed, QUICK if arguments.quick else None) for file in arguments.questions]
    columns = ("file", "questions", "contexts", "misplaced answers", *CUTOFFS)
    print(header.table(columns, [row_of(one) for one in files]))
    return header.finish(arguments, about, files, [])


if __name__ == "__main__":
    sys.exit(main())
