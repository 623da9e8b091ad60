"""The tasks of models. A new task is a file here and a name in `TASKS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from objectives import quality
from search.tasks.causal_lm import CausalLM
from search.tasks.choice_rows import CausalChoices
from search.tasks.classification import Classification
from search.tasks.multi_label import MultiLabel
from search.tasks.question_answering import QuestionAnswering
from search.tasks.regression import Regression
from search.tasks.scored_pairs import ScoredSimilarity
from search.tasks.similarity import SentenceSimilarity
from search.tasks.task import ALONE, Rows, Split, Splits, Task

if TYPE_CHECKING:
    from objectives.metric import Metric
    from search.config.schema import RunConfig

TASKS: tuple[Task, ...] = (Classification(), QuestionAnswering(), SentenceSimilarity(), CausalLM())
#: Variants by model.problem_type; the first is the task itself.
VARIANTS: Mapping[str, tuple[Classification, ...]] = {"classification": (Classification(), MultiLabel(), Regression())}
#: Variants where data.score names a column.
SCORED: Mapping[str, Task] = {"sentence-similarity": ScoredSimilarity()}
#: Metrics where data.choices gives multiple-choice questions.
QUESTIONED: Mapping[str, tuple[str, ...]] = {"causal-lm": CausalChoices.metrics}
quality.register(*(metric for task in TASKS for metric in task.own_metrics))

__all__ = [
    "ALONE",
    "QUESTIONED",
    "SCORED",
    "TASKS",
    "VARIANTS",
    "Rows",
    "Split",
    "Splits",
    "Task",
    "metrics",
    "recorded_task",
    "task_named",
    "task_of",
]


def metrics() -> tuple[Metric, ...]:
    """Every metric of every task."""
    return quality.metrics()


def task_named(name: str) -> Task:
    """The registered task called `name` (a configuration's name is already checked)."""
    return next(task for task in TASKS if task.name == name)


def task_of(config: RunConfig, targets: np.ndarray | None = None) -> Task:
    """The task of a configuration; with the unit of the training rows' `targets` where these are numbers."""
    task = _variant(config.task, config.model.problem_type, config.data.score, config.data.choices, config.metric)
    return task.fitted(targets) if targets is not None else task


def recorded_task(config: Mapping[str, Any]) -> Task:
    """The task of a configuration that a record holds, as `RunConfig.to_mapping` gives it."""
    data, problem = config["data"], config["model"].get("problem_type")
    return _variant(str(config["task"]), problem, data.get("score"), data.get("choices"), str(config["metric"]))


def _variant(name: str, problem: str | None, score: str | None, choices: str | None, metric: str) -> Task:
    if score is not None and name in SCORED:
        return SCORED[name]
    if choices is not None and name in QUESTIONED:
        return CausalChoices(metric)
    return next((task for task in VARIANTS.get(name, ()) if task.problem_type == problem), task_named(name))
