"""All measurements of one candidate: outputs, quality, latency, size, memory, energy."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from objectives import memory, quality, size
from objectives.bench import Batch, open_bench
from objectives.energy import ENERGY
from objectives.fork_server import Waiting
from objectives.measurement import Measurement
from objectives.process import Progress, Remote
from search.front.outcome import Outcome
from search.measure import kv_caches
from search.measure.cache import Reuse
from search.measure.graphs import Graphs, made_by
from search.measure.openers import Opened, held
from search.measure.outputs import BatchOutputs, finite_output, joined_outputs
from search.measure.parity import check_parity
from search.measure.timing import Finalist, Timings
from search.prepare.prepared import Prepared
from search.store.paths import located
from search.store.store import digest_in
from search.tasks.task import SecondScore
from spaces import build, registry
from spaces.base import WEIGHTS, read_config
from spaces.knob import Plan
from spaces.recipe import Recipe
from spaces.runtime import Context

PREDICT_CHUNK = 64  # batches per call, so that a long split reports progress and can be timed out


class Stopwatch:
    """Adds up seconds by stage; those of a stage inside another one count for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to `stage`."""
        started, before = time.monotonic(), sum(self.seconds.values())
        try:
            yield
        finally:
            inside = sum(self.seconds.values()) - before
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - started - inside


class Measurer:
    """Measures candidates against the baseline: the uncompressed model under eager PyTorch in fp32.

    Args:
        limit_s: seconds that one call may take; read again at each call, timing included.
        watch: seconds by stage.
    """

    def __init__(self, prepared: Prepared, progress: Progress, limit_s: Callable[[], float], watch: Stopwatch) -> None:
        self._prepared, self._progress, self._limit_s, self._watch = prepared, progress, limit_s, watch
        self.times = Timings(prepared, self.baseline)
        self._reuse = Reuse(prepared, self.times)
        self.graphs = Graphs(prepared.store, self._open_once, partial(watch.timed, "export"))

    def measured(self, recipe: Recipe, folder: Path) -> dict[str, Measurement]:
        """Every measurement of the weights in `folder` under the recipe's runtime and precision.

        Measurements of an earlier search under the same conditions are reused. Timing comes first, beside a baseline
        that is opened for it: processes get faster with age (memory layout, caches), so both must be equally old.

        Raises:
            Infeasible: the runtime cannot run the model here.
            ArithmeticError: fp32 outputs differ from those under eager PyTorch.
            RemoteDied, RemoteTimeout: the model's process ended, or took too long.
        """
        reused = self._reuse.find(recipe, folder)
        if reused is not None:
            return reused
        self._progress(f"{recipe.runtime.name}: preparing", 0.0)
        with self._opening("prepare", recipe, folder) as bench:
            generates = self._prepared.task.generates
            if not generates:
                self._check_parity(recipe, folder, bench)
            with self._watch.timed("latency"):
                self._progress(f"{recipe.runtime.name}: timing", 0.0)
                measurements = self.timings(bench, recipe, folder)
            measurements |= memory.memory(bench)  # before predictions, which take more rows at once
            if generates:  # its first call and its memory are those of a generation
                self._check_parity(recipe, folder, bench)
            with self._watch.timed("quality"):
                output = self.output(recipe, folder, held(bench), "validation")
                measurements |= self.qualities(output, "validation", recipe)
            if ENERGY.name in (*self._prepared.config.objectives, *self._prepared.config.limits.others):
                with self._watch.timed("energy"):
                    measurements |= self.energy(held(bench))
        measurements |= self.sizes(recipe, folder)
        self._reuse.keep(recipe, folder, measurements)
        return measurements

    def _check_parity(self, recipe: Recipe, folder: Path, bench: Remote) -> None:
        """Raise ArithmeticError where the weights in fp32 give other outputs than under eager PyTorch."""
        if build.precision_of(recipe) == {"precision": "fp32"}:
            encoded, capacity = self._prepared.whole("validation").encoded, self.context.cache_tokens
            with self._watch.timed("parity"):
                check_parity(self._prepared.task, recipe, folder, bench, encoded, self._limit_s(), capacity)

    def recall(self, digests: Collection[str]) -> None:
        """Reuse also noisy measurements of these recipes, which an equal search made."""
        self._reuse.recalled = digests

    @contextmanager
    def _opening(self, stage: str, recipe: Recipe, folder: Path) -> Iterator[Remote]:
        """`opened`, with the seconds of opening recorded under `stage`."""
        with ExitStack() as stack:
            with self._watch.timed(stage):
                bench = stack.enter_context(self.opened(recipe, folder))
            yield bench

    @contextmanager
    def opened(self, recipe: Recipe, folder: Path, device: str | None = None) -> Iterator[Remote]:
        """The model in `folder` under the recipe's runtime and precision, in a process of its own."""
        with self._open(recipe, self.complete(recipe, folder, device), device) as bench:
            yield bench

    def complete(self, recipe: Recipe, folder: Path, device: str | None = None) -> Path:
        """The folder that the recipe's runtime opens: `folder`, with the files the runtime makes of its weights."""
        return self.graphs.folder(recipe, folder, self._on(device))

    def exported(self, outcome: Outcome) -> Path:
        """The folder that was opened for `outcome`; an export copies it."""
        return self.complete(outcome.recipe, located(Path(self._prepared.config.mlruns), outcome.folder))

    def keep(self, stage: str, key: Mapping[str, object], make: Callable[[Path], None]) -> Path:
        """The store entry of `key` under `stage`, which `make` fills where it does not exist."""
        return self._prepared.store.make(stage, key, make)[0]

    def _open(self, recipe: Recipe, folder: Path, device: str | None) -> Remote:
        context = self._on(device)
        opening = partial(build.open_recipe, folder, recipe, context)
        return open_bench(opening, context.device, context.threads, self._limit_s(), "default", self._limit_s)

    def _open_once(self, folder: Path, runtime: str, plan: Plan, context: Context) -> None:
        opening = partial(build.open_whole, folder, runtime, plan, context)
        open_bench(opening, context.device, context.threads, self._limit_s(), "passive", self._limit_s).close()

    def outputs(self, bench: Remote, split: str, stage: str, precision: str) -> BatchOutputs:
        """The outputs of every batch of a split, in batches as the precision needs them."""
        batches = self._prepared.batches(self._prepared.split(split), precision)
        outputs: list[Mapping[str, np.ndarray]] = []
        for start in range(0, len(batches), PREDICT_CHUNK):
            self._progress(stage, start / len(batches))
            outputs += bench.call("predict", batches[start : start + PREDICT_CHUNK], timeout_s=self._limit_s())
        return outputs

    def output(self, recipe: Recipe, folder: Path, opened: Opened, split: str) -> np.ndarray:
        """The output (E, ...) or (tokens, ...) for a split, stored for later. Raises ArithmeticError: not finite."""
        plan = build.precision_of(recipe)
        precision, rows = str(plan["precision"]), self._prepared.split(split)
        sizes = self._prepared.sizes(rows, precision)
        inputs = {
            "split": split,
            "data": self._prepared.about_data["digest"],
            "rows": self._prepared.config.measure.validation_rows if split == "validation" else None,
            **self._prepared.config.data.choosing,
            "batch": sizes[0] if len(set(sizes[:-1])) <= 1 else sizes,
        }
        if isinstance(rows, SecondScore) and inputs["rows"] is not None:
            inputs["metric"] = self._prepared.metric  # the rows that are left out are those of one of the two scores

        def answers(bench: Remote) -> BatchOutputs:
            return self.outputs(bench, split, f"{recipe.runtime.name}: {split}", precision)

        batches = self._prepared.batches(rows, precision)
        return finite_output(self._answered(recipe, folder, inputs, opened, answers, batches), split)

    def probed(self, recipe: Recipe, folder: Path, opened: Opened, inputs: Sequence[Batch]) -> np.ndarray:
        """The concatenated outputs of the batches `inputs`; read from the store where they were computed before."""
        digest = hashlib.sha256()
        for batch in inputs:
            for name, array in sorted(batch.items()):
                digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())

        def answers(bench: Remote) -> BatchOutputs:
            return list(bench.call("predict", inputs, timeout_s=self._limit_s()))

        return self._answered(recipe, folder, {"probe": digest.hexdigest()}, opened, answers, inputs)

    def _answered(
        self,
        recipe: Recipe,
        folder: Path,
        inputs: Mapping[str, object],
        opened: Opened,
        answers: Callable[[Remote], BatchOutputs],
        batches: Sequence[Batch],
    ) -> np.ndarray:
        """The concatenated output of `answers`; `inputs` identifies the batches in the key of the store entry."""
        key = {
            "weights": recipe.weights_digest,
            "weights_sha256": digest_in(folder, WEIGHTS),  # training again may give other weights
            "bits": dict(build.precision_of(recipe)),
            "runtime": recipe.runtime.name,
            **kv_caches.through(recipe),
            **made_by(recipe, folder, self.context),
            "environment": dict(self._prepared.environment),
            **inputs,
        }

        def make(target: Path) -> None:
            with opened() as bench:
                outputs = answers(bench)
            np.save(target / "output.npy", joined_outputs(outputs, batches, read_config(folder)[0]))

        entry, _ = self._prepared.store.make("predictions", key, make)
        return np.asarray(np.load(entry / "output.npy", allow_pickle=False))

    @contextmanager
    def baseline(self, device: str | None = None, waiting: Waiting = "default") -> Iterator[Remote]:
        """The baseline in a fresh process."""
        context = self._on(device)
        opening = partial(build.open_predict, self._prepared.teacher, "eager", {"precision": "fp32"}, context)
        with open_bench(opening, context.device, context.threads, self._limit_s(), waiting, self._limit_s) as bench:
            yield bench

    def baseline_predictions(self, split: str) -> np.ndarray:
        """The baseline's predictions (N,) of a split."""
        prepared = self._prepared
        recipe = prepared.recipe({**prepared.space.off, "runtime.name": "eager", "bits.precision": "fp32"})
        untimed = partial(self.baseline, waiting="passive")
        return prepared.split(split).predictions(prepared.metric, self.output(recipe, prepared.teacher, untimed, split))

    def qualities(self, output: np.ndarray, split: str, recipe: Recipe) -> dict[str, Measurement]:
        """The metric on a split, and its loss against the baseline on the same rows."""
        prepared = self._prepared
        rows = prepared.split(split)
        predictions = rows.predictions(prepared.metric, output)
        seed, batch = prepared.config.seed, prepared.config.workload.batch
        conditions = {"split": split, "rows": len(rows), "batch": batch, **kv_caches.through(recipe)}
        noted = {**conditions, **rows.details(predictions)} if split == "test" else conditions
        value = quality.quality(prepared.metric, predictions, rows.references, rows.classes, seed, noted)
        compared = predictions, self.baseline_predictions(split), rows.references, rows.classes
        lost = quality.loss_against(prepared.metric, *compared, seed, conditions)
        figures = {value.objective: value, lost.objective: lost}
        if isinstance(rows, SecondScore):
            name, others, part = rows.second(output)
            scores = others.predictions(name, part)
            about = {**conditions, "rows": len(others), **others.details(scores)}
            figures[name] = quality.quality(name, scores, others.references, others.classes, seed, about)
        return figures

    def timings(self, bench: Remote, recipe: Recipe, folder: Path) -> dict[str, Measurement]:
        """The quick timing of `bench` beside a fresh baseline; on other devices in new processes there."""

        @contextmanager
        def pair(device: str) -> Iterator[tuple[Remote, Remote]]:
            here = device == self._prepared.context.device
            candidate = nullcontext(bench) if here else self.opened(recipe, folder, device)
            with candidate as ours, self.baseline(device) as theirs:
                yield ours, theirs

        return self.times.quick(pair, recipe, folder)

    def finalist(self, recipe: Recipe, folder: Path, peak: Measurement | None) -> Finalist:
        """A candidate as a side of the final campaign; makes the files that its runtime opens."""
        self.complete(recipe, folder)
        return Finalist(recipe, folder, partial(self.opened, recipe, folder), peak)

    @property
    def context(self) -> Context:
        """Where models are opened."""
        return self._prepared.context

    def _on(self, device: str | None) -> Context:
        context = self._prepared.context
        return context if device is None else replace(context, device=device)

    def energy(self, opened: Opened) -> dict[str, Measurement]:
        """Energy a row; empty, and nothing is opened, where the device has no energy counter."""
        energy = self.times.energy(opened)
        return {} if energy is None else {energy.objective: energy}

    def sizes(self, recipe: Recipe, folder: Path) -> dict[str, Measurement]:
        """The size on disk of the files that the runtime opens, and the number of parameters."""
        plan = build.precision_of(recipe)
        on_disk = size.size(self.complete(recipe, folder), registry.runtime_named(recipe.runtime.name).files(plan))
        count = size.parameters(json.loads((folder / "about.json").read_text())["params"])
        figures = {figure.objective: figure for figure in (on_disk, count)}
        if not self._prepared.task.generates:
            return figures
        return figures | kv_caches.predicted(recipe, folder, self.context, self._prepared.config.workload.batch)
