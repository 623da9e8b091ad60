"""The inputs of a model that is timed: seeded batches of a fixed length, or of the lengths of the user's data."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

#: Input of a timed call that generates: the number of tokens to generate, the same for each row, (B,) int64.
TIMED_NEW_TOKENS = "new_tokens"
#: The number of batches of a workload; timing cycles through them.
BATCHES = 16


@dataclass(frozen=True, slots=True)
class Workload:
    """Batches of `batch` rows of `length` tokens each; "data": lengths as in the user's rows.

    With `new_tokens` a call generates: a row is a prompt that is continued by that many tokens.
    """

    batch: int = 1
    length: int | Literal["data"] = 32
    seed: int = 0
    new_tokens: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be 1 or more, got {self.batch}")
        if self.length != "data" and self.length < 1:
            raise ValueError(f"length must be 1 or more, or data, got {self.length}")


#: Between the name of a measurement and the workload it was taken under: "latency_p50_ms/b32-l128".
MARK = "/"
#: The parts of a suffix, in the order they come.
_PARTS = {"device": r"cpu|cuda", "batch": r"b([1-9]\d*)", "length": r"l([1-9]\d*|data)"}


def marked(name: str) -> tuple[str, str]:
    """(objective, suffix) of a measurement's name; the suffix is "" for the main workload."""
    objective, _, mark = name.partition(MARK)
    return objective, mark


def other(main: Workload, mark: str) -> Workload:
    """The workload of suffix `mark`; parts that it leaves out ("b32" has no length) are those of `main`.

    Raises:
        ValueError: no such suffix.
    """
    parts = _parts(mark)
    batch, length = parts["batch"], parts["length"]
    return replace(
        main,
        batch=main.batch if batch is None else int(batch),
        length=main.length if length is None else "data" if length == "data" else int(length),
    )


def device_of_mark(mark: str) -> str | None:
    """The device in a suffix ("cuda-b32"), or None for the main device. Raises ValueError for an invalid suffix."""
    return _parts(mark)["device"]


def _parts(mark: str) -> dict[str, str | None]:
    parts: dict[str, str | None] = dict.fromkeys(_PARTS)
    left = list(_PARTS)
    for part in mark.split("-"):
        name = next((name for name in left if re.fullmatch(_PARTS[name], part)), None)
        if name is None:
            raise ValueError(f"a workload is written cpu or cuda, b<batch>, l<length>, joined by -, got {mark!r}")
        left = left[left.index(name) + 1 :]
        parts[name] = part if name == "device" else part[1:]
    return parts


@dataclass(frozen=True, slots=True)
class Frame:
    """The special tokens that a tokenizer puts around texts, and the token ids of texts themselves.

    Some models depend on special tokens (BART classifies at the end token; a decoder's head looks for the first padding
    token), so random texts are framed as real ones are.
    """

    vocabulary: int  # token ids are in [0, vocabulary)
    special: tuple[int, ...] = (0,)  # ids that no text contains
    pad: int = 0
    around: tuple[tuple[int, ...], ...] = ((), ())  # before the text, behind it; of a pair: before, between, behind
    types: tuple[tuple[int, ...], ...] = ()  # token types of `around`; empty where the tokenizer gives none
    text_types: tuple[int, ...] = ()  # token type of each text

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Frame:
        """The frame from plain JSON values; raises KeyError where a field is missing."""
        return cls(
            vocabulary=int(fields["vocabulary"]),
            special=tuple(fields["special"]),
            pad=int(fields["pad"]),
            around=tuple(map(tuple, fields["around"])),
            types=tuple(map(tuple, fields["types"])),
            text_types=tuple(fields["text_types"]),
        )

    @property
    def ordinary(self) -> NDArray[np.int64]:
        """The token ids of texts; all ids where the tokenizer calls every one special."""
        whole = np.arange(self.vocabulary)
        left = np.setdiff1d(whole, self.special)
        return left if len(left) else whole

    def row(self, text: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(token ids, token types) of a row, (L,) each: `text` (L,) cut to make room for the special tokens.

        A row that is too short for all special tokens has the last ones.
        """
        marks = sum(map(len, self.around))
        share = np.array_split(text[: max(0, len(text) - marks)], len(self.around) - 1)
        kinds = self.types or tuple((0,) * len(part) for part in self.around)
        of_texts = self.text_types or (0,) * len(share)
        ids: list[Any] = [self.around[0]]
        types: list[Any] = [kinds[0]]
        for i, part in enumerate(share):
            ids += [part, self.around[i + 1]]
            types += [np.full(len(part), of_texts[i]), kinds[i + 1]]
        keep = slice(max(0, marks - len(text)), None)
        whole = (np.concatenate([np.asarray(p, dtype=np.int64) for p in parts])[keep] for parts in (ids, types))
        return next(whole), next(whole)


def inputs(
    workload: Workload,
    input_names: Sequence[str],
    frame: Frame,
    lengths: Sequence[int] = (),
    together: Sequence[int] = (),
) -> list[dict[str, np.ndarray]]:
    """`BATCHES` batches of random texts between the tokenizer's special tokens, (B, L) int64 by input name.

    Shorter rows are padded and masked. B is the workload's batch; with `together` it is the number of rows in so many
    groups.

    Args:
        workload: batch, length (in tokens, the frame's among them) and seed. With new tokens each batch has
            "new_tokens" (B,) too.
        input_names: what the model takes, of input_ids, attention_mask, token_type_ids, position_ids.
        frame: the special tokens that the tokenizer puts around a text.
        lengths: token counts of the user's rows, as the model would see them (truncated); needed for "data".
        together: sizes of the groups of neighbouring rows that stay together, as the windows of a question do; a group
            counts as one row of the batch. They sum to the number of `lengths`; empty: each row is its own group.

    Raises:
        ValueError: an input name that is not one of those four, or "data" without lengths.
    """
    generator = np.random.default_rng(workload.seed)
    if len(together) in (0, len(lengths)):  # each row stands alone
        counts = list(_row_lengths(workload, lengths, generator).reshape(BATCHES, workload.batch))
    else:
        counts = _lengths_together(workload, lengths, together, generator)
    ordinary = frame.ordinary
    batches = [_batch(row, input_names, frame, ordinary, generator) for row in counts]
    if not workload.new_tokens:
        return batches
    return [
        {**batch, TIMED_NEW_TOKENS: np.full(workload.batch, workload.new_tokens, dtype=np.int64)} for batch in batches
    ]


def shapes_digest(batches: Sequence[Mapping[str, np.ndarray]]) -> str:
    """16 hex digits of the shapes (B, L) of batches and of the real tokens of each row, in any order."""
    shapes = sorted(
        [sorted([name, *array.shape] for name, array in batch.items()), sorted(_real_tokens(batch))]
        for batch in batches
    )
    return hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16]


def mean_tokens(batches: Sequence[Mapping[str, np.ndarray]]) -> float:
    """Token ids of a batch with its padding, (B, L), on average over the batches."""
    return float(np.mean([batch["input_ids"].size for batch in batches]))


def _real_tokens(batch: Mapping[str, np.ndarray]) -> list[int]:
    real: list[int] = batch["attention_mask"].sum(1).tolist() if "attention_mask" in batch else []
    return real


def _row_lengths(workload: Workload, lengths: Sequence[int], generator: np.random.Generator) -> NDArray[np.int64]:
    """Token counts of all rows in the order they come.

    With "data", quantiles of `lengths` in van der Corput's order: any run of neighbours is spread over the
    whole distribution, so that blocks of calls, which each see a few batches, differ little in their work.
    """
    rows = BATCHES * workload.batch
    if workload.length != "data":
        return np.full(rows, workload.length, dtype=np.int64)
    if len(lengths) == 0:
        raise ValueError('length "data" needs the lengths of the data\'s rows, got none')
    quantiles = (van_der_corput(rows) + generator.random()) % 1.0
    return np.quantile(lengths, quantiles, method="inverted_cdf").astype(np.int64)


def _lengths_together(
    workload: Workload, lengths: Sequence[int], together: Sequence[int], generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Token counts of the rows of each batch, of quantiles of the user's groups of rows, ordered by their work.

    With a fixed length the groups keep their numbers of rows.
    """
    if sum(together) != len(lengths):
        raise ValueError(f"together must sum to the {len(lengths)} lengths, got {sum(together)}")
    groups = np.split(np.asarray(lengths, dtype=np.int64), np.cumsum(together)[:-1])
    if workload.length != "data":
        groups = [np.full(len(group), workload.length, dtype=np.int64) for group in groups]
    groups.sort(key=lambda group: (int(group.sum()), len(group)))
    quantiles = (van_der_corput(BATCHES * workload.batch) + generator.random()) % 1.0
    drawn = [groups[int(quantile * len(groups))] for quantile in quantiles]
    return [np.concatenate(drawn[i : i + workload.batch]) for i in range(0, len(drawn), workload.batch)]


def van_der_corput(count: int) -> NDArray[np.float64]:
    """The first `count` of 0, 1/2, 1/4, 3/4, 1/8, 5/8, ...: base 2 digits mirrored (van der Corput, 1935)."""
    from scipy.stats.qmc import Halton

    points: NDArray[np.float64] = Halton(d=1, scramble=False).random(count)[:, 0]  # its first dimension has base 2
    return points


def _batch(
    counts: NDArray[np.int64],
    input_names: Sequence[str],
    frame: Frame,
    ordinary: NDArray[np.int64],
    generator: np.random.Generator,
) -> dict[str, np.ndarray]:
    shape = (len(counts), int(counts.max()))
    ids, types = np.full(shape, frame.pad, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    drawn = ordinary[generator.integers(len(ordinary), size=shape)]
    for i, count in enumerate(counts):
        ids[i, :count], types[i, :count] = frame.row(drawn[i, :count])
    arrays = {
        "input_ids": ids,
        "attention_mask": (np.arange(shape[1]) < counts[:, None]).astype(np.int64),
        "token_type_ids": types,
        "position_ids": np.broadcast_to(np.arange(shape[1]), shape).copy(),
    }
    unknown = [name for name in input_names if name not in arrays]
    if unknown:
        raise ValueError(f"inputs must be among {', '.join(arrays)}, got {', '.join(unknown)}")
    return {name: arrays[name] for name in input_names}
