"""How long finding the nearest passages takes, and what the inverted file misses.

    python -m benchmarks.retrieval                 100,000 and 400,000 passages
    python -m benchmarks.retrieval --quick         100,000

Passages are the embeddings (384 numbers) of the embedded example's sentences, each several times with noise, so that
there are as many as wanted: the noise keeps copies of a sentence at a cosine of about 0.8 to it. Questions are the
example's own, embedded. Recall is the share of the ten exact nearest passages that are found.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import header
from benchmarks.served import questions
from search.serve.approximate import NEIGHBOURS
from search.serve.packaged_embedder import PackagedEmbedder
from search.serve.passage_index import Index
from search.serve.sentences import sentences

#: Length of the noise that is added to an embedding of length 1.
NOISE = 0.75


def embedded(texts: list[str]) -> np.ndarray:
    embed = PackagedEmbedder()
    return np.concatenate([np.asarray(embed(texts[i : i + 64])) for i in range(0, len(texts), 64)])


def passages(rows: np.ndarray, count: int) -> np.ndarray:
    """(count, D) of length 1."""
    random = np.random.default_rng(0)
    chosen = rows[np.arange(count) % len(rows)]
    noisy = chosen + NOISE / rows.shape[1] ** 0.5 * random.normal(size=chosen.shape).astype(np.float32)
    return noisy / np.linalg.norm(noisy, axis=1, keepdims=True)


def searched(index: Index, asked: np.ndarray) -> tuple[float, list[list[int]]]:
    """(median milliseconds of a search, the passages found)."""
    times, nearest = [], []
    for question in asked:
        began = time.perf_counter()
        hits = index.search(question, NEIGHBOURS)
        times.append((time.perf_counter() - began) * 1e3)
        nearest.append([hit.passage for hit in hits])
    return float(np.median(times)), nearest


def main() -> int:
    arguments = header.options(__doc__ or "").parse_args()
    about = header.hardware()
    print(header.heading(about), flush=True)
    contexts = list(dict.fromkeys(one.context for one in questions()))
    rows = embedded([text[start:end] for text in contexts for start, end in sentences(text)])
    asked = embedded([one.question for one in questions()][:500])
    figures, lines, promises = [], [], []
    for count in (100_000,) if arguments.quick else (100_000, 400_000):
        stored = passages(rows, count)
        with tempfile.TemporaryDirectory() as folder:
            exact = Index(Path(folder) / "exact", rows.shape[1], exact=count)
            exact.add(enumerate(stored))
            exact_ms, right = searched(exact, asked)
            began = time.perf_counter()
            index = Index(Path(folder) / "clusters", rows.shape[1], exact=count - 1)
            index.add(enumerate(stored))
            built_s = time.perf_counter() - began
            found_ms, nearest = searched(index, asked)
        assert index.approximate is not None
        recall = float(np.mean([len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(nearest, right, strict=True)]))
        figures.append({"passages": count, "exact_ms": exact_ms, "ms": found_ms, "recall": recall, "built_s": built_s})
        lines.append((f"{count:,}", f"{exact_ms:.2f}", f"{found_ms:.2f}", f"{exact_ms / found_ms:.1f}",
                      str(index.approximate.probes), f"{100 * recall:.1f}", f"{100 * index.recall:.1f}",
                      f"{built_s:.0f}"))  # fmt: skip
        promises.append(header.Promise(f"{count:,} passages: recall, %", 100 * recall, low=97))
        promises.append(header.Promise(f"{count:,} passages: times as fast", exact_ms / found_ms, low=3))
    columns = ("passages", "exact ms", "clusters ms", "times", "read", "recall %", "by its own count %", "built s")
    print(header.table(columns, lines))
    return header.finish(arguments, about, figures, promises)


if __name__ == "__main__":
    sys.exit(main())
