"""JSON and Parquet are read as they are written: no guessed types, and no row is lost."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from search.tasks.files import TextFormat, read_file

from .test_readers import TEXTS, read, refusal, written

OBJECTS = [{"text": "a\u2028b", "label": 1}, {"text": "c", "label": 0}]


@pytest.mark.parametrize("kind", ["json", "jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        "\n".join(json.dumps(o, ensure_ascii=False) for o in OBJECTS),
        "\r\n\r\n".join(json.dumps(o) for o in OBJECTS) + "\r\n",
        json.dumps(OBJECTS),
        json.dumps(OBJECTS, indent=2),
        "\n".join(json.dumps(o, indent=2) for o in OBJECTS),
    ],
)
def test_lists_and_lines_of_objects_are_the_same_rows(tmp_path: Path, kind: str, content: str) -> None:
    table = read(written(tmp_path, f"rows.{kind}", content))
    assert table.columns == {"text": ["a\u2028b", "c"], "label": ["1", "0"]}


def test_values_of_json_are_the_text_that_is_written(tmp_path: Path) -> None:
    literals = ["1e5", "0.50", "-0", "12345678901234567890123", "1E-2"]
    content = "\n".join(f'{{"text": {literal}, "label": "x"}}' for literal in literals)
    assert read(written(tmp_path, "rows.jsonl", content)).columns["text"] == literals
    dates = "\n".join(json.dumps({"text": text, "label": "x"}) for text in TEXTS)
    assert read(written(tmp_path, "dates.jsonl", dates)).columns["text"] == TEXTS


def test_a_missing_key_and_nan_are_missing_values(tmp_path: Path) -> None:
    table = read(written(tmp_path, "rows.jsonl", '{"text": "x", "label": NaN}\n{"label": null}\n{"text": "y"}'))
    assert table.columns == {"text": ["x", None, "y"], "label": [None, None, None]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "x", "label": 1}\n{"text": "y",', "line 2, column 14"),
        ('[{"text": "x"}, 5]', "one object a line, got .* in row 2"),
        ("1\n2", "one object a line, got .* in row 1"),
        ('[{"text": "x"}] x', "Expecting value"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_is_no_rows_is_refused_with_its_place(tmp_path: Path, content: str, message: str) -> None:
    import re

    assert re.search(message, refusal(written(tmp_path, "rows.json", content)))


# --- Parquet ------------------------------------------------------------------------------------------------


def test_parquet_gives_what_its_schema_says(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {
        "large": pyarrow.array(["a", "b"], pyarrow.large_string()),
        "categorical": pyarrow.array(["a", "b"]).dictionary_encode(),
        "bytes": pyarrow.array([b"a", b"b"]),
        "int": pyarrow.array([1, 2], pyarrow.int8()),
        "decimal": pyarrow.array([Decimal("1.50"), Decimal("2.00")]),
        "date": pyarrow.array([date(2020, 1, 1), None]),
        "a.b": pyarrow.array(["a", "b"]),
        "struct": pyarrow.array([{"b": "x"}, {"b": "y"}]),
    }
    file = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table(columns), file)
    for name, array in columns.items():
        table = read_file(file, (name,), TextFormat(), "data.train")
        assert table.columns == {name: array.to_pylist()} and table.rows == 2 and table.names == tuple(columns)


def test_a_parquet_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    file = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["x"])] * 2, names=["text", "text"]), file)
    assert 'has 2 columns of the name "text"' in refusal(file)


def test_a_parquet_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    file = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"text": ["x"], "label": [1]}), file)
    file.write_bytes(file.read_bytes()[:-10])
    assert "cannot be read" in refusal(file)
