"""Tasks of lm-evaluation-harness whose data is on this machine, asked of exported language models.

tasks = LocalTasks(["my_task"], Path("my-tasks"))
for score in tasks.scores(language_model(folder), "my_task"):
    score.figure       # "0.4312 ± 0.014"
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from search.errors import UserError, causes, listed, one_line, unknown
from search.report.task_scores import ModelScores, TaskScore, scores_of
from search.serve.generator import Generator
from search.serve.harness import HARNESS_INSTALL
from search.serve.pipeline import load

TASKS_OPTION = "--tasks"
#: Resamples of a bootstrap, which gives the standard error of a metric that is no mean: to about 2 % of it.
RESAMPLES = 1000
#: With the last one a bootstrap forks no process: this one has threads.
OFFLINE_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "DISABLE_MULTIPROC": "1",
}
#: Settings that libraries took from the environment when they were imported: (module, name).
OFFLINE_SETTINGS = (
    ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_DATASETS_OFFLINE"),
    ("evaluate.config", "HF_EVALUATE_OFFLINE"),
)


class LocalTasks:
    """Tasks of lm-evaluation-harness by name: those whose YAML files are in a folder, or without one lm-eval's own.

    Nothing is downloaded from then on in this process, and no code that comes with a data set is run. (That of a
    task's YAML file is.)

    Raises:
        UserError: lm-eval is not installed, or a task is not known, cannot be loaded, or would download something.
    """

    def __init__(self, names: Sequence[str], folder: Path | None = None) -> None:
        if importlib.util.find_spec("lm_eval") is None:
            raise UserError(f"lm-eval: not installed: {HARNESS_INSTALL}")
        if not names:
            raise UserError(f"{TASKS_OPTION}: must name at least one task")
        if folder is not None and not folder.is_dir():
            raise UserError(f"--include-path: must be a folder with YAML files of tasks, got {folder}")
        download_nothing()
        self.names = tuple(dict.fromkeys(names))
        with _silence():
            self._manager = _manager(self.names, folder)
            for name in self.names:
                _check(self._manager, name)

    def scores(self, model: Generator, name: str, rows: int | None = None) -> list[TaskScore]:
        """The scores of `model` in a task; `rows`: only in so many of its first rows.

        Raises:
            UserError: the task asks for what the model cannot do, such as an answer longer than its context.
        """
        evaluator: Any = importlib.import_module("lm_eval.evaluator")
        try:
            with _silence():
                results = evaluator.simple_evaluate(
                    model=model.harness(),
                    tasks=[name],
                    task_manager=self._manager,
                    limit=rows,
                    bootstrap_iters=RESAMPLES,
                    log_samples=False,
                    confirm_run_unsafe_code=False,
                )
        except ValueError as error:
            raise UserError(f"{TASKS_OPTION}: {name} cannot be asked of {model.folder}: {one_line(error)}") from error
        return list(scores_of(results))


def model_scores(folder: Path, tasks: LocalTasks, rows: int | None, say: Callable[[str], None]) -> ModelScores:
    """The scores of the exported model in `folder`; a line is said after each task.

    Raises UserError.
    """
    model = language_model(folder)
    record = model.record
    scores: list[TaskScore] = []
    for name in tasks.names:
        for score in tasks.scores(model, name, rows):
            say(f"trial {record.number}: {score.task}: {score.title} {score.figure}")
            scores.append(score)
    return ModelScores(str(folder), record.study, record.number, record.recipe.digest, tuple(scores))


def language_model(folder: Path) -> Generator:
    """The exported language model in `folder`. Raises UserError where it is another model, or cannot run here."""
    model = load(folder)
    if not isinstance(model, Generator):
        raise UserError(f"{folder}: must be a language model, got a model of the task {model.record.recipe.task}")
    return model


def download_nothing() -> None:
    """No library of Hugging Face downloads anything in this process any more, which belongs to this program."""
    os.environ.update(OFFLINE_ENVIRONMENT)
    for module, name in OFFLINE_SETTINGS:
        if module in sys.modules:
            setattr(sys.modules[module], name, True)


def _manager(names: Sequence[str], folder: Path | None) -> Any:
    """lm-eval's manager of tasks, which knows them all. Raises UserError for an unknown one."""
    tasks: Any = importlib.import_module("lm_eval.tasks")
    # Those that come with it are not read beside a folder: they are in thousands of files, which takes ten seconds.
    path = None if folder is None else str(folder)
    manager = tasks.TaskManager(include_path=path, include_defaults=folder is None)
    for name in names:
        if name not in manager.all_tasks:
            raise unknown(TASKS_OPTION, "task", name, manager.all_tasks)
    return manager


def _check(manager: Any, name: str) -> None:
    """Raise UserError where a task, or one of its group, cannot be loaded with what is on this machine."""
    try:
        loaded = manager.load([name])["tasks"]
    except Exception as error:  # the code and the data of a task raise anything
        why = f"{type(error).__name__}: {one_line(error, 300)}"
        if any(isinstance(link, ConnectionError) for link in causes(error)):
            raise UserError(
                f"{TASKS_OPTION}: {name}: its data must be on this machine, and nothing is downloaded: {why}"
            ) from error
        raise UserError(f"{TASKS_OPTION}: {name}: cannot be loaded: {why}") from error
    for task in loaded.values():
        functions = getattr(task, "_metric_fn_list", {})
        absent = [metric for metric, function in functions.items() if function is None]
        if absent and task.config.process_results is None:  # else the task computes its metrics itself
            raise UserError(
                f"{TASKS_OPTION}: {name}: its metrics must be lm-eval's own, and nothing is downloaded, "
                f"got {listed(absent)}"
            )


@contextmanager
def _silence() -> Iterator[None]:
    """Drop what lm-eval prints: progress bars, and that it resamples."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
