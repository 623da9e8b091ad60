"""Question answering on whole files: a folder's parquet files in SQuAD's columns, as train, validation and test.

`nyt.parquet` and 80 % of `new_wiki.parquet`, by hash of the context, are train; the rest of `new_wiki.parquet` is
validation and `squad_dev.parquet` is test. Train is whole. Of the others at most `MOST` rows are taken, by hash of
question and context, since every candidate is scored on validation and every finalist on test. Rows whose answers do
not stand where they say are left in: the task counts and drops them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from search.errors import UserError, listed
from search.store.atomic import replacing
from search.tasks.rows import hash_fractions, lowest

TASK = "question-answering"
SOURCES = ("nyt", "new_wiki", "squad_dev")
COLUMNS = ("id", "context", "question", "answers")
#: The share of `new_wiki`'s contexts that is trained on.
TRAIN_SHARE = 0.8
MOST = {"validation": 1_000, "test": 2_000}


def write_splits(source: Path, folder: Path) -> dict[str, Path]:
    """Write the splits of the files in `source` to `folder`; the parquet file of each.

    Raises:
        UserError: a file is missing, unreadable or without SQuAD's columns.
    """
    from pyarrow import concat_tables, parquet

    nyt, wiki, squad = (_read(source / f"{name}.parquet") for name in SOURCES)
    trained = is_train(wiki.column("context").to_pylist())
    tables = {
        "train": concat_tables([nyt, wiki.filter(trained)]),
        "validation": _bounded(wiki.filter(~trained), MOST["validation"]),
        "test": _bounded(squad, MOST["test"]),
    }
    files = {}
    for split, table in tables.items():
        files[split] = folder / f"{split}.parquet"
        with replacing(files[split]) as partial:
            parquet.write_table(table, partial, compression="zstd")
    return files


def settings(files: Mapping[str, Path]) -> list[str]:
    """What `--set` is given, so that the example of the task reads `files` in place of its own."""
    return [f"data.{split}={json.dumps(str(file))}" for split, file in files.items()]


def described(files: Mapping[str, Path]) -> str:
    """The rows of each split, in words."""
    from pyarrow import parquet

    rows = (f"{split} {parquet.read_metadata(file).num_rows:,}" for split, file in files.items())
    return f"rows: {', '.join(rows)}"


def is_train(contexts: list[str]) -> np.ndarray:
    """Which rows of `new_wiki`, by their contexts (N,), are trained on."""
    return np.asarray(hash_fractions(contexts) < TRAIN_SHARE)


def _read(file: Path) -> Any:
    from pyarrow import ArrowInvalid, parquet

    if not file.is_file():
        raise UserError(f"must hold {listed(f'{name}.parquet' for name in SOURCES)}; no such file: {file}")
    try:
        table = parquet.read_table(file)
    except ArrowInvalid as error:
        raise UserError(f"{file} cannot be read as parquet: {str(error).splitlines()[0]}") from None
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise UserError(f"{file} must have the columns {listed(COLUMNS)}, got a file without {missing[0]}")
    return table.select(COLUMNS)


def _bounded(table: Any, most: int) -> Any:
    texts = zip(table.column("question").to_pylist(), table.column("context").to_pylist(), strict=True)
    return table.take(lowest(hash_fractions(f"{question}\0{context}" for question, context in texts), most))
