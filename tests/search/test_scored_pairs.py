"""Sentence similarity of scored pairs: rows, scores, and a search from its data to a front."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import command
import numpy as np
import pytest
import tiny
from scipy.stats import pearsonr, spearmanr

import search
from objectives.quality import loss_against, score
from search.tasks import task_named
from search.tasks.corpus import PassageData
from search.tasks.passages import ScoredPairs
from search.tasks.scored_pairs import PairRows

(TASK,) = task_named("sentence-similarity").variants
BOTH = {"spearman": spearmanr, "pearson": pearsonr}


def pairs(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows {"query", "passage", "alike"}: of four words, so many stand in both texts."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        words = rng.choice((*tiny.POSITIVE, *tiny.NEGATIVE, *tiny.NEUTRAL), 8, replace=False)
        shared = int(rng.integers(5))
        second = [*words[:shared], *words[4 : 8 - shared]]
        rows.append({"query": " ".join(words[:4]), "passage": " ".join(second), "alike": float(shared)})
    return rows


@pytest.fixture(scope="module")
def rows() -> PairRows:
    examples = pairs(30, 0)
    part = ScoredPairs(
        tuple(row["query"] for row in examples),
        tuple(row["passage"] for row in examples),
        np.array([row["alike"] for row in examples]),
    )
    pair_rows: PairRows = TASK.encode(tiny.word_tokenizer(), part, PassageData(train="unused", max_length=16), ())
    return pair_rows


@pytest.fixture(scope="module")
def output() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(60, 8)).astype(np.float32)


def test_rows_are_read_as_they_were_written(rows: PairRows, tmp_path: Path) -> None:
    rows.write(tmp_path, "train")
    again = TASK.read(tmp_path, "train")
    assert again.references.tolist() == rows.references.tolist() and len(again) == 30
    assert [a.tolist() for a in again.encoded.columns["input_ids"]] == [
        a.tolist() for a in rows.encoded.columns["input_ids"]
    ]


@pytest.mark.parametrize("metric", TASK.metrics)
def test_a_pair_is_scored_by_its_cosine(rows: PairRows, output: np.ndarray, metric: str) -> None:
    first, second = output[:30].astype(float), output[30:].astype(float)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(first, second, strict=True)]
    scores = rows.predictions(metric, output)
    assert scores == pytest.approx(cosines)
    wanted = BOTH[metric](rows.references, cosines)[0]
    assert score(metric, scores, rows.references, rows.classes) == pytest.approx(wanted)


def test_some_pairs_keep_their_own_texts(rows: PairRows, output: np.ndarray) -> None:
    picked = np.array([2, 3, 11])
    some = rows.chosen(picked)
    assert len(some) == 3 and len(some.encoded) == 6
    assert some.references.tolist() == rows.references[picked].tolist()
    wanted = rows.predictions("spearman", output)[picked]
    assert some.predictions("spearman", output[np.r_[picked, 30 + picked]]) == pytest.approx(wanted)


def test_a_loss_is_paired_over_the_pairs(rows: PairRows, output: np.ndarray) -> None:
    ours = rows.predictions("spearman", output)
    same = loss_against("spearman", ours, 3 * ours, rows.references, 0, seed=0)
    assert (same.value, same.interval) == (0.0, (0.0, 0.0)), "the same order in every draw"
    perfect = loss_against("spearman", ours, rows.references, rows.references, 0, seed=0)
    assert perfect.interval[0] < perfect.value == pytest.approx(100 * (1 - spearmanr(rows.references, ours)[0]))


def test_no_constant_guess_follows_the_scores(rows: PairRows) -> None:
    guess = rows.constant_guess("spearman")
    assert score("spearman", guess.predictions, rows.references, 0) == 0 and "equally alike" in guess.text
    assert rows.problem() == ""
    one_score = PairRows(rows.encoded, np.full(30, 2.5))
    assert one_score.problem() == "must have pairs with different scores, got 30 pairs of 2.5"


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("pairs")
    tiny.bert(project / "model")
    for seed, (name, count) in enumerate((("train", 80), ("validation", 60), ("test", 60))):
        lines = [json.dumps(row) for row in pairs(count, seed)]
        (project / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return project


def config(folder: Path, name: str = "config", **changes: Any) -> Path:
    splits = {split: f"{split}.jsonl" for split in ("train", "validation", "test")}
    settings: dict[str, Any] = {
        "study": "found",
        "task": "sentence-similarity",
        "model": {"name": "model"},
        "teacher": {"epochs": 0},
        "budget": {"trials": 3},
        "space": {"prune": "off", "embedding": {"size": 16}, "bits": "off", "runtime": {"name": "eager"}},
        **changes,
        "data": {**splits, "max_length": 16, "score": "alike", **changes.get("data", {})},
    }
    return command.write_config(folder / f"{name}.yaml", **settings)


def test_a_search_over_scored_pairs_ends_with_models_that_do_what_their_records_say(folder: Path) -> None:
    command.search("run", config(folder), cwd=folder).succeeded()
    examples = pairs(60, 1)
    exported = sorted((folder / "mlruns" / "exports" / "found" / "models").iterdir())
    front = json.loads((folder / "mlruns" / "exports" / "found" / "front.json").read_text(encoding="utf-8"))
    cut = {str(member["number"]) for member in front["members"] if "embedding.size" in json.dumps(member)}
    assert exported and {place.name for place in exported} >= cut
    built = [json.loads(path.read_text()) for path in (folder / "mlruns" / "cache").rglob("weights/*/config.json")]
    assert built and all(config["plans"]["embedding"] == {"size": 16} for config in built)
    for place in exported:
        model = search.load(place)
        first, second = (model([row[name] for row in examples]) for name in ("query", "passage"))
        assert first.shape == (60, 16 if place.name in cut else 32)
        ours = spearmanr((first * second).sum(1), [row["alike"] for row in examples])[0]
        record = model.record.measurements["spearman"]
        assert ours == pytest.approx(record.value, abs=0.05) and ours > 0.3
        assert record.interval[0] < record.value < record.interval[1]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        (
            {"metric": "recall_at_1"},
            'metric: must be spearman or pearson where data.score is given, got "recall_at_1"',
        ),
        (
            {"metric": "spearman", "data": {"score": None}},
            "metric: must be recall_at_1 or recall_at_10 or mrr_at_10 or ndcg_at_10 where data.score is left out",
        ),
        (
            {"task": "classification"},
            'data.score: must be left out unless the task is sentence-similarity, got "alike"',
        ),
        ({"data": {"score": "likeness"}}, 'unknown column "likeness"'),
        ({"data": {"score": "query"}}, 'data.score: column "query"'),
        ({"data": {"query_id": "query"}}, "data.query_id: must be left out where data.score is given"),
        ({"data": {"train": "nan.jsonl"}}, "must hold finite numbers, got a missing value in row 2"),
    ],
    ids=["ranks", "no-scores", "task", "column", "texts", "names", "nan"],
)
def test_mistakes_about_scores_are_one_clear_error(
    folder: Path, changes: dict[str, Any], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from search.cli.main import main

    rows = pairs(80, 9)
    rows[1]["alike"] = float("nan")
    (folder / "nan.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    capsys.readouterr()
    assert main(["plan", str(config(folder, "mistake", **changes)), "--mlruns", str(folder / "elsewhere")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and wanted in error, error
