"""The real search of a task's embedded example on this device: every trial a row as it comes, then the front.

The model is the bundle's. The data of question answering are whole files where they are here (`RunSetup.questions`);
else, and of other tasks, they are all rows of the package. A note of the table says which. The search ends when the
time of the stage does. Searches share one results folder with those of the embedded default.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import header, question_splits
from benchmarks.gpu.run_setup import ROOT, RunSetup
from benchmarks.gpu.search_front import COLUMNS, SPARE_S, TrialTable, log_of, results, show_front
from benchmarks.gpu.tables import Report
from search.config.schema import RunConfig
from search.space.configured import configured

TRIALS = 12
#: What a GPU runs without compiling for each set of weights, and timings that fit the time of a stage.
OVERRIDES = (
    "device=cuda",
    "space.bits.precision=[fp32, bf16]",
    "space.runtime.name=[eager, cuda_graph]",
    "measure={quick_s: 0.5, final_s: 1.5}",
)


def run(setup: RunSetup, report: Report, task: str) -> None:
    settings, said = data_of(setup, task)
    config = config_of(setup, task, settings)
    report.begin(f"{config.metric} (in the column accuracy) against latency, of the example of {task}", COLUMNS)
    report.note(said)
    rows = TrialTable(report, config)
    from search.compose import run as search

    result = search(config, rows)
    show_front(result, rows, report)
    report.goals([header.Promise("trials", len(result.front.outcomes), TRIALS)])
    if any(outcome.status == "failed" for outcome in result.front.outcomes):
        report.failure(f"trials failed; the end of the run's log:\n{log_of(result)}")


def data_of(setup: RunSetup, task: str) -> tuple[list[str], str]:
    """(the settings that name the data, none for those of the example; what the data are, in words)."""
    if setup.dry:
        return [], "data: toy rows"
    source = setup.questions if task == question_splits.TASK else None
    if source is None:
        return [], "data: the rows of the package"
    files = question_splits.write_splits(source, setup.work / "questions")
    return question_splits.settings(files), f"data: whole files of {source}; {question_splits.described(files)}"


def config_of(setup: RunSetup, task: str, settings: list[str]) -> RunConfig:
    """The embedded example's configuration; dry, that of the tests' tiny model."""
    if setup.dry:
        return configured(toy(setup.work, task), 1, None, task, results(setup), [])
    file = ROOT / "search" / "quickstart" / f"{task}.yaml"
    limit = max(1.0, setup.left_s - SPARE_S)
    study = f"{task}-whole" if settings else task  # other data are another study
    return configured(file, TRIALS, limit, study, results(setup), [*OVERRIDES, *settings, f"model.name={setup.model}"])


def toy(folder: Path, task: str) -> Path:
    """The configuration of a search over a random model of two layers, with its files."""
    from tests import command, tiny

    rows: list[dict[str, Any]] = []
    judging = {*tiny.POSITIVE, *tiny.NEGATIVE}
    for number, row in enumerate(tiny.sentences(400, 0)):
        text = row["text"]
        word = next(word for word in text.split() if word in judging)
        asked = f"{word} film" if task == "question-answering" else " ".join(text.split()[-5:])
        answers = {"text": [word], "answer_start": [text.index(word)]}
        rows.append({"id": str(number), "question": asked, "context": text, "answers": answers})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{task}.jsonl").write_text(lines, encoding="utf-8")
    data: dict[str, Any] = {"train": f"{task}.jsonl", "validation": None, "test": None, "max_length": 32}
    if task == "sentence-similarity":
        data |= {"query": "question", "passage": "context"}
    else:
        data |= {"doc_stride": 3}
    changes: dict[str, Any] = {
        "space": {"bits": {"precision": ["fp32"]}, "runtime": {"name": ["eager"]}},
        "teacher": {"epochs": 0 if task == "sentence-similarity" else 6},
        "data": data,
    }
    model = tiny.bert(folder / "bert")
    return command.write_config(
        folder / f"{task}.yaml", task=task, model={"name": str(model)}, sampler="random", **changes
    )
