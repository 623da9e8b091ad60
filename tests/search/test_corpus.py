"""Queries with the ids of their relevant passages in a corpus: all of it is searched, and bad rows are named."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import command
import numpy as np
import pytest
import tiny

from search.cli.main import main
from search.config.load import load_config
from search.errors import UserError
from search.prepare.runner import data_key_of
from search.space.choices import names
from search.tasks.corpus import PassageData
from search.tasks.passages import read_passages
from search.tasks.similarity import PassageRows, SentenceSimilarity

from .test_similarity import pairs

CORPUS = [{"id": f"d{i}", "text": row["passage"]} for i, row in enumerate(pairs(60, 0))]
#: The first query has two relevant passages, and every one of the last ten passages is nobody's.
QUERIES = [
    {"query": row["query"], "relevant": [f"d{i}", "d7"] if i == 0 else f"d{i}"}
    for i, row in enumerate(pairs(60, 0)[:50])
]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    if path.suffix == ".csv":
        cells = [
            {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()} for row in rows
        ]
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(cells[0]))
            writer.writeheader()
            writer.writerows(cells)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def parts_of(
    folder: Path, queries: Sequence[Mapping[str, Any]] = QUERIES, corpus: Any = CORPUS, kind: str = "jsonl", **keys: Any
) -> Any:
    """((train, validation, test), notes)."""
    files = {"train": write(folder / f"q.{kind}", queries), "corpus": write(folder / f"c.{kind}", corpus)}
    return read_passages(PassageData(**{**files, **keys}), lambda key: f"c.yaml: {key}")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_queries_are_looked_for_among_all_passages_and_may_have_several(tmp_path: Path, kind: str) -> None:
    (train, validation, test), notes = parts_of(tmp_path, kind=kind)
    assert validation.passage_ids == test.passage_ids == tuple(row["id"] for row in CORPUS)
    assert validation.passages == tuple(row["text"] for row in CORPUS)
    wanted = {row["query"]: row["relevant"] for row in QUERIES}
    for part in (train, validation, test):
        for query, places in zip(part.queries, part.relevant, strict=True):
            ids = [part.passage_ids[place] for place in places]
            assert ids == (wanted[query] if isinstance(wanted[query], list) else [wanted[query]])
    assert len(train.passages) <= len(train) + 1, "train has the passages of its own queries alone"
    assert sum(map(len, (train, validation, test))) == 50
    assert any("among all 60 passages of c." in note for note in notes)


def test_a_query_in_several_rows_has_all_of_their_passages_and_numbers_are_ids(tmp_path: Path) -> None:
    corpus = [{"id": i, "text": f"text {i}"} for i in range(40)]
    rows = [{"query": f"q {i % 20}", "relevant": i} for i in range(40)]
    train = write(tmp_path / "t.jsonl", rows)
    (_, validation, _), _ = parts_of(tmp_path, rows, corpus, validation=train, test=train)
    assert validation.relevant[3] == (3, 23) and validation.passage_ids[23] == "23"


def test_ndcg_counts_every_relevant_passage(tmp_path: Path) -> None:
    train = write(tmp_path / "t.jsonl", QUERIES)
    (_, validation, _), _ = parts_of(tmp_path, validation=train, test=train)
    rows = SentenceSimilarity().encode(tiny.word_tokenizer(), validation, PassageData(train="x", max_length=16), ())
    assert isinstance(rows, PassageRows) and len(rows.encoded) == 110 and len(rows) == 50
    passages = np.eye(60)
    queries = passages[:50].copy()
    queries[0] = passages[0] + 0.5 * passages[30] + 0.25 * passages[7]  # another one stands before the second
    output = np.concatenate([queries, passages])
    gain = (1 + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    assert rows.predictions("ndcg_at_10", output)[:2] == pytest.approx([gain, 1.0])
    assert rows.predictions("recall_at_1", output)[:2].tolist() == [0.5, 1.0]
    assert rows.constant_guess("recall_at_10").predictions.mean() == pytest.approx(1 / 6, abs=0.05)


def test_queries_without_a_relevant_id_are_counted_and_dropped(tmp_path: Path) -> None:
    rows = [dict(row) for row in QUERIES]
    rows[3]["relevant"], rows[4]["relevant"] = [], None
    parts, notes = parts_of(tmp_path, rows)
    assert sum(map(len, parts)) == 48
    assert "2 rows of q.jsonl dropped: their query has no relevant id" in notes


def test_texts_that_stand_in_the_corpus_twice_are_noted(tmp_path: Path) -> None:
    _, notes = parts_of(tmp_path, corpus=[*CORPUS, {"id": "copy", "text": CORPUS[0]["text"]}])
    assert "1 passages of c.jsonl have the text of another one: only the listed ids are relevant" in notes


def test_the_content_of_the_corpus_is_part_of_the_key_of_rows(tmp_path: Path) -> None:
    keys = []
    for text in ("text", "other"):
        config = config_of(tmp_path, corpus=[*CORPUS, {"id": "last", "text": text}])
        keys.append(data_key_of(load_config(config, [], names())))
    assert {**keys[0], "corpus": ""} == {**keys[1], "corpus": ""} and keys[0] != keys[1]


# --- the command --------------------------------------------------------------------------------------------------


def config_of(folder: Path, queries: Any = QUERIES, corpus: Any = CORPUS, **data: Any) -> Path:
    if not (folder / "model").exists():
        tiny.bert(folder / "model")
    write(folder / "q.jsonl", queries)
    write(folder / "c.jsonl", corpus)
    given = {"train": "q.jsonl", "validation": None, "test": None, "corpus": "c.jsonl", "max_length": 16, **data}
    settings: Mapping[str, Any] = {"model": {"name": "model"}, "task": "sentence-similarity", "teacher": {"epochs": 0}}
    return command.write_config(folder / "config.yaml", **settings, data=given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus")
    tiny.bert(path / "model")
    return path


def changed(row: int, **keys: Any) -> list[dict[str, Any]]:
    return [{**one, **keys} if i == row else dict(one) for i, one in enumerate(QUERIES)]


MISTAKES: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "a relevant id that is not there": (
        {"queries": changed(1, relevant=["d1", "d77"])},
        'data.relevant: column "relevant" of {0}/q.jsonl must hold ids of c.jsonl, got "d77" in row 2; did you',
    ),
    "no query with a relevant id": (
        {"queries": [{**row, "relevant": []} for row in QUERIES]},
        'data.relevant: column "relevant" of {0}/q.jsonl must hold the id of a relevant passage, got none in any of 50',
    ),
    "a cell that holds no ids": (
        {"queries": changed(1, relevant={"id": "d1"})},
        "must hold an id or a list of ids, as ",
    ),
    "an id that is there twice": (
        {"corpus": [*CORPUS, {"id": "d3", "text": "the film"}]},
        'data.corpus_id: column "id" of {0}/c.jsonl must have each id once, got "d3" in rows 4 and 61',
    ),
    "an empty corpus": ({"corpus": []}, "data.corpus: {0}/c.jsonl is empty"),
    "a passage without a text": (
        {"corpus": [*CORPUS, {"id": "x", "text": " "}]},
        'data.corpus_text: column "text" of {0}/c.jsonl must not be empty, got " " in row 61',
    ),
    "a corpus of other columns": ({"corpus_text": "body"}, 'data.corpus_text: in {0}/c.jsonl: unknown column "body"'),
    "no column of relevant ids": ({"relevant": "ids"}, 'data.relevant: in {0}/q.jsonl: unknown column "ids"'),
    "a corpus that is not there": ({"named": "d.jsonl"}, "data.corpus: no such file: {0}/d.jsonl"),
    "scores beside a corpus": ({"score": "query"}, "data.corpus: must be left out where data.score is given"),
    "names of passages": ({"passage_id": "id"}, "data.passage_id: must be left out where data.corpus is given"),
    "a query without text": (
        {"queries": changed(1, query="")},
        'data.query: column "query" of {0}/q.jsonl must not be',
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_the_command_with_one_error(
    folder: Path, mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, wanted = MISTAKES[mistake]
    config = config_of(folder, **{key: value for key, value in keys.items() if key != "named"})
    if "named" in keys:
        config.write_text(config.read_text().replace("corpus: c.jsonl", f"corpus: {keys['named']}"))
    capsys.readouterr()  # what was said before
    assert main(["plan", str(config), "--mlruns", str(folder / "mlruns")]) == 2
    error = capsys.readouterr().err
    assert wanted.format(folder) in error and str(config) in error, error
    assert len(error.splitlines()) == 1 and "Traceback" not in error, error


def test_a_corpus_is_of_sentence_similarity_alone(folder: Path) -> None:
    with pytest.raises(UserError, match=r"data.corpus: must be left out unless the task is sentence-similarity"):
        load_config(config_of(folder), ["task=classification"], names())


def test_a_search_over_a_corpus_is_planned(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = config_of(folder, changed(2, relevant=[]))
    assert main(["plan", str(config), "--mlruns", str(folder / "mlruns")]) == 0
    said = capfd.readouterr().out
    assert "among all 60 passages of c.jsonl" in said and "1 rows of q.jsonl dropped" in said
