"""The answers of extractive question answering: from start and end logits of windows to spans of the contexts.

Spans are chosen and scored as transformers' question-answering pipeline does with `align_to_words=False`, as last
defined in transformers 5.2.0 (`pipelines/question_answering.py`, removed in 5.3): a span's score is the probability
of its start times that of its end, each a softmax over the tokens of the context and the first token, and spans that
read the same, in upper or lower case, add up. So a score may be above 1 where windows overlap. Other than there, the
first token takes part also where a tokenizer has no [CLS], since it is what stands for "no answer" in training.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.tasks.questions import Questions
from search.tasks.windows import Windows

WINDOW_CHUNK = 64  # windows at a time, so that memory stays flat
LOWEST = -1e9  # in the place of a logit that is no number; finite, so that differences of two stay numbers


@dataclass(frozen=True, slots=True)
class SpanAnswer:
    """An answer to one question; the empty text stands for "no answer"."""

    text: str
    start: int  # characters of the context before it
    end: int
    score: float
    null_odds: float  # "no answer" against the best span, in logits: above 0 where the model finds it likelier


#: (text, start, end, score) of a `SpanAnswer`.
ScoredSpan = tuple[str, int, int, float]


@dataclass(frozen=True)
class Candidates:
    """The likeliest spans of each window (W, K), best first, and "no answer" (W,)."""

    logits: np.ndarray  # of start and end together; -inf: there are fewer spans
    scores: np.ndarray
    characters: np.ndarray  # (W, K, 2), of the context
    null_logits: np.ndarray
    null_scores: np.ndarray


def ranked_spans(
    start: Sequence[np.ndarray],
    end: Sequence[np.ndarray],
    windows: Windows,
    questions: Questions,
    top_k: int = 1,
    n_best: int = 20,
    max_answer_len: int = 30,
    null_threshold: float | None = None,
) -> list[list[SpanAnswer]]:
    """The `top_k` best answers to each question, best first, from the logits (length,) of each window's tokens.

    The `n_best` (and no fewer than `top_k`) spans of each window, of at most `max_answer_len` tokens, are candidates.
    With a `null_threshold` the first answer is empty where the question's `null_odds` are above it: the least logit sum
    of the first token in any window, less the greatest of a span (Devlin et al. 2019, section 4.3, for SQuAD v2.0).
    There is one answer or more: the empty one with score 0 where a context has no token.
    """
    spans: list[dict[str, ScoredSpan]] = [{} for _ in range(len(questions))]
    null_logits, best_logits = np.full(len(questions), np.inf), np.full(len(questions), -np.inf)
    null_scores = np.full(len(questions), np.inf)
    for first in range(0, len(windows), WINDOW_CHUNK):
        chunk = slice(first, first + WINDOW_CHUNK)
        candidates = _candidates(start[chunk], end[chunk], windows.offsets[chunk], max(n_best, top_k), max_answer_len)
        of = windows.question[chunk]
        np.minimum.at(null_logits, of, candidates.null_logits)
        np.minimum.at(null_scores, of, candidates.null_scores)
        np.maximum.at(best_logits, of, candidates.logits.max(axis=1, initial=-np.inf))
        for number, finite, places, scores in zip(
            of.tolist(),
            np.isfinite(candidates.logits).sum(axis=1).tolist(),  # (best first: what is not finite is behind)
            candidates.characters.tolist(),
            candidates.scores.tolist(),
            strict=True,
        ):
            _add(spans[number], questions.contexts[number], places[:finite], scores[:finite])
    ranked = []
    for number, odds in enumerate((null_logits - best_logits).tolist()):
        best = heapq.nlargest(top_k, spans[number].values(), key=lambda span: span[3])
        answers = [SpanAnswer(*span, odds) for span in best]
        if null_threshold is not None and odds > null_threshold:
            answers.insert(0, SpanAnswer("", 0, 0, float(null_scores[number]), odds))
        ranked.append(answers[:top_k] or [SpanAnswer("", 0, 0, 0.0, np.inf)])
    return ranked


def _add(
    spans: dict[str, ScoredSpan], context: str, places: Sequence[tuple[int, int]], scores: Sequence[float]
) -> None:
    """Add a window's spans to those of its question; one that reads the same only raises the score."""
    for (start, end), score in zip(places, scores, strict=True):
        text = context[start:end]
        first = spans.setdefault(text.lower(), (text, start, end, 0.0))
        spans[text.lower()] = (*first[:3], first[3] + score)


def _candidates(
    start: Sequence[np.ndarray], end: Sequence[np.ndarray], offsets: Sequence[np.ndarray], n_best: int, longest: int
) -> Candidates:
    """The best spans of some windows (B), all at once."""
    lengths = np.array([len(rows) for rows in offsets])
    width = int(lengths.max())
    real = np.arange(width) < lengths[:, None]  # (B, L)
    characters = np.full((len(offsets), width, 2), -1)
    characters[real] = np.concatenate(offsets)
    starts, ends = both = _padded(start, end, lengths, real)
    context = characters[:, :, 0] >= 0
    counted = context.copy()
    counted[:, 0] = True
    norm = _log_sum_exp(np.where(counted, both, -np.inf)).sum(axis=0)
    # A span is a first token and how many follow it: (B, L, longest) sums hold every span that is short enough.
    longest = min(longest, width)
    begins, stops = np.where(context, both, -np.inf)
    behind = np.full((len(offsets), width + longest - 1), -np.inf)
    behind[:, :width] = stops
    sums = begins[:, :, None] + np.lib.stride_tricks.sliding_window_view(behind, longest, axis=1)
    first, more, logits = _best(sums, n_best)
    rows = np.arange(len(offsets))[:, None]
    last = np.minimum(first + more, width - 1)  # (behind the end: of no span, its logits are -inf)
    null = starts[:, 0] + ends[:, 0]
    return Candidates(
        logits,
        np.exp(logits - norm[:, None]),
        np.stack([characters[rows, first, 0], characters[rows, last, 1]], axis=-1),
        null,
        np.exp(null - norm),
    )


def _best(sums: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first token, how many follow it, sum), (B, K) each, of the greatest `count` of (B, L, longest) sums."""
    # No span is among the best whose start is not among the `count` starts with the best spans: few are compared.
    rows = np.arange(len(sums))[:, None]
    starts = np.sort(_greatest(sums.max(axis=2), count), axis=1)
    flat = sums[rows, starts].reshape(len(sums), -1)
    chosen = np.sort(_greatest(flat, count), axis=1)
    # Of equal sums, the first in the context is first.
    chosen = chosen[rows, np.argsort(-flat[rows, chosen], axis=1, kind="stable")]
    start, more = np.divmod(chosen, sums.shape[2])
    return starts[rows, start], more, flat[rows, chosen]


def _greatest(values: np.ndarray, count: int) -> np.ndarray:
    """Where the greatest `count` of each row (B, N) are, in no order; all of them where there are fewer."""
    count = min(count, values.shape[1])
    return np.argpartition(values, -count, axis=1)[:, -count:]


def _padded(
    start: Sequence[np.ndarray], end: Sequence[np.ndarray], lengths: np.ndarray, real: np.ndarray
) -> np.ndarray:
    """Logits of start and end (2, B, L) float64, one row a window."""
    sides = ([row[:length] for row, length in zip(side, lengths, strict=True)] for side in (start, end))
    logits = np.array([np.concatenate(rows) for rows in sides], dtype=np.float64)
    padded = np.full((2, *real.shape), LOWEST)
    padded[:, real] = np.nan_to_num(logits, nan=LOWEST, posinf=-LOWEST, neginf=LOWEST)
    return padded


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """(..., L) -> (...); a row holds a finite number."""
    most = logits.max(axis=-1)
    total: np.ndarray = most + np.log(np.exp(logits - most[..., None]).sum(axis=-1))
    return total
