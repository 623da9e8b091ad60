"""The task sentence-similarity: rows, scores, and a search from its data to embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import command
import numpy as np
import pytest
import tiny

import search
from search.tasks.corpus import PassageData
from search.tasks.passages import Passages
from search.tasks.similarity import PassageRows, SentenceSimilarity

from . import written_task

TASK = SentenceSimilarity()
DATA = PassageData(train="unused", max_length=16)


def pairs(count: int, seed: int) -> list[dict[str, str]]:
    """Rows {"query", "passage"}: the passage has the words of the query among others."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        words = [str(word) for word in rng.choice((*tiny.POSITIVE, *tiny.NEGATIVE, *tiny.NEUTRAL), 4, replace=False)]
        rows.append({"query": " ".join(words), "passage": " ".join(rng.permutation([*words, "the", "film"]))})
    return rows


def encoded(count: int = 20) -> PassageRows:
    rows = pairs(count, 0)
    names = tuple(str(number) for number in range(count))
    parts = Passages(
        tuple(row["query"] for row in rows),
        names,
        tuple(row["passage"] for row in rows),
        names,
        tuple((number,) for number in range(count)),
    )
    encoded_rows: PassageRows = TASK.encode(tiny.word_tokenizer(), parts, DATA, ())
    return encoded_rows


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = encoded()
    rows.write(tmp_path, "train")
    again = TASK.read(tmp_path, "train")
    assert again.parts == rows.parts and len(again.encoded) == len(rows.encoded) == 40


@pytest.mark.parametrize("metric", TASK.metrics)
def test_embeddings_that_match_score_one_whatever_their_lengths(metric: str) -> None:
    rows = encoded()
    unit = np.eye(20)[np.r_[0:20, 0:20]] * np.random.default_rng(0).uniform(0.5, 2.0, (40, 1))
    assert rows.predictions(metric, unit).tolist() == [1.0] * 20
    long = unit.copy()
    long[20] = 100 * (np.eye(20)[0] + 0.5 * np.eye(20)[1])  # nearer to query 1 by its length alone
    assert rows.predictions("recall_at_1", long).tolist() == [1.0] * 20
    turned = np.eye(20)[np.r_[0:20, 1:20, 0]]
    assert rows.predictions("recall_at_1", turned).tolist() == [0.0] * 20


def test_some_queries_are_scored_among_all_passages() -> None:
    rows, output = encoded(), np.random.default_rng(0).normal(size=(40, 8))
    picked = np.array([2, 3, 11])
    some = rows.chosen(picked)
    assert len(some) == 3 and len(some.encoded) == 23
    wanted = rows.predictions("mrr_at_10", output)[picked]
    assert some.predictions("mrr_at_10", output[np.r_[picked, 20:40]]).tolist() == wanted.tolist()


def test_the_constant_guess_is_chance() -> None:
    guess = encoded(20).constant_guess("recall_at_10")
    assert guess.predictions.mean() == pytest.approx(0.5, abs=0.1) and "random order" in guess.text


# --- a search --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search over a tiny encoder that sentence-transformers saved, with mean pooling."""
    folder = tmp_path_factory.mktemp("passages")
    tiny.bert(folder / "model")
    for seed, (name, count) in enumerate((("train", 200), ("validation", 50), ("test", 50))):
        lines = [json.dumps(row) for row in pairs(count, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    splits = {name: f"{name}.jsonl" for name in ("train", "validation", "test")}
    config = command.write_config(
        folder / "config.yaml",
        study="found",
        task="sentence-similarity",
        model={"name": "model"},
        data={**splits, "max_length": 16},
        teacher={"epochs": 0},
    )
    command.search("run", config, cwd=folder).succeeded()
    return folder


def members(folder: Path) -> dict[int, Path]:
    return {int(path.name): path for path in (folder / "mlruns" / "exports" / "found" / "models").iterdir()}


def test_a_search_ends_with_models_whose_embeddings_do_what_their_records_say(searched: Path) -> None:
    rows = pairs(50, 1)
    for folder in members(searched).values():
        model = search.load(folder)
        queries, passages = (model([row[name] for row in rows]) for name in ("query", "passage"))
        assert queries.dtype == np.float32 and np.linalg.norm(queries, axis=1) == pytest.approx(1.0, abs=1e-2)
        first = (queries @ passages.T).argmax(1) == np.arange(50)
        assert first.mean() == pytest.approx(model.record.measurements["recall_at_1"].value, abs=0.06)
        np.testing.assert_allclose(model(rows[0]["query"]), queries[0], atol=2e-2)
        served = model.answers([{"text": row["query"]} for row in rows[:2]])
        np.testing.assert_allclose(served, queries[:2], atol=2e-2)
        with pytest.raises(TypeError, match="a text must be a string"):
            model([3])
        with pytest.raises(ValueError, match="batch_size must be a whole number of 1 or more, got -2"):
            model(["a film"], batch_size=-2)


def test_the_uncompressed_model_encodes_as_sentence_transformers_does(searched: Path, tmp_path: Path) -> None:
    """And as the mean of what transformers' pipeline gives of each token, which has none for this task."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from transformers import pipeline

    command.search("export", "found", "--pick", "0", "--to", tmp_path / "ours", cwd=searched).succeeded()
    modules: list[Any] = [
        Transformer(str(searched / "model"), max_seq_length=16),
        Pooling(32, pooling_mode="mean"),
        Normalize(),
    ]
    theirs = SentenceTransformer(modules=modules, device="cpu")
    texts = [row["passage"] for row in pairs(8, 4)]
    np.testing.assert_allclose(search.load(tmp_path / "ours")(texts), theirs.encode(texts), atol=1e-4)
    again = SentenceTransformer(str(tmp_path / "ours"), device="cpu", local_files_only=True)
    np.testing.assert_allclose(again.encode(texts), theirs.encode(texts), atol=1e-4)
    states = pipeline("feature-extraction", str(searched / "model"), trust_remote_code=False)(texts)
    means = np.array([np.mean(of_text[0], axis=0) for of_text in states])
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(search.load(tmp_path / "ours")(texts), unit, atol=1e-4)


def test_what_the_search_leaves_says_which_task_it_was(searched: Path) -> None:
    written_task.check(searched / "mlruns", "found", "sentence-similarity", "recall_at_1")


def test_an_exported_embedder_does_what_its_record_says(searched: Path) -> None:
    output = command.search("check", next(iter(members(searched).values())), cwd=searched).succeeded().out
    assert "recall_at_1 on the validation split" in output and "its record says" in output


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"teacher": {"epochs": 1}}, "teacher.epochs: must be 0 for sentence-similarity"),
        ({"model": {"name": "model", "head": "mean"}}, "model.head: must be auto for sentence-similarity"),
        ({"metric": "accuracy"}, 'unknown metric "accuracy"'),
        ({"data": {"query": "question"}}, 'unknown column "question"'),
        ({"data": {"score": "query"}}, "data.score"),
        ({"data": {"passage": "query"}}, "data.passage: must be another column than data.query"),
        ({"data": {"query_id": "number"}}, 'unknown column "number"'),
        ({"data": {"train": "blank.jsonl"}}, 'column "passage" of'),
        ({"data": {"train": "twice.jsonl", "passage_id": "id"}}, "must have another name for each text"),
        ({"data": {"train": "empty.jsonl"}}, "data.train"),
        ({"data": {"train": "nan.jsonl"}}, "must hold text, got a missing value in row 61"),
        ({"space": {"embedding": {"size": 64}}}, "space.embedding.size: must be between 2 and 32, got 64"),
        ({"space": {"embedding": {"size": 0}}}, "space.embedding.size: must be between 2 and 32, got 0"),
        ({"space": {"embedding": {"length": 8}}}, 'unknown knob of embedding "length"'),
    ],
    ids=[
        *("labels", "head", "metric", "column", "score", "same-column", "id-column", "blank", "doubled-id", "empty"),
        *("nan", "larger", "no-numbers", "knob"),
    ],
)
def test_what_the_task_has_no_use_for_is_refused(
    tmp_path: Path, changes: dict[str, Any], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from search.cli.main import main

    tiny.bert(tmp_path / "model")
    lines = [json.dumps(row) for row in pairs(60, 0)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "blank.jsonl").write_text("\n".join([*lines, '{"query": "warm", "passage": " "}']), encoding="utf-8")
    named = [json.dumps({**row, "id": "one"}) for row in pairs(60, 0)]
    (tmp_path / "twice.jsonl").write_text("\n".join(named), encoding="utf-8")
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    (tmp_path / "nan.jsonl").write_text("\n".join([*lines, '{"query": NaN, "passage": "a"}']), encoding="utf-8")
    data = {"train": "rows.jsonl", "validation": None, "test": None, "max_length": 16}
    settings: dict[str, Any] = {
        "task": "sentence-similarity",
        "model": {"name": "model"},
        "teacher": {"epochs": 0},
        **changes,
        "data": {**data, **changes.get("data", {})},
    }
    config = command.write_config(tmp_path / "config.yaml", **settings)
    capsys.readouterr()  # what saving the model said
    assert main(["plan", str(config), "--mlruns", str(tmp_path / "mlruns")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and wanted in error, error


def test_texts_that_are_longer_than_a_row_are_counted_in_a_note(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from search.cli.main import main

    tiny.bert(tmp_path / "model")
    rows: list[dict[str, str]] = pairs(60, 0)
    rows[1]["passage"] = "the film " * 80  # more than the model's 64 positions
    for name, part in (("rows", rows), ("dev", pairs(40, 1)), ("test", pairs(40, 2))):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    config = command.write_config(
        tmp_path / "config.yaml",
        task="sentence-similarity",
        model={"name": "model"},
        data={"train": "rows.jsonl", "validation": "dev.jsonl", "test": "test.jsonl", "max_length": 128},
        teacher={"epochs": 0},
    )
    assert main(["plan", str(config), "--mlruns", str(tmp_path / "mlruns")]) == 0
    output = capfd.readouterr().out
    assert "note: 1 of 120 texts of train fill 64 tokens" in output and "what is longer is cut" in output
