"""Comparison of the teacher with the best constant guess, before anything is distilled from it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from objectives import quality
from objectives.measurement import Measurement
from objectives.process import Progress, RemoteTimeout
from objectives.quality import metric_named
from search.errors import UserError
from search.front.formatting import quantity
from search.measure.measurer import Measurer, Stopwatch
from search.prepare.prepared import Prepared
from search.tasks import Rows

#: A teacher surely beyond this share of the way from the constant guess to a perfect model gets no note.
NEAR_GUESS = 0.1


@dataclass(frozen=True)
class Standing:
    """The teacher compared with the constant guess, on the same rows."""

    metric: str
    teacher: Measurement
    guess: float  # the metric of the best model that gives every row the same answer
    text: str  # that answer in words
    gain: Measurement  # what the guess loses against the teacher

    @property
    def better(self) -> bool:
        """Whether the teacher is surely better, by the interval of the paired difference."""
        return self.gain.interval[0] > 0

    @property
    def near(self) -> bool:
        """Whether the teacher may be within `NEAR_GUESS` of the way from the guess to a perfect model."""
        metric = metric_named(self.metric)
        near = self.guess + NEAR_GUESS * (metric.perfect - self.guess)
        return self.gain.interval[0] <= float(metric.loss(self.guess, near))

    def __str__(self) -> str:
        value, low, high = (quantity(v, self.teacher.unit) for v in (self.teacher.value, *self.teacher.interval))
        guess = quantity(self.guess, self.teacher.unit)
        return (
            f"its {self.metric} is {value} ({low} to {high}), and {guess} {self.text}, "
            f"on {self.teacher.samples} validation rows"
        )


def standing(metric: str, predictions: np.ndarray, rows: Rows, seed: int) -> Standing:
    """The standing of a teacher with predictions (N,) for the rows; `seed` is that of the bootstrap."""
    guess = rows.constant_guess(metric)
    return Standing(
        metric,
        quality.quality(metric, predictions, rows.references, rows.classes, seed, {}),
        quality.score(metric, guess.predictions, rows.references, rows.classes),
        guess.text,
        quality.loss_against(metric, guess.predictions, predictions, rows.references, rows.classes, seed),
    )


def check_teacher(prepared: Prepared, progress: Progress, deadline: float | None = None) -> str:
    """A note where the teacher is little better than a constant guess on the validation split, else "".

    Its predictions are stored, and are those that the search counts losses from.

    Raises:
        UserError: the teacher is not surely better than a constant guess, all rows have one label, or a split has a
            single row, of which no interval can be told.
        TimeoutError: `deadline` (monotonic seconds) passed.
    """
    config = prepared.config
    _check_counts(prepared)
    rows = prepared.split("validation")
    if problem := rows.problem():
        raise UserError(f"{config.where('data.validation')}: {problem}")
    try:
        predictions = _predictions(prepared, progress, deadline)
    except ArithmeticError as error:  # of outputs that are no numbers
        found = str(error)
    else:
        result = standing(prepared.metric, predictions, rows, config.seed)
        if result.better:
            return f"the teacher is little better than a constant guess: {result}" if result.near else ""
        found = str(result)
    trained = config.teacher.epochs > 0
    task = prepared.task
    reasons = (
        "too little training (teacher.epochs, teacher.learning_rate)"
        if trained
        else "a head that was never trained (set teacher.epochs)"
        if task.supervised
        else "a model that was never trained for this, or another model's tokenizer"
    )
    reasons += ", labels in another order (data.label_names)" if task.labelled else ""
    where = config.where("teacher.epochs" if trained else "model.name")
    raise UserError(
        f"{where}: the teacher must be better than a constant guess: {found}; "
        f"likely: {reasons}, or too few validation rows to tell"
    )


def _check_counts(prepared: Prepared) -> None:
    """Raise UserError where validation or test has a single row."""
    config = prepared.config
    for split in ("validation", "test"):
        count = len(prepared.split(split))
        if count < 2:
            one = split == "validation" and config.measure.validation_rows == 1
            where = config.where("measure.validation_rows" if one else f"data.{split}")
            raise UserError(f"{where}: must have two rows or more, of which an interval can be told, got {count}")


def _predictions(prepared: Prepared, progress: Progress, deadline: float | None) -> np.ndarray:
    """The teacher's predictions (N,) of the validation split."""

    def limit_s() -> float:
        step = float(prepared.config.budget.trial_timeout)
        return step if deadline is None else max(1.0, min(step, deadline - time.monotonic()))

    try:
        return Measurer(prepared, progress, limit_s, Stopwatch()).baseline_predictions("validation")
    except RemoteTimeout as error:
        if deadline is None or time.monotonic() < deadline:
            raise
        raise TimeoutError(
            "the time limit ended while the teacher was tried on the validation split, before the first trial; "
            "the same command starts there again, with what is done kept"
        ) from error
