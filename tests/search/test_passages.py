"""Queries with relevant passages, and scored pairs, come out of files as they are; what is no usable row is named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.errors import UserError
from search.tasks.corpus import PassageData
from search.tasks.passages import Passages, ScoredPairs, read_passages

KINDS = ("csv", "jsonl", "parquet")
SMALL = [("q one", "p a"), ("q two", "p b"), ("q one", "p c"), ("q three", "p a")]
MANY = [(f"query {i % 200}", f"passage {i}") for i in range(400)]


def write(folder: Path, rows: Sequence[Mapping[str, Any]], kind: str = "jsonl", name: str = "rows") -> str:
    import csv

    import pyarrow
    from pyarrow import parquet

    path = folder / f"{name}.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


def pairs(rows: Sequence[tuple[Any, Any]]) -> list[dict[str, Any]]:
    return [{"query": query, "passage": passage} for query, passage in rows]


def load(train: str, **settings: Any) -> Any:
    """((train, validation, test), notes)."""
    data = PassageData(train=train, **settings)
    return read_passages(data, lambda key: f"c.yaml: {key}")


def whole(folder: Path, rows: Sequence[Mapping[str, Any]], kind: str = "jsonl", **settings: Any) -> Any:
    """The train part of a file of which nothing is cut."""
    train = write(folder, rows, kind)
    return load(train, validation=train, test=train, **settings)[0][0]


@pytest.mark.parametrize("kind", KINDS)
def test_queries_and_passages_are_their_texts(tmp_path: Path, kind: str) -> None:
    data = whole(tmp_path, pairs(SMALL), kind)
    assert data == Passages(
        queries=("q one", "q two", "q three"),
        query_ids=("1", "2", "4"),
        passages=("p a", "p b", "p c"),
        passage_ids=("1", "2", "3"),
        relevant=((0, 2), (1,), (0,)),
    )
    assert len(data) == 3
    assert data.digest == whole(tmp_path, pairs(SMALL)).digest != whole(tmp_path, pairs(SMALL[:3])).digest


@pytest.mark.parametrize("kind", KINDS)
def test_columns_may_have_other_names_and_texts_names_of_their_own(tmp_path: Path, kind: str) -> None:
    rows = [
        {"question": "q one", "document": "p a", "qid": 7, "pid": "D1"},
        {"question": "q one", "document": "p b", "qid": 7, "pid": "D2"},
        {"question": "q two", "document": "p a", "qid": 9, "pid": "D1"},
    ]
    names = {"query": "question", "passage": "document", "query_id": "qid", "passage_id": "pid"}
    data = whole(tmp_path, rows, kind, **names)
    assert data == Passages(("q one", "q two"), ("7", "9"), ("p a", "p b"), ("D1", "D2"), ((0, 1), (0,)))


@pytest.mark.parametrize("kind", KINDS)
def test_scored_pairs_keep_their_order_and_scores(tmp_path: Path, kind: str) -> None:
    rows = [{"query": "a", "passage": "b", "like": 4.5}, {"query": "a", "passage": "b", "like": -1e-3}]
    rows += [{"query": "c", "passage": "c", "like": 5.0}]
    data = whole(tmp_path, rows, kind, score="like")
    assert isinstance(data, ScoredPairs) and len(data) == 3
    assert (data.first, data.second) == (("a", "a", "c"), ("b", "b", "c"))
    assert data.scores.dtype == np.float64 and data.scores.tolist() == [4.5, -1e-3, 5.0]


def test_a_repeated_row_is_used_once_and_noted(tmp_path: Path) -> None:
    train = write(tmp_path, pairs([*SMALL, SMALL[0]]))
    parts, notes = load(train, validation=train, test=train)
    assert parts[0].relevant == ((0, 2), (1,), (0,))
    assert "1 rows of rows.jsonl repeat a query with the same passage: used once" in notes


def test_missing_splits_are_cut_by_query_and_always_the_same(tmp_path: Path) -> None:
    parts, notes = load(write(tmp_path, pairs(MANY)))
    queries = [set(part.queries) for part in parts]
    assert sum(map(len, queries)) == len(set.union(*queries)) == 200, "no query is in two splits"
    assert all(8 <= len(part) <= 40 for part in parts[1:])
    assert sum(len(part.passages) for part in parts) == 400
    assert all(len(places) == 2 for part in parts for places in part.relevant), "a query keeps all of its passages"
    assert any("were cut from train by hash of the query" in note for note in notes)
    again = load(write(tmp_path, pairs(MANY[::-1]), name="other"))[0]
    assert [set(part.queries) for part in again] == queries, "whatever the order of the rows"


def test_pairs_are_cut_by_both_texts_in_either_order(tmp_path: Path) -> None:
    rows = [{"query": f"a {i}", "passage": f"b {i}", "score": i} for i in range(200)]
    rows += [{"query": row["passage"], "passage": row["query"], "score": row["score"]} for row in rows]
    parts, notes = load(write(tmp_path, rows), score="score")
    pair_sets = [{frozenset(pair) for pair in zip(part.first, part.second, strict=True)} for part in parts]
    assert sum(map(len, pair_sets)) == len(set.union(*pair_sets)) == 200
    assert sum(map(len, parts)) == 400
    assert any("by hash of the pair" in note for note in notes)


def test_a_limit_counts_queries_which_keep_all_their_passages(tmp_path: Path) -> None:
    train = write(tmp_path, pairs(MANY))
    train_part = load(train, validation=train, test=train, limit=10)[0][0]
    assert len(train_part) == 10 and len(train_part.passages) == 20
    assert all(len(places) == 2 for places in train_part.relevant)
    assert list(train_part.queries) == sorted(train_part.queries, key=lambda query: int(query.split()[1])), (
        "the file's order"
    )
    assert set(train_part.queries) <= set(load(train, validation=train, test=train, limit=20)[0][0].queries)


def test_a_limit_counts_scored_pairs(tmp_path: Path) -> None:
    rows = [{"query": f"a {i}", "passage": f"b {i}", "score": i} for i in range(50)]
    data = whole(tmp_path, rows, score="score", limit=10)
    assert len(data) == 10 and data.scores.tolist() == sorted(data.scores)
    assert all(
        a[2:] == b[2:] == f"{score:.0f}" for a, b, score in zip(data.first, data.second, data.scores, strict=True)
    )


def test_what_train_shares_with_other_splits_is_noted(tmp_path: Path) -> None:
    train, other = write(tmp_path, pairs(SMALL)), write(tmp_path, pairs([("q two", "x"), ("q", "x")]), name="other")
    notes = load(train, validation=other, test=train)[1]
    assert "1 of 2 validation queries are in train too: its figures will be too good" in notes
    assert "3 of 3 test queries are in train too: its figures will be too good" in notes


def test_numbers_are_the_text_they_are_written_as(tmp_path: Path) -> None:
    data = whole(tmp_path, pairs([(1.5, "p"), ("NA", "null")]))
    assert data.queries == ("1.5", "NA") and data.passages == ("p", "null")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("row", "column", "rule"),
    [
        ({"query": None, "passage": "p"}, "query", "must hold text, got a missing value in row 2"),
        ({"query": "q", "passage": None}, "passage", "must hold text, got a missing value in row 2"),
        ({"query": "  ", "passage": "p"}, "query", 'must not be empty, got "  " in row 2'),
        ({"query": "q", "passage": "\t"}, "passage", r'must not be empty, got "\t" in row 2'),
    ],
)
def test_a_row_without_a_text_is_refused(
    tmp_path: Path, kind: str, row: dict[str, Any], column: str, rule: str
) -> None:
    train = write(tmp_path, [{"query": "a", "passage": "b"}, row], kind)
    with pytest.raises(UserError) as caught:
        load(train)
    assert str(caught.value) == f'c.yaml: data.{column}: column "{column}" of {train} {rule}'


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("score", "text"),
    [
        ("high", '"high"'),
        ("nan", '"nan"'),
        ("1_0", '"1_0"'),
        ("0,5", '"0,5"'),
        ("inf", '"inf"'),
        (None, "a missing value"),
    ],
)
def test_a_score_that_is_no_number_is_refused(tmp_path: Path, kind: str, score: Any, text: str) -> None:
    rows = [{"query": "a", "passage": "b", "s": "1"}, {"query": "a", "passage": "b", "s": score}]
    train = write(tmp_path, rows, kind)
    with pytest.raises(UserError) as caught:
        load(train, score="s")
    rule = f"must hold finite numbers, got {text} in row 2"
    assert str(caught.value) == f'c.yaml: data.score: column "s" of {train} {rule}'


@pytest.mark.parametrize(("score", "text"), [(float("nan"), "a missing value"), (float("inf"), "Infinity")])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_score_that_is_not_finite_is_refused(tmp_path: Path, kind: str, score: float, text: str) -> None:
    train = write(tmp_path, [{"query": "a", "passage": "b", "s": score}], kind)
    with pytest.raises(UserError, match=f"must hold finite numbers, got {text} in row 1"):
        load(train, score="s")


def test_a_truth_value_is_no_score(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must hold finite numbers, got true in row 1"):
        load(write(tmp_path, [{"query": "a", "passage": "b", "s": True}]), score="s")


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_of_two_texts_is_refused_with_both_rows(tmp_path: Path, kind: str) -> None:
    rows = [{"query": f"q {i}", "passage": f"p {i}", "qid": i, "pid": i % 2} for i in range(3)]
    train = write(tmp_path, rows, kind)
    with pytest.raises(UserError) as caught:
        load(train, query_id="qid", passage_id="pid")
    rule = 'must have another name for each text, got "0" in rows 1 and 3, whose texts differ'
    assert str(caught.value) == f'c.yaml: data.passage_id: column "pid" of {train} {rule}'


def test_a_missing_name_is_refused(tmp_path: Path) -> None:
    rows = [{"query": "q", "passage": "p", "qid": None}]
    with pytest.raises(UserError, match=r'data.query_id: column "qid" of .* got a missing value in row 1'):
        load(write(tmp_path, rows), query_id="qid")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"passage": "pasage"}, r'data.passage: in .*: unknown column "pasage"; did you mean "passage"\?'),
        ({"score": "like"}, r'data.score: in .*: unknown column "like"'),
        ({"query_id": "id"}, r'data.query_id: in .*: unknown column "id"'),
        ({"passage": "query"}, r'data.passage: must be another column than data.query, got "query"'),
        ({"score": "s", "query_id": "id"}, r'data.query_id: must be left out where data.score is given, got "id"'),
    ],
)
def test_settings_that_name_no_column_are_refused(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, pairs(SMALL)), **settings)


def test_too_few_queries_to_cut_from_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"too few to cut one from|were cut from it"):
        load(write(tmp_path, pairs(SMALL)))
