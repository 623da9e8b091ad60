"""`--task NAME` without a configuration is that task's embedded example, which fits its promises."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from search.cli.main import main
from search.config.source import embedded
from search.space.configured import configured

#: What lets a model of 64 positions, which knows hardly a word, stand in for the example's: by task.
SMALL = {
    "classification": ("data.max_length=64", "study=small"),
    "question-answering": ("data.max_length=64", "data.doc_stride=8", "study=small"),
    "sentence-similarity": ("data.max_length=64", "study=small"),
}
ROWS = 60


@pytest.mark.parametrize("task", SMALL)
def test_a_plan_without_a_configuration_is_that_of_the_tasks_example(
    tmp_path: Path, task: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = tiny.bert(tmp_path / "model")
    space = ("space.distill=off", "space.prune=off", "space.bits=off", "space.runtime.name=eager")
    settings = [f"model.name={model}", f"data.limit={ROWS}", *space, *SMALL[task]]
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert main(["plan", "--task", task, "--mlruns", str(tmp_path / "mlruns"), *arguments]) == 0
    said = capfd.readouterr().out
    assert "study     small in" in said
    assert f"data      {ROWS} train, {ROWS} validation, {ROWS} test rows" in said


def test_a_run_without_a_configuration_reads_the_example_of_the_named_task(capsys: pytest.CaptureFixture[str]) -> None:
    for task, error in (
        ("question-answering", "--set data.n_best: must be a whole number, at least 1, got 0"),
        ("sentence-similarity", "--set data.n_best: must be left out unless the task is question-answering, got 0"),
        ("sentence-similarities", 'did you mean "sentence-similarity"?'),
    ):
        assert main(["run", "--task", task, "--set", "data.n_best=0"]) == 2
        told = capsys.readouterr().err
        assert error in told and len(told.splitlines()) == 1, told


def test_the_job_of_question_answering_ends_within_40_minutes() -> None:
    budget = configured(task="question-answering").budget
    assert budget.timeout is not None and budget.timeout <= 40 * 60


def test_no_context_of_the_questions_is_in_two_splits() -> None:
    from pyarrow import parquet

    folder = embedded().parent / "question_answering"
    contexts = [
        set(parquet.read_table(folder / f"{split}.parquet").column("context").to_pylist())
        for split in ("train", "validation", "test")
    ]
    assert all(contexts) and sum(map(len, contexts)) == len(set.union(*contexts))
