"""Scores of exported models in tasks of lm-evaluation-harness: a table, JSON, and metrics by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from objectives.measurement import Direction

if TYPE_CHECKING:
    from rich.table import Table

UNFILTERED = "none"  # lm-eval's name of answers that are scored as they are
#: lm-eval's `higher_is_better` as a direction.
DIRECTIONS: Mapping[Any, Direction] = {True: "higher", False: "lower"}
#: What MLflow does not take in the name of a metric, beside "/".
NOT_IN_A_NAME = re.compile(r"[^\w.\- ]")


@dataclass(frozen=True, slots=True)
class TaskScore:
    """One metric of one model in one task."""

    task: str
    metric: str
    filter: str  # what takes the answer out of the generated text
    value: float
    standard_error: float | None  # None where lm-eval gives none
    better: Direction | None  # None where the task does not say
    rows: int | None  # None of a group of tasks

    @property
    def title(self) -> str:
        """The metric, with the filter if there is one: "exact_match, strict-match"."""
        return self.metric if self.filter == UNFILTERED else f"{self.metric}, {self.filter}"

    @property
    def figure(self) -> str:
        """The value and its standard error, to four and two digits: "0.4312 ± 0.014"."""
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2g}"
        return f"{self.value:.4g}{error}"


@dataclass(frozen=True, slots=True)
class ModelScores:
    """The scores of one exported model."""

    folder: str
    study: str
    number: int
    digest: str  # of its recipe
    scores: tuple[TaskScore, ...]

    def by_name(self) -> dict[str, float]:
        """Values and standard errors by names that MLflow accepts: "lm_eval/my_task/acc", ".../acc_stderr"."""
        named: dict[str, float] = {}
        for score in self.scores:
            parts = ["lm_eval", score.task, score.metric, *([] if score.filter == UNFILTERED else [score.filter])]
            name = "/".join(NOT_IN_A_NAME.sub("_", part) for part in parts)
            named[name] = score.value
            if score.standard_error is not None:
                named[f"{name}_stderr"] = score.standard_error
        return named


def scores_of(results: Mapping[str, Any]) -> Iterator[TaskScore]:
    """The scores in the result of `lm_eval.simple_evaluate`, of tasks and of groups of tasks."""
    for task, values in {**results["results"], **results.get("groups", {})}.items():
        higher = results.get("higher_is_better", {}).get(task) or {}
        rows = results.get("n-samples", {}).get(task, {}).get("effective")
        for key, value in values.items():
            metric, comma, taken = key.partition(",")  # "acc_norm,none"; others describe the task
            if not comma or metric.endswith("_stderr") or not isinstance(value, Real):
                continue
            error = values.get(f"{metric}_stderr,{taken}")
            yield TaskScore(
                task,
                metric,
                taken,
                float(value),
                float(error) if isinstance(error, Real) else None,  # "N/A" where there is none
                DIRECTIONS.get(higher.get(metric)),
                None if rows is None else int(rows),
            )


def scores_json(models: Sequence[ModelScores], rows: int | None) -> dict[str, Any]:
    """The content of a file of scores; `rows` is how many of each task were asked, None: all."""
    return {"limit": rows, "models": [asdict(model) for model in models]}


def scores_table(models: Sequence[ModelScores]) -> Table:
    """A line for each model and metric, for the terminal."""
    from rich.table import Table

    lines = Table(title=", ".join(dict.fromkeys(model.study for model in models)), title_justify="left")
    for head in ("trial", "task", "metric", "better", "value ± standard error", "rows"):
        lines.add_column(head, justify="left" if head in ("task", "metric", "better") else "right", overflow="fold")
    for model in models:
        for score in model.scores:
            rows = "" if score.rows is None else str(score.rows)
            names = (name.replace("[", r"\[") for name in (score.task, score.title))
            lines.add_row(str(model.number), *names, score.better or "", score.figure, rows)
        lines.add_section()
    return lines
