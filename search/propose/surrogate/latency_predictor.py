"""What the candidates of one search take, before any is built: the table of latencies, filled on demand.

An untrained copy of a shape takes the time of a trained model, and is made and timed in seconds. So the table is filled
with such copies where it knows least, and every latency that a trial measures corrects it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from objectives import latency
from objectives.latency_table import LatencyTable
from objectives.measurement import Measurement
from objectives.shapes import Array, Shapes
from search.errors import disk_is_full
from search.execute.build_weights import make_untrained
from search.failures import of_the_candidate
from search.front.outcome import LATENCY, Outcome
from search.measure.measurer import Measurer
from search.measure.timing import LATENCIES
from search.prepare import isolate
from search.prepare.prepared import Prepared, cores
from search.space.sizes import Params, outline_of, shapes_of
from search.space.space import PRECISION, RUNTIME, anchors, random_settings
from spaces.axes.bits import EMBEDDINGS, INTEGER
from spaces.knob import Value
from spaces.recipe import Recipe

log = logging.getLogger(__name__)

Deployment = tuple[str, str]  # runtime and precision

#: Of a probe: less than the loop's, since many shapes tell more of one another than long looks at few.
PROBE = latency.QUICK.lasting(2 * 1.0)  # of both sides
#: Relative standard error between fresh processes of one model, which no single one of them shows.
FRESH = 0.01
#: And of what was timed on a machine that was disturbed.
NOISY = 0.05
AS_IS = EMBEDDINGS[0]
#: Random settings among which the next shape to measure is looked for.
LOOKED_AT = 400


class UnknownAnatomy(ValueError):  # noqa: N818 - what is known of it
    """A model whose layers are not known, so that no shape follows from settings."""


class LatencyPredictor:
    """Predicted latencies of this search's settings, and the probes that make them good.

    Shapes are those that settings say (`search.space.sizes.shapes_of`), for what is measured as for what is predicted,
    so that what the statistics make of a setting beside that is learnt as a part of its time.

    Args:
        measurer: opens candidates.
        folder: where tables are kept; by default `latency` beside the study's other results.
        mark: suffix of the workload ("b32-l128", "cuda-b8"); by default the main one.

    Raises:
        UnknownAnatomy: no shape follows from settings.
    """

    def __init__(self, prepared: Prepared, measurer: Measurer, folder: Path | None = None, mark: str = "") -> None:
        outline = outline_of(prepared.teacher)
        if prepared.space.shape is None or outline is None:
            raise UnknownAnatomy("the latency of a model whose anatomy is not known cannot be predicted")
        self._prepared, self._measurer, self._outline = prepared, measurer, outline
        self._folder = folder or Path(prepared.config.mlruns) / LATENCIES
        self._mark = mark
        self._inputs, self.conditions = measurer.times.inputs(mark)
        self._latency = latency.under(LATENCY, mark)  # what trials call it
        self.table = LatencyTable(self._folder, self.conditions)
        self._random = np.random.default_rng(prepared.config.seed)
        self._pool: list[dict[str, Value]] | None = None
        self._probes = 0

    def shapes(self, pool: Sequence[Params]) -> Shapes:
        return shapes_of(self._prepared.space, pool, self._outline)

    def predict(self, pool: Sequence[Params]) -> tuple[Array, Array]:
        """(log of ms (N,), its standard deviation (N,)) of settings, each under its own runtime and precision."""
        shapes, names = self.shapes(pool), np.array([deployment_name(params) for params in pool])
        log_ms, sd = np.empty(len(pool)), np.empty(len(pool))
        for name in np.unique(names):
            chosen = names == name
            log_ms[chosen], sd[chosen] = self.table.predict(str(name), shapes[chosen])
        return log_ms, sd

    @property
    def reference_error(self) -> float:
        """Relative standard error of what all latencies here are counted by."""
        low, high = self._measurer.times.reference(self._mark).interval
        return float(np.log(high / low)) / (2 * 1.96)

    def correct(self, outcome: Outcome) -> None:
        """Take in the latency that a trial measured, under the conditions it was measured under."""
        timed = outcome.measurements.get(self._latency)
        if timed is None or not {"batch", "length"} <= set(timed.conditions):
            return
        table = self.table
        if any(timed.conditions.get(name) != value for name, value in self.conditions.items()):
            table = LatencyTable(self._folder, timed.conditions)
        params = outcome.recipe.params
        table.add(deployment_name(params), self.shapes([params]), timed.value, error_of(timed))

    def fill(self, seconds: float, deployments: Sequence[Deployment], most: int | None = None) -> int:
        """Measure untrained models, where the table knows least of `deployments`, for about `seconds`; how many.

        No probe is begun that would end late if it took as long as the last. `most` bounds their number.
        """
        until, longest, made = time.monotonic() + seconds, 0.0, 0
        while (most is None or made < most) and time.monotonic() + longest < until:
            began = time.monotonic()
            params = self.next(deployments)
            if params is None:
                break
            made += bool(self.probe(params, deployments))
            longest = time.monotonic() - began
        return made

    def next(self, deployments: Sequence[Deployment]) -> dict[str, Value] | None:
        """The settings to measure next; None when all that are looked at were.

        In turn the one of which least is known, and one by lot: what is least known lies at the edges of the space,
        and most candidates do not.
        """
        left = self._left() if deployments else []
        if not left:
            return None
        known = np.all(
            [
                self.table.measured(deployment_name(_under({}, deployment)), self.shapes(left))
                for deployment in deployments
            ],
            axis=0,
        )
        pool = [params for params, told in zip(left, known, strict=True) if not told]
        if not pool:
            return None
        if self._probes % 2:
            return pool[int(self._random.integers(len(pool)))]
        shapes = self.shapes(pool)
        variance = sum(
            self.table.predict(deployment_name(_under(pool[0], deployment)), shapes)[1] ** 2
            for deployment in deployments
        )
        return pool[int(np.argmax(variance))]

    def probe(self, params: Params, deployments: Sequence[Deployment]) -> dict[Deployment, Measurement]:
        """Time an untrained model of these settings under each of `deployments`, and add what is found to the table.

        A deployment that cannot run it is left out of the answer; so is every deployment of settings that cannot be
        built.
        """
        self._probes += 1
        self._forget(params)
        found: dict[Deployment, Measurement] = {}
        for deployment in deployments:
            recipe = replace(self._prepared.recipe(_under(params, deployment)), recover={})
            try:
                timed = self.timed(recipe)[LATENCY]
            except Exception as error:
                if disk_is_full(error) or not of_the_candidate(error):
                    raise
                log.info("%s: no probe", deployment_name(recipe.params), exc_info=error)
                continue  # what is predicted of this deployment stays as uncertain as it was
            found[deployment] = timed
            self.table.add(deployment_name(recipe.params), self.shapes([params]), timed.value, error_of(timed))
        return found

    def timed(self, recipe: Recipe, protocol: latency.Protocol = PROBE) -> dict[str, Measurement]:
        """An untrained model of the recipe's shape under its runtime and precision, beside the uncompressed model.

        Both in fresh processes; under the names of the main workload.

        Raises:
            Infeasible, or what `search.failures` counts as the candidate's: it cannot be built, or run here.
        """
        prepared = self._prepared
        device = self.conditions["device"]
        opened = self._measurer.opened(recipe, self.untrained(recipe), device)
        with opened as bench, self._measurer.baseline(device) as theirs:
            found = latency.measure(bench, theirs, self._inputs, protocol, prepared.config.seed, self.conditions)
        return self._measurer.times.at_one_speed(found, self._mark)

    def untrained(self, recipe: Recipe) -> Path:
        """A folder of an untrained model of the recipe's shape: the teacher, or made and stored."""
        prepared = self._prepared
        steps = tuple(step for step in recipe.steps if step.name != "bits")
        if not steps:
            return prepared.teacher
        where = (prepared.data, prepared.teacher, prepared.statistics, cores())
        timeout = float(prepared.config.budget.trial_timeout)

        def make(folder: Path) -> None:
            isolate.run(make_untrained, folder, steps, *where, timeout_s=timeout)

        named = [{"name": step.name, "settings": dict(step.settings)} for step in steps]
        key = {"teacher": prepared.teacher_digest, "seed": prepared.config.seed, "steps": named}
        return prepared.store.make("untrained", key, make)[0]

    def _left(self) -> list[dict[str, Value]]:
        """Settings that were not tried yet: the whole model and the least one first, known corners, random ones."""
        if self._pool is None:
            space = self._prepared.space
            least = {n: k.off if k.low is None or k.method or k.opt_in else k.low for n, k in space.knobs.items()}
            drawn = [random_settings(space, self._random) for _ in range(LOOKED_AT)]
            self._pool = []
            for params in (space.off, least, *anchors(space), *drawn):
                plain = self._plain(params)
                if plain not in self._pool:
                    self._pool.append(plain)
        return self._pool

    def _forget(self, params: Params) -> None:
        self._pool = [other for other in self._left() if other != self._plain(params)]

    def _plain(self, params: Params) -> dict[str, Value]:
        """Settings without a runtime and a precision."""
        full = {**self._prepared.space.off, **params}
        return {name: value for name, value in full.items() if name not in (RUNTIME, PRECISION)}


def deployment_name(params: Params) -> str:
    """A deployment's name in the table of latencies: "onnx/int8", or "onnx/int8 fp32_blocks 2"."""
    precision, fp32_blocks, tables = (
        params.get(PRECISION, "fp32"),
        params.get("bits.fp32_blocks", 0),
        params.get("bits.embeddings", AS_IS),
    )
    spared = f" fp32_blocks {fp32_blocks}" if fp32_blocks and precision in INTEGER else ""
    return f"{params.get(RUNTIME, 'eager')}/{precision}{spared}{'' if tables == AS_IS else f' embeddings {tables}'}"


def error_of(timed: Measurement) -> float:
    """Relative standard error of a median, or of a ratio: what its interval says, and what processes differ by.

    Without the error of the reference, which is one and the same for all that a table holds.
    """
    low, high = timed.interval
    seen, shared = (high - low) / (2 * 1.96 * timed.value), latency.reference_error(timed)
    known = np.hypot(np.sqrt(max(0.0, seen**2 - shared**2)), FRESH)
    return float(np.hypot(known, NOISY if timed.conditions.get("noisy") else 0.0))


def _under(params: Mapping[str, Value], deployment: Deployment) -> dict[str, Value]:
    return {**params, RUNTIME: deployment[0], PRECISION: deployment[1]}
