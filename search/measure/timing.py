"""Timing candidates of one search: under every workload that is asked for, held against the device's roofline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from objectives import campaign, clock, energy, latency, memory, noise, roofline, workload
from objectives.bench import Batch
from objectives.ceilings import ceilings
from objectives.estimate import Estimate
from objectives.measurement import Measurement
from objectives.waiting import default_waiting
from objectives.workload import Workload
from search.failures import of_the_candidate
from search.front.final import Final
from search.front.outcome import LATENCY
from search.measure.reference import Reference, References
from search.prepare.folders import frame_in, input_names
from search.prepare.prepared import cores
from search.space.stored_sizes import model_sizes, weight_shapes
from spaces import build
from spaces.base import read_config
from spaces.recipe import Recipe

if TYPE_CHECKING:
    from search.prepare.prepared import Prepared

#: In a results folder: tables of latencies, and what they are counted by.
LATENCIES = "latency"

Timed = dict[str, Measurement]
Measure = Callable[[list[Batch], Mapping[str, Any]], Timed]  # (inputs, conditions) -> measurements
OpenOn = Callable[[str], AbstractContextManager[latency.Side]]  # on a device
Pairs = Callable[[str], AbstractContextManager[tuple[latency.Side, latency.Side]]]  # candidate and baseline there


#: In a campaign: the uncompressed model under plain PyTorch, where no trial is that.
BASELINE = -1


@dataclass(frozen=True)
class Finalist:
    """A model that takes part in a campaign."""

    recipe: Recipe
    folder: Path
    opened: OpenOn
    peak: Measurement | None = None  # of its memory, as far as it is known


class Timings:
    """The main workload's measurements by their own names, others' marked ("latency_p50_ms/b32").

    Args:
        baseline: opens the uncompressed model as it came, on a device.
    """

    def __init__(self, prepared: Prepared, baseline: OpenOn) -> None:
        self._prepared, self._baseline = prepared, baseline
        self._fed: dict[str, tuple[list[Batch], dict[str, Any]]] = {}

    def quick(self, opened: Pairs, recipe: Recipe, folder: Path) -> Timed:
        """In the loop: one process a side, those that `opened` gives for a device."""
        config = self._prepared.config
        protocol = latency.QUICK.lasting(config.measure.quick_s)

        def measure(fed: list[Batch], known: Mapping[str, Any]) -> Timed:
            with opened(known["device"]) as (candidate, baseline):
                return latency.measure(candidate, baseline, fed, protocol, config.seed, known)

        return self._all(recipe, folder, measure)

    def final(
        self, finalists: Mapping[int, Finalist], anchors: Sequence[int], progress: Callable[[float], None]
    ) -> tuple[Final, dict[int, str]]:
        """The final campaign, one for each workload: what it measured, and why some could not be timed.

        `anchors` are the baseline and the fastest uncompressed model among the finalists; a baseline that is none of
        them is called `BASELINE`.
        """
        marks, seed = ("", *self.marks), self._prepared.config.seed
        done: dict[str, campaign.Campaign] = {}
        failed: dict[int, str] = {}
        for index, mark in enumerate(marks):
            left = {key: finalist for key, finalist in finalists.items() if key not in failed}
            part = partial(_share, progress, index, len(marks))
            done[mark] = self._campaign(left, anchors, mark, self.plan, part)
            failed |= done[mark].failed
        timed: dict[int, Timed] = {key: {} for key in finalists if key not in failed and key != BASELINE}
        for mark, found in done.items():
            inputs, conditions = self.inputs(mark)
            for key in timed:
                own = campaign.measurements(found, key, latency.rows_of(inputs), seed, conditions)
                if not mark:
                    own = self._with_roofline(own, inputs, finalists[key].recipe, finalists[key].folder)
                timed[key] |= latency.renamed(own, mark) if mark else own
        pairs = list(combinations(timed, 2))
        ratios = {mark: {pair: found.ratio(*pair) for pair in pairs} for mark, found in done.items()}
        references = {mark: self._baseline_of(found, mark) for mark, found in done.items()}
        return Final(timed, ratios, references), failed

    def after_export(self, exported: Mapping[int, Finalist], sets: int = 1) -> campaign.Campaign:
        """A short campaign of exported models beside the baseline, called `BASELINE`; of the main workload."""
        models = {BASELINE: self.baseline_as(), **exported}
        plan = campaign.Plan.lasting(self._prepared.config.measure.quick_s / 4, sets=sets)
        return self._campaign(models, (BASELINE,), "", plan, lambda done: None)

    def baseline_as(self) -> Finalist:
        """The baseline of the loop as a side of a campaign."""
        prepared = self._prepared
        recipe = prepared.recipe({**prepared.space.off, "runtime.name": "eager", "bits.precision": "fp32"})
        return Finalist(recipe, prepared.teacher, self._baseline)

    def _campaign(
        self,
        models: Mapping[int, Finalist],
        anchors: Sequence[int],
        mark: str,
        plan: campaign.Plan,
        progress: Callable[[float], None],
    ) -> campaign.Campaign:
        inputs, conditions = self.inputs(mark)
        device = conditions["device"]
        openers = {key: partial(model.opened, device) for key, model in models.items()}
        known = [memory.held_mb(model.peak, device) for model in models.values() if model.peak is not None]
        usual = max(known, default=0.0)
        needs = {k: usual if m.peak is None else memory.held_mb(m.peak, device) for k, m in models.items()}
        here = [key for key in anchors if key in models]
        groups = campaign.groups_of(needs, here, memory.available_mb(device) or math.inf)
        return campaign.run(
            [{key: openers[key] for key in group} for group in groups],
            here,
            inputs,
            plan,
            self._prepared.config.seed,
            partial(clock.read, device=device),
            at_once=cores(),
            progress=progress,
            is_fault=lambda error: not of_the_candidate(error),
        )

    def _baseline_of(self, found: campaign.Campaign, mark: str) -> Estimate:
        inputs, conditions = self.inputs(mark)
        seed = self._prepared.config.seed
        measured = campaign.measurements(found, found.anchors[0], latency.rows_of(inputs), seed, conditions)[LATENCY]
        return measured.estimate

    @cached_property
    def _references(self) -> References:
        teacher = self._prepared.teacher
        architecture = read_config(teacher)[0].config["model_type"]
        return References(
            Path(self._prepared.config.mlruns) / LATENCIES,
            {"architecture": architecture, "weights": weight_shapes(teacher)},
        )

    @property
    def plan(self) -> campaign.Plan:
        """Of the final campaign: no set gives a model less time than the quick timing did."""
        measure = self._prepared.config.measure
        return campaign.Plan.lasting(measure.final_s, at_least_s=measure.quick_s / 2)

    def at_one_speed(self, timed: Timed, mark: str) -> Timed:
        """What was timed beside the baseline (under its own names), as this results folder counts all latencies."""
        return latency.at_speed_of(self.reference(mark).estimate, timed)

    def references(self) -> dict[str, Estimate]:
        """What the baseline takes under each workload, in ms, by the workload's mark."""
        return {mark: self.reference(mark).estimate for mark in ("", *self.marks)}

    def counted_now(self, measured: Mapping[str, Measurement]) -> Timed:
        """Measurements of an earlier run, as latencies are counted now: the reference may be another since."""
        return latency.at_speeds_of(self.references(), measured)

    def reference(self, mark: str) -> Reference:
        """What the baseline takes under a workload; measured where it is not known."""
        inputs, conditions = self.inputs(mark)
        return self._references.of(inputs, conditions, partial(self._baseline_ms, inputs, conditions))

    def _baseline_ms(self, inputs: list[Batch], conditions: Mapping[str, Any]) -> Measurement:
        """The baseline beside itself, as every candidate is beside it: alone its processes are of another age.

        A process speeds up with age, and one that is timed alone is younger at each block than one that waits for its
        turn. So this is what the loop's comparisons see of the baseline.
        """
        device, seed = conditions["device"], self._prepared.config.seed
        opened, read = partial(self._baseline, device), partial(clock.read, device=device)
        found = campaign.run([{0: opened, 1: opened}], (0, 1), inputs, self.plan, seed, read)
        timed = campaign.measurements(found, 0, latency.rows_of(inputs), seed, conditions)[LATENCY]
        loose = noise.of_estimate("median", timed.estimate)
        noisy = "; ".join(filter(None, (timed.conditions["noisy"], *loose)))
        return replace(timed, conditions={**timed.conditions, "noisy": noisy})

    def energy(self, opened: latency.Opener) -> Measurement | None:
        """Of the main workload; None where nothing counts it."""
        counter = energy.counter(self._prepared.context.device)
        if counter is None:
            return None
        with opened() as bench:
            return energy.energy(bench, *self.inputs(""), counter)

    @property
    def marks(self) -> tuple[str, ...]:
        """Suffixes of the workloads that objectives and limits name beside the main one."""
        config = self._prepared.config
        found = (workload.marked(name)[1] for name in (*config.objectives, *config.limits.others))
        return tuple(dict.fromkeys(mark for mark in found if mark))

    def _all(self, recipe: Recipe, folder: Path, measure: Measure) -> Timed:
        inputs, conditions = self.inputs("")
        timed = self._with_roofline(measure(inputs, conditions), inputs, recipe, folder)
        timed = self.at_one_speed(timed, "")
        for mark in self.marks:
            found = self.at_one_speed(measure(*self.inputs(mark)), mark)
            timed |= latency.renamed(found, mark)
        return timed

    def inputs(self, mark: str) -> tuple[list[Batch], dict[str, Any]]:
        """Batches of a workload and its conditions, made once."""
        if mark not in self._fed:
            prepared = self._prepared
            wanted = Workload(prepared.config.workload.batch, prepared.config.workload.length, prepared.config.seed)
            wanted = workload.other(wanted, mark) if mark else wanted
            names, frame = input_names(prepared.teacher), frame_in(prepared.teacher)
            lengths = prepared.split("validation")[0].lengths.tolist()
            here = prepared.context.device
            device = (workload.device_of(mark) if mark else None) or here
            environment = prepared.environment if device == here else clock.fingerprint(device)
            conditions = {
                "device": device,
                "threads": prepared.context.threads,
                "omp_wait": default_waiting(),
                "batch": wanted.batch,
                "length": wanted.length,
                "fingerprint": clock.digest(environment),
            }
            self._fed[mark] = list(workload.inputs(wanted, names, frame, lengths)), conditions
        return self._fed[mark]

    def _with_roofline(self, timed: Timed, inputs: list[Batch], recipe: Recipe, folder: Path) -> Timed:
        """With floor and fraction, where the sizes of the model are known."""
        sizes = model_sizes(folder)
        if sizes is None:
            return timed
        plan = build.precision_of(recipe)
        precision = str(plan["precision"])
        if "embeddings" in plan:  # rows of these tables have a precision of their own, and are few
            sizes = replace(sizes, tables=())
        ceiling = ceilings(self._prepared.context.device, self._prepared.context.threads)
        found = roofline.floor(sizes, inputs, precision, ceiling)
        if roofline.under(found, timed[LATENCY]):
            ceiling.look_again()
            found = roofline.floor(sizes, inputs, precision, ceiling)
        return roofline.held_against(found, timed, LATENCY)


def _share(progress: Callable[[float], None], done: int, of: int, share: float) -> None:
    """Say how far the whole is, of which one part is at `share`."""
    progress((done + share) / of)
