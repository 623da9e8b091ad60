"""Questions with long contexts become windows of tokens: each holds the question and a part of its context.

Two windows of one context that follow each other share `doc_stride` tokens of it (transformers' `stride`), so that an
answer of up to so many tokens that one window's end cuts is whole in the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search.errors import UserError, Where, show
from search.tasks.questions import Questions
from search.tasks.tokens import MODEL_COLUMNS, Encoded, with_padding

if TYPE_CHECKING:
    from transformers import BatchEncoding

QUESTION_CHUNK = 256  # questions tokenized at a time, so that memory stays flat


@dataclass(frozen=True)
class Windows:
    """The windows of all questions, in the order of the questions and of their contexts."""

    encoded: Encoded  # one row a window
    question: np.ndarray  # (W,) int64, index of its question
    offsets: list[np.ndarray]  # one (length, 2) int32 a window: characters of the context; -1: no token of it
    targets: np.ndarray  # (W, 2) int64, first and last token of the answer; (0, 0): no answer is in the window

    def __len__(self) -> int:
        return len(self.question)


def windows(tokenizer: Any, questions: Questions, max_length: int, doc_stride: int, where: Where = str) -> Windows:
    """The windows of `questions`, of at most `max_length` tokens or the tokenizer's limit.

    A target is the first gold answer that lies wholly in the window.

    Raises:
        UserError: the tokenizer gives no offsets, or the windows of a question have no room for its context.
    """
    if not getattr(tokenizer, "is_fast", False):
        name = type(tokenizer).__name__
        raise UserError(
            f"{where('model.name')}: question answering needs a fast tokenizer (tokenizer.json), which tells where "
            f"tokens stand in the text, got {name}"
        )
    limit = min(max_length, tokenizer.model_max_length)
    # `tokenizers` refuses a stride longer than a window even where no row is cut.
    stride = min(doc_stride, max(0, limit - tokenizer.num_special_tokens_to_add(pair=True) - 1))
    columns: dict[str, list[np.ndarray]] = {}
    of, offsets, targets = [], [], []
    for first in range(0, len(questions), QUESTION_CHUNK):
        chunk = questions.rows(np.arange(first, min(first + QUESTION_CHUNK, len(questions))))
        rows = _tokenized(tokenizer, chunk, limit, doc_stride, stride, where)
        for name in MODEL_COLUMNS:
            if name in rows:
                columns.setdefault(name, []).extend(np.asarray(row, dtype=np.int64) for row in rows[name])
        numbers = rows["overflow_to_sample_mapping"]
        for i, number in enumerate(numbers):
            spans = _offsets(rows.sequence_ids(i), rows["offset_mapping"][i])
            begins, ends = i == 0 or numbers[i - 1] != number, i + 1 == len(numbers) or numbers[i + 1] != number
            span = (0 if begins else _first(spans), len(chunk.contexts[number]) if ends else int(spans[:, 1].max()))
            of.append(first + number)
            offsets.append(spans)
            targets.append(_target(spans, span, chunk, number))
    encoded = with_padding(tokenizer, columns)
    return Windows(encoded, np.array(of, dtype=np.int64), offsets, np.array(targets, dtype=np.int64).reshape(-1, 2))


def _tokenized(
    tokenizer: Any, chunk: Questions, limit: int, doc_stride: int, stride: int, where: Where
) -> BatchEncoding:
    """The rows of the tokenizer, one a window. Raises UserError where a context that must be cut cannot be."""
    settings = {
        "padding": False,
        "return_overflowing_tokens": True,
        "return_offsets_mapping": True,
        "return_attention_mask": True,
    }
    texts = (list(chunk.questions), list(chunk.contexts))
    # Most contexts fit, and are tokenized once only. (`verbose`: a long one is cut next, it needs no warning.)
    whole: BatchEncoding = tokenizer(*texts, **settings, verbose=False)
    if max(map(len, whole["input_ids"])) <= limit:
        return whole
    _check_room(tokenizer, whole, chunk, limit, doc_stride, where)
    cut: BatchEncoding = tokenizer(*texts, **settings, truncation="only_second", max_length=limit, stride=stride)
    return cut


def _check_room(
    tokenizer: Any, whole: BatchEncoding, chunk: Questions, limit: int, doc_stride: int, where: Where
) -> None:
    """Raise UserError where a context that must be cut into windows cannot be; `whole`: the uncut rows."""
    special = tokenizer.num_special_tokens_to_add(pair=True)
    for row, ids in enumerate(whole["input_ids"]):
        if len(ids) <= limit:
            continue
        question = whole.sequence_ids(row).count(0)
        room = limit - special - question
        what = f"question {show(chunk.ids[row])} ({question} tokens: {show(chunk.questions[row])})"
        if room < 1:
            rule = f"must leave room for context behind {what} and {special} special tokens"
            raise UserError(f"{where('data.max_length')}: {rule}, got {limit}")
        if doc_stride >= room:
            rule = f"must be less than the {room} tokens of context that fit into {limit} tokens behind {what}"
            raise UserError(f"{where('data.doc_stride')}: {rule}, got {doc_stride}; or raise data.max_length")


def _offsets(sequences: Sequence[int | None], spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """(length, 2) int32: where each token stands in the second text, -1 for other tokens."""
    of_context = np.array([number == 1 for number in sequences])
    offsets = np.array(spans, dtype=np.int32).reshape(-1, 2)
    offsets[~of_context] = -1
    return offsets


def _first(offsets: np.ndarray) -> int:
    """The first character of the context in a window."""
    return int(offsets[offsets[:, 0] >= 0, 0].min())


def _target(offsets: np.ndarray, span: tuple[int, int], questions: Questions, number: int) -> tuple[int, int]:
    """(first, last) token of the first answer in a window whose context is the characters `span`."""
    for text, start in zip(questions.answers[number], questions.starts[number], strict=True):
        begin, end = start + len(text) - len(text.lstrip()), start + len(text.rstrip())  # no token is of white space
        if span[0] <= begin and end <= span[1]:
            # (Context only: elsewhere both offsets are -1.) A token that spans more than the answer counts too.
            inside = np.flatnonzero((offsets[:, 1] > begin) & (offsets[:, 0] < end))
            if len(inside):
                return int(inside[0]), int(inside[-1])
    return 0, 0
