"""What all trials of one search share: the configuration, the prepared stages, and the space."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from objectives.bench import Batch
from objectives.clock import cpus
from search.config.schema import RunConfig
from search.front.outcome import CALL_TIMES, LATENCY, PREDICTED_TIMES, Target
from search.front.study_record import StudyRecord
from search.prepare.matmul_costs import priced
from search.prepare.recovery_budget import likeliest_of
from search.space.space import Params, Space
from search.store.paths import inside
from search.store.store import Store
from search.tasks import Rows, Task, task_of
from spaces.axes.bits import INTEGER
from spaces.knob import Value
from spaces.recipe import DEPLOYED, Recipe, Step
from spaces.runtime import Context

#: Rows per call for predictions in floating point.
ROWS_PER_CALL = 32


def cores() -> int:
    """The number of CPUs that this process may use; stages train with all of them."""
    return cpus()


@dataclass(frozen=True)
class PreparedData:
    """The prepared data of a configuration."""

    config: RunConfig
    context: Context
    data: Path  # folder of the stage "data"

    @cached_property
    def about_data(self) -> dict[str, Any]:
        """The content of `data.json`: labels, digest, notes, frame, and numbers of rows."""
        about: dict[str, Any] = json.loads((self.data / "data.json").read_text(encoding="utf-8"))
        return about

    @property
    def task(self) -> Task:
        """The task of the configuration."""
        return task_of(self.config)

    @cached_property
    def _read(self) -> dict[str, Rows]:
        """Cache of the splits that were read; they are never changed."""
        return {}

    def whole(self, name: str) -> Rows:
        """All rows of a split."""
        if name not in self._read:
            self._read[name] = self.task.read(self.data, name)
        return self._read[name]

    def split(self, name: str) -> Rows:
        """The rows of a split; validation has a fixed sample of `measure.validation_rows` rows where that is set."""
        rows = self.whole(name)
        limit = self.config.measure.validation_rows
        if name != "validation" or limit is None or limit >= len(rows):
            return rows
        if "cut" not in self._read:
            chosen = np.sort(np.random.default_rng(self.config.seed).permutation(len(rows))[:limit])
            self._read["cut"] = rows.chosen(chosen)
        return self._read["cut"]

    def sizes(self, rows: Rows, precision: str) -> list[int]:
        """Rows of each call for predictions.

        Under an integer precision calls are those of the workload, because dynamic scales depend on the batch. In
        floating point the output of a row does not depend on the other rows, so batches are larger.
        """
        size = self.config.workload.batch
        if precision in INTEGER:
            return [int(rows.calls[i : i + size].sum()) for i in range(0, len(rows.calls), size)]
        at_once = self.task.most_rows(ROWS_PER_CALL, self.config.data.max_length)
        size, total = max(size, at_once), len(rows.encoded)
        return [min(size, total - i) for i in range(0, total, size)]

    def batches(self, rows: Rows, precision: str) -> list[Batch]:
        """The rows in order, in batches of `sizes`."""
        ends = np.cumsum(self.sizes(rows, precision))
        return [rows.encoded.batch(part) for part in np.split(np.arange(len(rows.encoded)), ends[:-1])]


@dataclass(frozen=True)
class Prepared(PreparedData):
    """The prepared stages of a search, shared by all trials."""

    store: Store
    space: Space
    teacher: Path
    teacher_digest: str
    statistics: Path
    outputs: Path | None  # the teacher's outputs; None when nothing is recovered
    environment: Mapping[str, Any]  # device fingerprint and versions
    parts: Mapping[str, Any]  # what all trials of one study share
    costs: str | None = None  # of matrix products on this device; None where no plan follows from them

    def written(self, path: Path) -> str:
        """A path as the study stores it, relative to the results folder."""
        return inside(Path(self.config.mlruns), path)

    @property
    def model_digest(self) -> str:
        """Digest of the base model's files."""
        return str(self.parts["model"]["digest"])

    @property
    def metric(self) -> str:
        """The name of the task's metric."""
        return self.config.metric

    @cached_property
    def constant_guess(self) -> float:
        """The metric of the best constant guess on the validation rows: the majority baseline."""
        from objectives import quality

        rows = self.split("validation")
        guess = rows.constant_guess(self.metric).predictions
        return quality.score(self.metric, guess, rows.references, rows.classes)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets of the search, in the order of the configuration."""
        return targets_of(self.config.objectives, self.metric)

    @property
    def time_objective(self) -> str | None:
        """The median time that is an objective beside the task's metric: `LATENCY`, "ttft_ms" or "tpot_ms".

        None where the objectives are not these two, which the surrogates predict.
        """
        names = {t.objective for t in self.targets}
        times = names & {*PREDICTED_TIMES}
        if len(times) != 1 or names != {self.metric, *times}:
            return None
        [time] = times
        return LATENCY if time in CALL_TIMES else time

    def record(self, seconds: float) -> StudyRecord:
        """The study's record without finalists, after `seconds` of run time."""
        rows = {name: int(count) for name, count in self.about_data["rows"].items()}
        notes = (*self.about_data["notes"], *self.space.notes)
        return StudyRecord(
            self.config.to_mapping(), dict(self.environment), rows=rows, notes=notes, seconds=round(seconds, 1)
        )

    def recipe(self, params: Params) -> Recipe:
        """The canonical recipe of these settings."""
        return self._recipe(priced(self.space.steps(params), self.costs), str(params.get("runtime.name", "eager")))

    def _recipe(self, steps: tuple[Step, ...], runtime: str) -> Recipe:
        cut = any(step.name not in DEPLOYED for step in steps)
        wanted = asdict(self.config.recover)
        recover: dict[str, Value] = {}
        if cut and wanted["epochs"] > 0:
            recover = {name: 0 if value is None else value for name, value in wanted.items()}
            recover |= {"top_k": likeliest_of(self.config)}
        return Recipe(
            base=self.model_digest,
            task=self.config.task,
            teacher=self.teacher_digest,
            steps=steps,
            recover=recover,
            runtime=Step(runtime),
        )


def targets_of(objectives: Sequence[str], metric: str) -> tuple[Target, ...]:
    """The targets in the order of the configuration; "metric" stands for the task's metric."""
    from objectives import objective_named

    names = [metric if name == "metric" else name for name in objectives]
    return tuple(Target(name, objective_named(name).better) for name in names)
