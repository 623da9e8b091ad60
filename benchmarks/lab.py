"""What benchmarks of compression share: the embedded default's teachers by seed, models cut from them, losses, ratios.

Everything trained is kept in `<mlruns>/cache`, so a benchmark that is run again, or was killed, repeats none of it.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import fresh_pairs
from objectives import clock
from objectives.workload import Workload, inputs
from search.execute.evaluate import Evaluator
from search.measure.openers import held
from search.prepare import runner
from search.prepare.folders import frame_in, input_names
from search.prepare.prepared import Prepared
from search.space.configured import configured
from spaces.knob import Value
from spaces.recipe import Recipe

EAGER, ONNX, ONNX_INT8 = ("eager", "fp32"), ("onnx", "fp32"), ("onnx", "int8")
Deployment = tuple[str, str]  # runtime and precision


@dataclass(frozen=True)
class Model:
    """A way to cut the teacher, and the epochs of distillation that repair it."""

    name: str
    params: Mapping[str, Value]
    epochs: float = 0.0


TEACHER = Model("teacher", {})


@dataclass(frozen=True)
class Loss:
    """Points of accuracy lost against the teachers, paired by row, pooled over seeds."""

    points: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.points:.2f} ({self.low:.2f} to {self.high:.2f})"


class NoLimit:
    search_deadline = None


class Lab:
    """The default's data and one teacher a seed, fine-tuned for `epochs`."""

    def __init__(self, mlruns: Path, seeds: Sequence[int], epochs: float = 2.0, overrides: Sequence[str] = ()) -> None:
        self.mlruns, self.seeds, self.epochs, self.overrides = mlruns, tuple(seeds), epochs, tuple(overrides)
        self.seconds: dict[str, float] = {}

    @functools.cache  # noqa: B019 - a benchmark is one short-lived process
    def setting(self, seed: int) -> Prepared:
        wanted = [f"seed={seed}", f"teacher.epochs={self.epochs}", "budget.timeout=null", "budget.trial_timeout=7200"]
        config = configured(None, 1, None, f"lab-{seed}", self.mlruns, [*wanted, *self.overrides])
        Path(config.mlruns).mkdir(parents=True, exist_ok=True)
        return runner.prepare(config, self._progress)

    @functools.cache  # noqa: B019
    def evaluator(self, seed: int) -> Evaluator:
        return Evaluator(self.setting(seed), self._progress, NoLimit())

    def recipe(self, model: Model, seed: int, deployment: Deployment) -> Recipe:
        prepared = self.setting(seed)
        recovered = replace(prepared.config.recover, epochs=model.epochs)
        same = replace(prepared, config=replace(prepared.config, recover=recovered))
        return same.recipe(
            {**prepared.space.off, **model.params, "runtime.name": deployment[0], "bits.precision": deployment[1]}
        )

    def weights(self, model: Model, seed: int) -> Path:
        self._say(f"{model.name}, seed {seed}")
        return self.evaluator(seed).weights(self.recipe(model, seed, EAGER))

    def predictions(self, model: Model, seed: int, deployment: Deployment, split: str) -> np.ndarray:
        """(N,) class numbers of a split."""
        measurer, recipe, folder = (
            self.evaluator(seed).measurer,
            self.recipe(model, seed, deployment),
            self.weights(model, seed),
        )
        with measurer.opened(recipe, folder) as bench:
            rows = self.setting(seed).split(split)
            return rows.predictions("accuracy", measurer.output(recipe, folder, held(bench), split))

    def right(self, model: Model, deployment: Deployment, split: str) -> np.ndarray:
        """(seeds, N): which rows it gets right."""
        rows = [
            self.predictions(model, seed, deployment, split) == self.setting(seed).split(split).references
            for seed in self.seeds
        ]
        return np.stack(rows)

    def loss(self, model: Model, deployment: Deployment, split: str, against: Deployment = EAGER) -> Loss:
        """Against the teacher under `against`. The interval is of rows (their means over seeds): normal, 95 %."""
        lost = self.right(TEACHER, against, split).astype(float) - self.right(model, deployment, split)
        by_row = 100 * lost.mean(0)
        middle, reach = float(by_row.mean()), 1.96 * float(by_row.std(ddof=1)) / len(by_row) ** 0.5
        return Loss(middle, middle - reach, middle + reach)

    def accuracy(self, model: Model, deployment: Deployment, split: str) -> float:
        return float(self.right(model, deployment, split).mean())

    def ratio(
        self,
        model: Model,
        deployment: Deployment,
        against: Deployment,
        batch: int,
        seconds: float,
        seed: int | None = None,
    ) -> tuple[float, float, float, float]:
        """(times faster than the teacher under `against`, its 95 % interval, milliseconds), at the test rows' lengths.

        Over `fresh_pairs.PAIRS` fresh pairs of processes, in alternating blocks.
        """
        seed = self.seeds[0] if seed is None else seed
        prepared, measurer = self.setting(seed), self.evaluator(seed).measurer
        lengths = prepared.split("test").encoded.lengths.tolist()
        names = input_names(prepared.teacher)
        fed = list(inputs(Workload(batch, "data", 0), names, frame_in(prepared.teacher), lengths))
        ours, theirs = self.recipe(model, seed, deployment), self.recipe(TEACHER, seed, against)
        folder = self.weights(model, seed)
        self._say(f"timing {model.name} under {'/'.join(deployment)}, batch {batch}")
        sessions = fresh_pairs.timed(
            lambda: measurer.opened(ours, folder),
            lambda: measurer.opened(theirs, prepared.teacher),
            fed,
            fresh_pairs.lasting(seconds),
            0,
            functools.partial(clock.read, device=prepared.context.device),
        )
        ratio = fresh_pairs.ratio(sessions)
        return ratio.value, *ratio.interval, fresh_pairs.median_ms(sessions).value

    def size_mb(self, model: Model, deployment: Deployment, seed: int | None = None) -> float:
        """On disk: what the runtime loads."""
        seed = self.seeds[0] if seed is None else seed
        recipe, folder = self.recipe(model, seed, deployment), self.weights(model, seed)
        with self.evaluator(seed).measurer.opened(recipe, folder):
            pass
        return self.evaluator(seed).measurer.sizes(recipe, folder)["size_mb"].value

    def _progress(self, stage: str, done: float) -> None:
        self._say(f"{stage} {done:.0%}")

    def _say(self, what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


def timed(function: Any, *arguments: Any) -> float:
    """Seconds of one call."""
    began = time.monotonic()
    function(*arguments)
    return time.monotonic() - began
