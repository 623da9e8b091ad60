"""Job to outcomes: build the weights, then measure them under every runtime and width asked for.

The one place that catches broadly: whatever goes wrong with a candidate becomes its outcome's status and reason.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

import spaces
from objectives import energy, memory, quality, size
from objectives.bench import open_bench
from objectives.measurement import Measurement
from objectives.process import Remote, RemoteTimeout
from search import isolate, stages
from search.encoded import read_encoded
from search.errors import disk_is_full
from search.front import LATENCY, Outcome, Status
from search.limits import broken
from search.loop import Job
from search.setting import Setting
from search.timed import Timings
from spaces import build
from spaces.axis import Infeasible
from spaces.recipe import Recipe

#: Largest difference of logits from eager PyTorch that the same weights in fp32 may show under another runtime.
PARITY = 1e-3
PREDICT_CHUNK = 64  # batches a call, so that a long split shows progress and obeys its time limit

Progress = Callable[[str, float], None]


class OutOfTime(Exception):  # noqa: N818 - the run's own limit, not an error
    """The run's time limit passed while a candidate was evaluated; its trial stays open for the next run."""


class Deadline(Protocol):
    """The run's time limit; the finalists have the part of it that the search may not use."""

    @property
    def search_deadline(self) -> float | None: ...


class Evaluator:
    """Evaluates jobs one after the other; holds the baseline's process, stopped while it is not needed."""

    def __init__(self, setting: Setting, progress: Progress, clock: Deadline) -> None:
        self._setting, self._progress, self._clock = setting, progress, clock
        self._baseline: Remote | None = None
        self._seconds: dict[str, float] = {}
        self._timings = Timings(setting)
        self.finishing = False  # the finalists' turn: the search's own deadline is over

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop_baseline()

    def _drop_baseline(self) -> None:
        """End its process; the next comparison starts a new one."""
        if self._baseline is not None:
            self._baseline.close()
            self._baseline = None

    def __call__(self, job: Job) -> Iterator[Outcome]:
        self._seconds = {}
        recipes = (job.recipe, *job.siblings)
        refused = self._too_slow(recipes) if job.recipe.recover else {}
        left = [r for r in recipes if r.digest not in refused]
        folder: Path | None = None
        failure: tuple[Status, str] | None = None
        if left:
            try:
                with self._timed("weights"):
                    folder = self.weights(job.recipe)
            except Exception as error:
                failure = self._status_of(error)
        for recipe in recipes:
            if recipe.digest in refused:
                yield refused[recipe.digest]
            elif folder is None:
                assert failure is not None
                yield self._outcome(recipe, failure[0], failure[1], baseline=job.baseline)
            else:
                yield self._measured(recipe, folder, job)
            self._seconds = {}  # the weights' time is counted once, with the first

    def weights(self, recipe: Recipe) -> Path:
        """The folder of the recipe's weights: the teacher's own, or made and stored."""
        setting = self._setting
        if not recipe.compressed:
            return setting.teacher
        outputs = setting.outputs or Path()
        steps = tuple(step for step in recipe.steps if step.name != "bits")
        arguments = (setting.config, steps, recipe.recover, setting.data, setting.teacher, setting.statistics)
        where = (setting.context.device, setting.context.threads)

        def make(folder: Path) -> None:
            isolate.run(
                stages.make_weights,
                folder,
                *arguments,
                outputs,
                *where,
                timeout_s=self._limit_s(),
                progress=self._progress,
            )

        return setting.store.make("weights", {"weights": recipe.weights_digest}, make)[0]

    @contextmanager
    def opened(self, recipe: Recipe, folder: Path) -> Iterator[Remote]:
        """The model in `folder` under the recipe's runtime and width, in a process of its own."""
        context = self._setting.context
        plan = build.precision_of(recipe)
        opening = partial(build.open_predict, folder, recipe.runtime.name, plan, context)
        if not all((folder / name).exists() for name in spaces.runtime(recipe.runtime.name).files(plan)):
            # Making a graph leaves memory behind, so the process that makes it is not the one that is measured.
            with self._timed("export"):
                open_bench(opening, context.device, context.threads, self._limit_s()).close()
        with open_bench(opening, context.device, context.threads, self._limit_s()) as bench:
            yield bench

    def outputs(self, bench: Remote, split: str, stage: str) -> list[dict[str, np.ndarray]]:
        """The outputs for every batch of a split."""
        batches = self._setting.batches(self._setting.split(split)[0])
        made: list[dict[str, np.ndarray]] = []
        for start in range(0, len(batches), PREDICT_CHUNK):
            self._progress(stage, start / len(batches))
            made += bench.call("predict", batches[start : start + PREDICT_CHUNK], timeout_s=self._limit_s())
        return made

    def logits(self, recipe: Recipe, folder: Path, bench: Callable[[], Remote], split: str) -> np.ndarray:
        """Logits (N, C) of a split in its order, from the store when this was measured before."""
        key = {
            "weights": recipe.weights_digest,
            "bits": dict(build.precision_of(recipe)),
            "runtime": recipe.runtime.name,
            "split": split,
            "data": self._setting.about_data["digest"],
            "rows": self._setting.config.measure.validation_rows if split == "validation" else None,
            "batch": self._setting.config.workload.batch,
            "environment": dict(self._setting.environment),
        }

        def make(target: Path) -> None:
            found = self.outputs(bench(), split, f"{recipe.runtime.name}: {split}")
            np.save(target / "logits.npy", np.concatenate([o["logits"] for o in found]))

        made, _ = self._setting.store.make("predictions", key, make)
        return np.asarray(np.load(made / "logits.npy", allow_pickle=False))

    def baseline(self) -> Remote:
        """The uncompressed model under eager PyTorch in fp32: the other side of every comparison. Left stopped."""
        if self._baseline is None:
            self._baseline = self._open_baseline()
            self._baseline.pause()
        return self._baseline

    def _open_baseline(self) -> Remote:
        context = self._setting.context
        opening = partial(build.open_predict, self._setting.teacher, "eager", {"width": "fp32"}, context)
        return open_bench(opening, context.device, context.threads, self._limit_s())

    def baseline_predictions(self, split: str) -> np.ndarray:
        """The baseline's predictions (N,) of a split."""
        setting = self._setting
        recipe = setting.recipe({**setting.space.off, "runtime.name": "eager", "bits.width": "fp32"})

        def running() -> Remote:
            remote = self.baseline()
            remote.resume()
            return remote

        try:
            logits = self.logits(recipe, setting.teacher, running, split)
        except BaseException:  # an interrupted call has ended the process
            self._drop_baseline()
            raise
        if self._baseline is not None:
            self._baseline.pause()
        return setting.decide(logits)

    def qualities(self, logits: np.ndarray, split: str) -> dict[str, Measurement]:
        """The metric on a split, and the points lost against the baseline on the same rows."""
        setting = self._setting
        references = setting.split(split)[1]
        predictions = self._setting.decide(logits)
        conditions = {"split": split, "rows": len(references), "batch": setting.config.workload.batch}
        seed = setting.config.seed
        by_class = quality.per_class(predictions, references, setting.about_data["labels"]) if split == "test" else []
        noted = {**conditions, "classes": by_class} if by_class else conditions
        value = quality.quality(setting.metric, predictions, references, seed, noted)
        lost = quality.loss_against(
            setting.metric, predictions, self.baseline_predictions(split), references, seed, conditions
        )
        return {value.objective: value, lost.objective: lost}

    def timings(self, bench: Remote, recipe: Recipe, folder: Path) -> dict[str, Measurement]:
        """The quick timing of `bench`, side by side with the baseline."""
        try:
            return self._timings.quick(bench, self.baseline(), recipe, folder)
        except BaseException:  # an interrupted call has ended the process
            self._drop_baseline()
            raise

    def final_timings(self, recipe: Recipe, folder: Path) -> dict[str, Measurement]:
        """The long timing, in fresh processes of both sides, while those of the search are stopped."""
        if self._baseline is not None:
            self._baseline.pause()
        return self._timings.final(lambda: self.opened(recipe, folder), self._open_baseline, recipe, folder)

    def _measured(self, recipe: Recipe, folder: Path, job: Job) -> Outcome:
        """One recipe on the bench: parity, quality, latency, size, memory."""
        try:
            found: dict[str, Measurement] = {}
            self._progress(f"{recipe.runtime.name}: preparing", 0.0)
            started = time.monotonic()
            with self.opened(recipe, folder) as bench:
                self._seconds["prepare"] = time.monotonic() - started
                self._check_parity(recipe, folder, bench)
                with self._timed("quality"):
                    found |= self.qualities(self.logits(recipe, folder, lambda: bench, "validation"), "validation")
                with self._timed("latency"):
                    self._progress(f"{recipe.runtime.name}: timing", 0.0)
                    found |= self.timings(bench, recipe, folder)
                found |= memory.memory(bench)
                if energy.ENERGY.name in self._setting.config.objectives:
                    found |= self.energy(bench)
            found |= self.sizes(recipe, folder)
        except Exception as error:
            return self._outcome(recipe, *self._status_of(error), baseline=job.baseline, rung=job.rung)
        made = self._outcome(recipe, "complete", "", baseline=job.baseline, rung=job.rung)
        made = replace(made, measurements=found, folder=str(folder))
        return replace(made, limits_broken=broken(self._setting, made))

    def energy(self, bench: Remote) -> dict[str, Measurement]:
        """Energy a row, where the device counts it."""
        found = self._timings.energy(bench)
        return {} if found is None else {found.objective: found}

    def sizes(self, recipe: Recipe, folder: Path) -> dict[str, Measurement]:
        plan = build.precision_of(recipe)
        on_disk = size.size(folder, spaces.runtime(recipe.runtime.name).files(plan))
        count = size.parameters(json.loads((folder / "about.json").read_text())["params"])
        return {on_disk.objective: on_disk, count.objective: count}

    def _check_parity(self, recipe: Recipe, folder: Path, bench: Remote) -> None:
        """The same weights in fp32 must give the same logits under every runtime."""
        if build.precision_of(recipe)["width"] != "fp32":
            return
        reference = np.load(folder / "reference.npy", allow_pickle=False)
        encoded, _ = read_encoded(self._setting.data / "validation.npz")
        batches = [encoded.batch(np.array([i])) for i in range(len(reference))]
        outputs = bench.call("predict", batches, timeout_s=self._limit_s())
        found = quality.parity(outputs, [{"logits": reference[i : i + 1]} for i in range(len(reference))])
        if not found <= PARITY:
            raise ArithmeticError(
                f"{recipe.runtime.name} gives other outputs than eager PyTorch: logits differ by {found:.2g}, "
                f"more than {PARITY:g}"
            )

    def _too_slow(self, recipes: tuple[Recipe, ...]) -> Mapping[str, Outcome]:
        """Those over the latency limit, by digest, measured on untrained weights of the same shapes.

        Only when all are over it, because otherwise the weights are trained in any case.
        """
        limit = self._setting.config.limits.max_latency_ms
        if limit is None:
            return {}
        refused: dict[str, Outcome] = {}
        for recipe in recipes:
            untrained = replace(recipe, recover={})
            try:
                folder = self.weights(untrained)
                with self.opened(recipe, folder) as bench:
                    timed = self.timings(bench, recipe, folder)
            except Exception as error:
                refused[recipe.digest] = self._outcome(recipe, *self._status_of(error))
                continue
            if timed[LATENCY].interval[0] <= limit:
                return {}
            reason = f"before training: latency {timed[LATENCY].value:.2f} ms is over the limit of {limit:g} ms"
            refused[recipe.digest] = replace(self._outcome(recipe, "rejected", reason), measurements=timed)
        return refused

    def _limit_s(self) -> float:
        """Seconds one step may take: the trial's limit, cut to what is left of the run."""
        limit = float(self._setting.config.budget.trial_timeout)
        end = self._clock.search_deadline
        return limit if end is None or self.finishing else max(1.0, min(limit, end - time.monotonic()))

    def _status_of(self, error: Exception) -> tuple[Status, str]:
        """What an exception means for a trial, in one line.

        Raises OutOfTime when it is the run that ended, and `error` itself when no trial could go on: a full disk.
        """
        if disk_is_full(error):
            raise error
        end = self._clock.search_deadline
        if isinstance(error, RemoteTimeout) and end is not None and time.monotonic() >= end:
            raise OutOfTime from error
        if isinstance(error, Infeasible):
            return "infeasible", str(error)
        text = " ".join(str(error).split())
        return "failed", f"{type(error).__name__}: {text}"[:500]

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + time.monotonic() - started

    def _outcome(
        self, recipe: Recipe, status: Status, reason: str, *, baseline: bool = False, rung: int = 0
    ) -> Outcome:
        seconds = {name: round(value, 3) for name, value in self._seconds.items()}
        return Outcome(-1, recipe, status, reason, rung=rung, seconds=seconds, baseline=baseline)
