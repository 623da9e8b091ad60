"""Columns of a data file, each cell as written in the file; no type is inferred from a column's content.

CSV and TSV cells are text. JSON has text, numbers (`NumberText`: as they are written), booleans and null. Parquet has
what its schema says. `search.tasks.cells` alone decides how a cell is read as a text, number or label.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.errors import UserError, show
from search.tasks import delimited
from search.tasks.decode import decode


class NumberText(str):
    """A number of a JSON file, spelled as in the file: "1e5", "0.50"."""

    __slots__ = ()


@dataclass(frozen=True)
class FileContent:
    """Columns of a file and what is known about them."""

    names: tuple[str, ...]  # of all columns, in the file's order
    rows: int
    columns: dict[str, list[Any]]  # those of the wanted columns that are there; None: a missing value
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)  # names of a column's numbers, where it has any
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextFormat:
    """The format of text files, as far as the user specifies it."""

    encoding: str | None = None  # None: by its byte order mark, else UTF-8
    delimiter: str | None = None  # None: a comma in CSV, a tab in TSV


def read_file(file: Path, wanted: Sequence[str], options: TextFormat, at: str) -> FileContent:
    """The `wanted` columns of `file`, whose path is taken literally. `at` (where it was named) begins a message.

    Raises:
        UserError: it does not exist, cannot be read, or is not of the format of its suffix.
    """
    if not file.is_file():
        raise UserError(f"{at}: no such file: {file}")
    if file.stat().st_size == 0:
        raise UserError(f"{at}: {file} is empty")
    try:
        reader = READERS[file.suffix.lower()]
        content = reader(file, wanted, options, f"{at}: {file} cannot be read as {file.suffix[1:].lower()}")
    except OSError as error:
        raise UserError(f"{at}: {file} cannot be read: {error.strerror or error}") from None
    twice = [name for name in wanted if content.names.count(name) > 1]
    if twice:
        raise UserError(f"{at}: {file} has {content.names.count(twice[0])} columns of the name {show(twice[0])}")
    return content


def _delimited(file: Path, wanted: Sequence[str], options: TextFormat, at: str) -> FileContent:
    text, note = decode(file.read_bytes(), options.encoding, at)
    header, rows, notes = delimited.parse_table(text, options.delimiter or DELIMITERS[file.suffix.lower()], at)
    indices = {name: header.index(name) for name in wanted if name in header}
    columns: dict[str, list[Any]] = {name: [row[i] or None for row in rows] for name, i in indices.items()}
    return FileContent(tuple(header), len(rows), columns, notes=(*([note] if note else []), *notes))


def _json(file: Path, wanted: Sequence[str], options: TextFormat, at: str) -> FileContent:
    """A JSON file: a list of objects, or consecutive objects (usually one a line)."""
    text, note = decode(file.read_bytes(), options.encoding, at)
    try:
        rows = _values(text, wanted)
    except json.JSONDecodeError as error:
        raise UserError(f"{at}: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (_Twice, RecursionError) as error:
        raise UserError(f"{at}: {error if isinstance(error, _Twice) else 'it is nested too deeply'}") from None
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            rule = "it must be a list of objects, or have one object a line"
            raise UserError(f"{at}: {rule}, got {show(row)} in row {i + 1}")
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in wanted if name in names}
    return FileContent(names, len(rows), columns, notes=(*([note] if note else []), *_lines_note(text, len(rows))))


class _Twice(Exception):  # noqa: N818 - becomes a UserError that says where
    """A wanted key occurs twice in one object."""


def _values(text: str, wanted: Sequence[str]) -> list[Any]:
    def to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = [key for key in wanted if keys.count(key) > 1]
            if twice:
                raise _Twice(f"the key {show(twice[0])} is there twice in one object: {show(mapping)}")
        return mapping

    decoder = json.JSONDecoder(
        object_pairs_hook=to_dict, parse_int=NumberText, parse_float=NumberText, parse_constant=_constant
    )
    space = re.compile(r"[ \t\r\n]*")
    values: list[Any] = []
    end = space.match(text).end()  # type: ignore[union-attr] # matches anything
    while end < len(text):
        value, end = decoder.raw_decode(text, end)
        values.append(value)
        end = space.match(text, end).end()  # type: ignore[union-attr]
    return values[0] if len(values) == 1 and isinstance(values[0], list) else values


def _constant(word: str) -> Any:
    return None if word == "NaN" else NumberText(word)  # pandas writes NaN for a missing value


def _lines_note(text: str, rows: int) -> list[str]:
    """A note for a file of objects whose row numbers differ from its line numbers."""
    lines = sum(1 for line in text.split("\n") if line.strip())
    return [] if text.lstrip().startswith("[") or lines == rows else [f"{rows} objects in {lines} lines"]


def _parquet(file: Path, wanted: Sequence[str], options: TextFormat, at: str) -> FileContent:
    from pyarrow import parquet

    try:
        with file.open("rb") as stream:
            opened = parquet.ParquetFile(stream)
            schema = opened.schema_arrow
            names = tuple(schema.names)
            # (pyarrow takes "a.b" for the field b of a column a, so that such a column comes with all the others.)
            some = None if any("." in name for name in wanted) else [name for name in wanted if name in names]
            table = opened.read(columns=some)
            columns = {name: table.column(name).to_pylist() for name in wanted if names.count(name) == 1}
        classes = _class_names(schema, wanted)
    except OSError:
        raise
    except Exception as error:  # of pyarrow, by what is broken
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{at}: {first[:200]}") from None
    return FileContent(names, opened.metadata.num_rows, columns, classes)


def _class_names(schema: Any, wanted: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The ClassLabel names of columns in a Parquet file that `datasets` wrote."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    from datasets import Features

    return class_names(Features.from_arrow_schema(schema), wanted)


def class_names(features: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The ClassLabel names of each `wanted` column that has the feature, alone or in lists."""
    kinds = {name: getattr(features.get(name), "feature", features.get(name)) for name in wanted}
    return {name: tuple(names) for name, kind in kinds.items() if (names := getattr(kind, "names", None))}


def _plain(file: Path, wanted: Sequence[str], options: TextFormat, at: str) -> FileContent:
    """A text file: one row, whose column "text" is the whole file."""
    text, note = decode(file.read_bytes(), options.encoding, at)
    columns: dict[str, list[Any]] = {name: [text] for name in wanted if name == "text"}
    return FileContent(("text",), 1, columns, notes=(note,) if note else ())


DELIMITERS = {".csv": ",", ".tsv": "\t"}
READERS: dict[str, Callable[[Path, Sequence[str], TextFormat, str], FileContent]] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".json": _json,
    ".jsonl": _json,
    ".parquet": _parquet,
    ".txt": _plain,
}
