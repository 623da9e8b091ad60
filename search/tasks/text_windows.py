"""Documents become windows of tokens in which each token is scored once.

Windows of a document overlap by `overlap` tokens, which are context only in the second one, so that every token has at
least so many before it, where the document has. This is the strided perplexity of transformers' guide
(https://huggingface.co/docs/transformers/perplexity), whose stride is `max_length` less the overlap. No window spans
two documents, and a document's first token is scored only where the tokenizer puts one before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search.errors import UserError, Where
from search.tasks.documents import Documents
from search.tasks.encoded import read_encoded, write_encoded
from search.tasks.tokens import Encoded, with_padding

DOCUMENT_CHUNK = 64  # documents tokenized at a time, so that memory stays flat


@dataclass(frozen=True)
class TextWindows:
    """Windows in the order of the documents and of their tokens."""

    encoded: Encoded  # one row a window
    first: np.ndarray  # (W,) int64, position of the first scored token; those before are context
    bytes: np.ndarray  # (W,) int64, UTF-8 bytes of the scored tokens

    def __len__(self) -> int:
        return len(self.first)

    @property
    def counts(self) -> np.ndarray:
        """(W,) scored tokens, at least 1 each."""
        counts: np.ndarray = self.encoded.lengths - self.first
        return counts

    def chosen(self, rows: np.ndarray) -> TextWindows:
        return TextWindows(self.encoded.chosen(rows), self.first[rows], self.bytes[rows])

    def write(self, folder: Path, name: str) -> None:
        write_encoded(folder / f"{name}.npz", self.encoded, self.first)
        np.savez(folder / f"{name}.bytes.npz", bytes=self.bytes)

    @classmethod
    def read(cls, folder: Path, name: str) -> TextWindows:
        encoded, first = read_encoded(folder / f"{name}.npz")
        with np.load(folder / f"{name}.bytes.npz", allow_pickle=False) as data:
            return cls(encoded, first, data["bytes"])


def text_windows(tokenizer: Any, part: Documents, max_length: int, overlap: int, where: Where = str) -> TextWindows:
    """Windows of at most `max_length` tokens or the tokenizer's limit, as many as `part.scored_tokens` allows.

    Raises:
        UserError: the tokenizer gives no offsets, windows have no room for a new token, or a whole split does not fill
            one window.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"{where('model.name')}: causal-lm needs a fast tokenizer (tokenizer.json), which tells where tokens stand "
            f"in the text, got {type(tokenizer).__name__}"
        )
    limit = min(max_length, tokenizer.model_max_length)
    if overlap >= limit:
        raise UserError(f"{where('data.doc_stride')}: must be less than the {limit} tokens of a window, got {overlap}")
    ids: list[np.ndarray] = []
    first, sizes, total = [], [], 0
    for start in range(0, len(part), DOCUMENT_CHUNK):
        texts = part.texts[start : start + DOCUMENT_CHUNK]
        rows = tokenizer(list(texts), return_offsets_mapping=True, return_attention_mask=False, verbose=False)
        for text, tokens, offsets in zip(texts, rows["input_ids"], rows["offset_mapping"], strict=True):
            ends = _byte_ends(text, offsets)
            total += len(tokens)
            for begin, scored, end in spans(len(tokens), limit, overlap):
                ids.append(np.asarray(tokens[begin:end], dtype=np.int64))
                first.append(scored - begin)
                sizes.append(int(ends[end - 1] - ends[scored - 1]))
    if part.whole and total < limit:
        raise UserError(
            f"{where('data.max_length')}: must be at most the {total} tokens of {part.origin}, got {limit}; give more "
            "text, or a shorter window"
        )
    columns = {"input_ids": ids, "attention_mask": [np.ones_like(row) for row in ids]}
    windows = TextWindows(with_padding(tokenizer, columns), np.array(first, np.int64), np.array(sizes, np.int64))
    return windows if part.scored_tokens is None else windows.chosen(spread(windows.counts, part.scored_tokens))


def sums_from(encoded: Encoded, first: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(R,): the sum of each row of `values` (tokens,), one row after the other, from its position `first` (R,)."""
    starts = np.cumsum(encoded.lengths) - encoded.lengths
    sums: np.ndarray = np.add.reduceat(np.where(counted_from(encoded, first), values, 0.0), starts)
    return sums


def counted_from(encoded: Encoded, first: np.ndarray) -> np.ndarray:
    """(tokens,) bool: whether a token is at or after its row's position `first` (R,)."""
    starts = np.cumsum(encoded.lengths) - encoded.lengths
    position = np.arange(int(encoded.lengths.sum())) - np.repeat(starts, encoded.lengths)
    counted: np.ndarray = position >= np.repeat(first, encoded.lengths)
    return counted


def spans(tokens: int, limit: int, overlap: int) -> list[tuple[int, int, int]]:
    """(begin, first scored, end) of each window of a document; none where no token follows another."""
    bounds, begin, scored = [], 0, 1
    while scored < tokens:
        end = min(begin + limit, tokens)
        bounds.append((begin, scored, end))
        begin, scored = end - overlap, end
    return bounds


def spread(counts: np.ndarray, tokens: int) -> np.ndarray:
    """Windows (rising) that score at most `tokens` of `counts` (W,), spread evenly over all; at least two if there are.

    Documents of a file may be sorted by kind, so that its first windows would be of one kind.
    """
    most = min(len(counts), max(2, int(tokens / counts.mean()) if len(counts) else 0))
    while True:
        rows = np.unique(np.linspace(0, len(counts) - 1, most).round().astype(np.int64))
        if most <= 2 or counts[rows].sum() <= tokens:
            return rows
        most -= 1


def _byte_ends(text: str, offsets: Any) -> np.ndarray:
    """(tokens,): bytes of the text up to the end of each token. A special token, at (0, 0), ends where the last did."""
    ends = np.maximum.accumulate(np.array([end for _, end in offsets], dtype=np.int64)) if len(offsets) else np.zeros(0)
    widths = np.fromiter((len(mark.encode("utf-8", "surrogatepass")) for mark in text), np.int64, len(text))
    return np.concatenate([[0], np.cumsum(widths)])[ends.astype(np.int64)]
