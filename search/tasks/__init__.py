"""What a model is for. A new task is a file here and a name in `TASKS`."""

from search.tasks.classification import Classification
from search.tasks.task import Rows, Split, Splits, Task

TASKS: tuple[Task, ...] = (Classification(),)

__all__ = ["TASKS", "Rows", "Split", "Splits", "Task", "task_named"]


def task_named(name: str) -> Task:
    """The registered task called `name` (a configuration's name is already checked)."""
    return next(task for task in TASKS if task.name == name)
