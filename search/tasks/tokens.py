"""Text to token ids, and token ids to batches of rows of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search.errors import UserError
from spaces.loading import ModelError, reading

#: Two texts that any tokenizer encodes, if only as its unknown token.
PROBES = ("the film", "a story")
ROW_CHUNK = 2048  # rows tokenized at a time, so that memory stays flat


@dataclass(frozen=True)
class Encoded:
    """Rows as token ids, unpadded."""

    columns: dict[str, list[np.ndarray]]  # input name -> one (length,) int64 array a row
    padding: dict[str, int]  # input name -> the value behind a row's end
    lengths: np.ndarray  # (N,) int64, tokens

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def one_each(self) -> np.ndarray:
        """(N,) ones: each row is a call of its own (`Rows.calls`)."""
        return np.ones(len(self), dtype=np.int64)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """These rows (B,) as arrays (B, L) int64, padded at the right to the longest of them."""
        shape = (len(rows), int(self.lengths[rows].max()))
        inputs = {}
        for name, column in self.columns.items():
            padded = np.full(shape, self.padding[name], dtype=np.int64)
            for i, row in enumerate(rows):
                padded[i, : len(column[row])] = column[row]
            inputs[name] = padded
        return inputs

    def chosen(self, rows: np.ndarray) -> Encoded:
        """The rows with these indices."""
        columns = {name: [column[i] for i in rows] for name, column in self.columns.items()}
        return Encoded(columns, self.padding, self.lengths[rows])

    def flat(self, rows: np.ndarray, output: np.ndarray) -> np.ndarray:
        """(tokens, ...) of an output a token (B, L, ...) of these rows: padding is left out."""
        return np.concatenate([one[: self.lengths[row]] for row, one in zip(rows, output, strict=True)])


def load_tokenizer(folder: str | Path, where: str = "model.name") -> Any:
    """The tokenizer of a model folder or hub name, with a padding token.

    Raises:
        UserError: there is none, or it has no token to pad with.
    """
    from transformers import AutoTokenizer

    try:
        local = Path(folder).is_dir()
        with reading(f"no usable tokenizer in {folder}"), _quiet():
            loaded = AutoTokenizer.from_pretrained(folder, local_files_only=local, trust_remote_code=False)
    except ModelError as error:
        raise UserError(f"{where}: {error}") from error
    if set(loaded.get_vocab()) <= set(loaded.all_special_tokens):  # what transformers makes of a folder without one
        raise UserError(f"{where}: no tokenizer files (tokenizer.json or a vocabulary) in {folder}")
    if loaded.pad_token_id is None:
        if loaded.eos_token_id is None:
            raise UserError(f"{where}: the tokenizer of {folder} has neither a padding nor an end-of-text token")
        loaded.pad_token = loaded.eos_token
    return loaded


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' log lines about an unknown model type, such as that of a compressed folder."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


#: What models of text take of a tokenizer's columns.
MODEL_COLUMNS = ("input_ids", "attention_mask", "token_type_ids")


def encode(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int) -> Encoded:
    """Token ids of `texts` (with `pairs` as second texts), cut at `max_length` or the tokenizer's limit."""
    limit = min(max_length, tokenizer.model_max_length)
    columns: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(texts), ROW_CHUNK):
        chunk = slice(start, start + ROW_CHUNK)
        second = None if pairs is None else list(pairs[chunk])
        ids = tokenizer(
            list(texts[chunk]), second, truncation=True, max_length=limit, padding=False, return_attention_mask=True
        )
        for name in MODEL_COLUMNS:
            if name in ids:
                columns.setdefault(name, []).extend(np.asarray(row, dtype=np.int64) for row in ids[name])
    return with_padding(tokenizer, columns)


def with_padding(tokenizer: Any, columns: dict[str, list[np.ndarray]]) -> Encoded:
    """The tokenizer's `columns` (input name -> one (length,) int64 array a row) with what it pads each of them with."""
    padding = dict.fromkeys(columns, 0)
    padding["input_ids"] = tokenizer.pad_token_id
    if "token_type_ids" in columns:
        padding["token_type_ids"] = tokenizer.pad_token_type_id
    lengths = np.array([len(row) for row in columns["input_ids"]], dtype=np.int64)
    return Encoded(columns, padding, lengths)


def frame_of(tokenizer: Any, pairs: bool) -> dict[str, Any]:
    """How a tokenizer frames texts (or pairs of them): the fields of `objectives.workload.Frame`."""
    parts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROBES[: 1 + pairs]]
    whole = tokenizer(*PROBES[: 1 + pairs], return_token_type_ids=None)
    ids, types = list(whole["input_ids"]), list(whole.get("token_type_ids") or ())
    around, kinds, of_texts, at = [], [], [], 0
    for part in parts:
        start = next(i for i in range(at, len(ids) + 1) if ids[i : i + len(part)] == part)
        around.append(ids[at:start])
        kinds.append(types[at:start])
        of_texts += types[start : start + 1]
        at = start + len(part)
    around.append(ids[at:])
    kinds.append(types[at:])
    added = [number for number, token in tokenizer.added_tokens_decoder.items() if token.special]
    return {
        "vocabulary": 1 + max(tokenizer.get_vocab().values()),
        "special": sorted({*tokenizer.all_special_ids, *added}),
        "pad": tokenizer.pad_token_id,
        "around": around,
        "types": kinds if types else [],
        "text_types": of_texts,
    }


def by_length(lengths: np.ndarray, size: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """An order of rows (N,) in which each run of `size` has similar lengths, so that little is padding.

    Without `rng`: longest first, for evaluation (so that running out of memory shows in the first batch). With it, for
    training: rows are shuffled, sorted only within pools of 50 batches, and whole batches shuffled again; a
    last batch that is not full stays last.
    """
    if rng is None:
        return np.argsort(-lengths, kind="stable")
    order = rng.permutation(len(lengths))
    pools = [order[i : i + 50 * size] for i in range(0, len(order), 50 * size)]
    order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    full = len(order) // size * size
    shuffled = rng.permutation(order[:full].reshape(-1, size)).reshape(-1)
    return np.concatenate([shuffled, order[full:]])


def batches(encoded: Encoded, size: int, order: np.ndarray | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Batches of the rows in `order` (None: as they are); batch k holds rows `order[k*size : (k+1)*size]`."""
    order = np.arange(len(encoded)) if order is None else order
    for start in range(0, len(order), size):
        yield encoded.batch(order[start : start + size])
