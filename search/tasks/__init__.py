"""The tasks of models. A new task is a file here and a name in `TASKS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from search.tasks.causal_lm import CausalLM
from search.tasks.classification import Classification
from search.tasks.question_answering import QuestionAnswering
from search.tasks.similarity import SentenceSimilarity
from search.tasks.task import ALONE, Rows, Split, Splits, Task

if TYPE_CHECKING:
    from search.config.schema import RunConfig

TASKS: tuple[Task, ...] = (Classification(), QuestionAnswering(), SentenceSimilarity(), CausalLM())

__all__ = [
    "ALONE",
    "TASKS",
    "Rows",
    "Split",
    "Splits",
    "Task",
    "forms",
    "recorded_data",
    "recorded_task",
    "task_named",
    "task_of",
]


def forms() -> tuple[Task, ...]:
    """Every task, and after it its variants."""
    return tuple(form for task in TASKS for form in (task, *task.variants))


def task_named(name: str) -> Task:
    """The registered task called `name` (a configuration's name is already checked)."""
    return next(task for task in TASKS if task.name == name)


def task_of(config: RunConfig, targets: np.ndarray | None = None) -> Task:
    """The task of a configuration; with the unit of the training rows' `targets` where these are numbers."""
    task: Task = task_named(config.task).variant(config.model.problem_type, config.data, config.metric)
    return task.fitted(targets) if targets is not None else task


def recorded_task(config: Mapping[str, Any]) -> Task:
    """The task of a configuration that a record holds, as `RunConfig.to_mapping` gives it."""
    task, problem_type = task_named(str(config["task"])), config["model"].get("problem_type")
    variant: Task = task.variant(problem_type, recorded_data(task, config["data"]), str(config["metric"]))
    return variant


def recorded_data(task: Task, data: Mapping[str, Any]) -> Any:
    """The section `data` of a record as `task.keys`. Keys that the task does not have are ignored."""
    own = {key.name for key in fields(task.keys)}
    return TypeAdapter(task.keys).validate_python({name: value for name, value in data.items() if name in own})
