"""The inputs of timed calls: random tokens, or the user's texts where the time depends on what they say."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from objectives import workload
from objectives.bench import Batch
from objectives.workload import Workload
from search.errors import UserError
from search.prepare.folders import frame_in, input_names
from search.tasks import Rows
from search.tasks.tokens import Encoded


def random_batches(wanted: Workload, folder: Path, rows: Rows | None) -> list[Batch]:
    """Batches of random tokens for the model in `folder`, in the lengths of `rows` where the workload asks for them."""
    of_rows = () if rows is None else (rows.encoded.lengths.tolist(), rows.calls.tolist())
    return list(workload.inputs(wanted, input_names(folder), frame_in(folder), *of_rows))


def with_texts(batches: Sequence[Batch], encoded: Encoded) -> list[Batch]:
    """Batches of prompts (B, L) with the beginnings of the rows `encoded` in place of their tokens.

    They are of rows spread evenly over those that are long enough, some more than once where there are too few.

    Raises:
        UserError: no row is as long as a prompt.
    """
    length = batches[0]["input_ids"].shape[1]
    long_enough = np.flatnonzero(encoded.lengths >= length)
    if not len(long_enough):
        raise UserError(
            f"workload.prompt: must be at most {int(encoded.lengths.max(initial=0))} tokens, as the longest row of the "
            f"data, for space.cache.speculation, whose timed calls continue texts of the data, got {length}"
        )
    sizes = [len(batch["input_ids"]) for batch in batches]
    chosen = long_enough[np.linspace(0, len(long_enough) - 1, sum(sizes)).astype(np.int64)]
    texts = np.stack([encoded.columns["input_ids"][row][:length] for row in chosen])
    parts = np.split(texts, np.cumsum(sizes)[:-1])
    return [{**batch, "input_ids": part} for batch, part in zip(batches, parts, strict=True)]


def texts_digest(batches: Sequence[Batch]) -> str:
    """16 hex digits of the tokens of batches."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(str(batch["input_ids"].shape).encode() + batch["input_ids"].astype(np.int64).tobytes())
    return digest.hexdigest()[:16]
