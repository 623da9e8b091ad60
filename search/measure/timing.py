"""Timing of a search's candidates: under every workload of the configuration, compared with the roofline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from objectives import (
    campaign,
    campaign_measurements,
    campaign_processes,
    clock,
    energy,
    latency,
    memory,
    noise,
    reference_speed,
    roofline,
    stats,
    workload,
)
from objectives.bench import Batch, cycle_of
from objectives.campaign import CampaignPlan
from objectives.ceilings import ceilings
from objectives.estimate import Estimate
from objectives.measurement import Measurement
from objectives.openmp_waiting import default_waiting
from objectives.paired_timing import Opener
from objectives.workload import Workload
from search.failures import of_the_candidate
from search.front.final import Final
from search.front.outcome import LATENCY
from search.measure import kv_caches
from search.measure.reference import Reference, References
from search.measure.timed_inputs import random_batches, texts_digest, with_texts
from search.prepare.prepared import cores
from search.space.stored_sizes import model_sizes, weight_shapes
from search.tasks import ALONE
from spaces import build
from spaces.base import read_config
from spaces.recipe import Recipe

if TYPE_CHECKING:
    from search.prepare.prepared import Prepared

#: In a results folder: latency tables and the reference latencies of the baseline.
LATENCIES = "latency"

Timed = dict[str, Measurement]
OpenOn = Callable[[str], AbstractContextManager[latency.Side]]  # on a device
Pairs = Callable[[str], AbstractContextManager[tuple[latency.Side, latency.Side]]]  # candidate and baseline there
Told = Callable[[float], None]  # told the share that is done, 0 to 1

#: Where a block of calls takes more ms than this, the loop's timing has as few blocks as an interval needs.
SLOW_MS = 500.0
#: The key, in a campaign, of the uncompressed model under eager PyTorch, where it is not a trial.
BASELINE = -1


@dataclass(frozen=True)
class Finalist:
    """A model that takes part in a campaign."""

    recipe: Recipe
    folder: Path
    opened: OpenOn
    peak: Measurement | None = None  # of its memory; None where it was not measured


class Timings:
    """Times candidates under all workloads; measurements of other workloads than the main one are marked ("/b32").

    Args:
        baseline: opens the uncompressed model on a device.
    """

    def __init__(self, prepared: Prepared, baseline: OpenOn) -> None:
        self._prepared, self._baseline = prepared, baseline
        self._fed: dict[str, tuple[list[Batch], dict[str, Any]]] = {}

    def quick(self, opened: Pairs, recipe: Recipe, folder: Path) -> Timed:
        """The timing of the search loop: one process per side, which `opened` gives for a device."""
        timed: Timed = {}
        for mark in ("", *self.marks):
            inputs, conditions = self.inputs(mark)
            protocol, seed = self._protocol(mark), self._prepared.config.seed
            with opened(conditions["device"]) as (candidate, baseline):
                measured = latency.measure(candidate, baseline, inputs, protocol, seed, conditions)
            if mark:
                timed |= latency.renamed(self.at_one_speed(measured, mark), mark)
            else:
                timed |= self.at_one_speed(self._with_roofline(measured, inputs, recipe, folder), mark)
        return timed

    def _protocol(self, mark: str) -> latency.Protocol:
        """The protocol of the quick timing under a workload: few blocks where a block of its calls takes long."""
        protocol = latency.QUICK.lasting(self._prepared.config.measure.quick_s)
        block_ms = self.reference(mark).estimate.value * cycle_of(self.inputs(mark)[0])
        return replace(protocol, blocks=stats.MINIMUM_PAIRS) if block_ms > SLOW_MS else protocol

    def final(
        self, models: Mapping[int, Finalist], anchors: Sequence[int], plans: Mapping[str, CampaignPlan], progress: Told
    ) -> tuple[Final, dict[int, str]]:
        """The final campaigns, one per workload: their results, and why models could not be timed, by key.

        `anchors` are the baseline and the fastest uncompressed model; a baseline that is not a trial has key
        `BASELINE`. `plans` are by mark.
        """
        marks, seed = ("", *self.marks), self._prepared.config.seed
        campaigns: dict[str, campaign.Campaign] = {}
        failed: dict[int, str] = {}
        for index, mark in enumerate(marks):
            remaining = {key: model for key, model in models.items() if key not in failed}
            part = partial(_share, progress, index, len(marks))
            campaigns[mark] = self._campaign(remaining, anchors, mark, plans[mark], part)
            failed |= campaigns[mark].failed
        timed: dict[int, Timed] = {key: {} for key in models if key not in failed and key != BASELINE}
        for mark, measured in campaigns.items():
            inputs, conditions = self.inputs(mark)
            for key in timed:
                figures = campaign_measurements.measurements(measured, key, conditions["batch"], seed, conditions)
                if not mark:
                    figures = self._with_roofline(figures, inputs, models[key].recipe, models[key].folder)
                timed[key] |= latency.renamed(figures, mark) if mark else figures
        pairs = list(combinations(timed, 2))
        ratios = {mark: {pair: measured.ratio(*pair) for pair in pairs} for mark, measured in campaigns.items()}
        references = {mark: self._baseline_of(measured, mark) for mark, measured in campaigns.items()}
        return Final(timed, ratios, references), failed

    def after_export(self, exported: Mapping[int, Finalist]) -> campaign.Campaign:
        """A short campaign of exported models and the baseline (`BASELINE`) under the main workload."""
        models = {BASELINE: self.baseline_as(), **exported}
        return self._campaign(models, (BASELINE,), "", self.plan_after_export, lambda done: None)

    def baseline_as(self) -> Finalist:
        """The baseline as a side of a campaign."""
        prepared = self._prepared
        recipe = prepared.recipe({**prepared.space.off, "runtime.name": "eager", "bits.precision": "fp32"})
        return Finalist(recipe, prepared.teacher, self._baseline)

    def _campaign(
        self, models: Mapping[int, Finalist], anchors: Sequence[int], mark: str, plan: CampaignPlan, progress: Told
    ) -> campaign.Campaign:
        inputs, conditions = self.inputs(mark)
        device = conditions["device"]
        openers = {key: partial(model.opened, device) for key, model in models.items()}
        peaks = [memory.held_mb(model.peak, device) for model in models.values() if model.peak is not None]
        usual = max(peaks, default=0.0)
        memory_mb = {k: usual if m.peak is None else memory.held_mb(m.peak, device) for k, m in models.items()}
        present = [key for key in anchors if key in models]
        groups = campaign_processes.groups_of(memory_mb, present, memory.available_mb(device) or math.inf)
        return campaign.run(
            [{key: openers[key] for key in group} for group in groups],
            present,
            inputs,
            plan,
            self._prepared.config.seed,
            partial(clock.read, device=device),
            at_once=cores(),
            progress=progress,
            is_fault=lambda error: not of_the_candidate(error),
        )

    def _baseline_of(self, measured: campaign.Campaign, mark: str) -> Estimate:
        conditions, seed = self.inputs(mark)[1], self._prepared.config.seed
        rows, key = conditions["batch"], measured.anchors[0]
        return campaign_measurements.measurements(measured, key, rows, seed, conditions)[LATENCY].estimate

    @cached_property
    def _references(self) -> References:
        teacher = self._prepared.teacher
        architecture = read_config(teacher)[0].config["model_type"]
        return References(
            Path(self._prepared.config.mlruns) / LATENCIES,
            {"architecture": architecture, "weights": weight_shapes(teacher)},
        )

    def plan(self, mark: str) -> CampaignPlan:
        """The plan of a workload's final campaign: each set times a model for at least as long as the quick timing."""
        measure = self._prepared.config.measure
        plan = CampaignPlan.lasting(measure.final_s, at_least_s=measure.quick_s / 2)
        return replace(plan, minimum=cycle_of(self.inputs(mark)[0]))

    @property
    def plan_after_export(self) -> CampaignPlan:
        """The plan of the timing of exported models: one set of processes, a quarter of the time of a trial."""
        plan = CampaignPlan.lasting(self._prepared.config.measure.quick_s / 4, sets=1)
        return replace(plan, minimum=cycle_of(self.inputs("")[0]))

    def at_one_speed(self, timed: Timed, mark: str) -> Timed:
        """Times measured beside the baseline, scaled to the results folder's reference latency of workload `mark`."""
        return reference_speed.at_speed_of(self.reference(mark).estimate, timed)

    def references(self) -> dict[str, Estimate]:
        """The reference latency of the baseline in ms, by the mark of the workload."""
        return {mark: self.reference(mark).estimate for mark in ("", *self.marks)}

    def counted_now(self, measured: Mapping[str, Measurement]) -> Timed:
        """Measurements of an earlier run, scaled to the current reference latency, which may have changed."""
        return reference_speed.at_speeds_of(self.references(), measured)

    def reference(self, mark: str) -> Reference:
        """The reference latency of the baseline under a workload; measured where it is not stored."""
        inputs, conditions = self.inputs(mark)
        return self._references.of(inputs, conditions, partial(self._baseline_ms, mark))

    def _baseline_ms(self, mark: str) -> Measurement:
        """The latency of the baseline, timed beside a second process of itself as candidates are timed beside it.

        A process gets faster with age. One that is timed alone is younger at each block than one that takes turns, so
        its time would differ from that of the baseline in the loop's comparisons.
        """
        inputs, conditions = self.inputs(mark)
        device, seed = conditions["device"], self._prepared.config.seed
        opened, read = partial(self._baseline, device), partial(clock.read, device=device)
        measured = campaign.run([{0: opened, 1: opened}], (0, 1), inputs, self.plan(mark), seed, read)
        timed = campaign_measurements.measurements(measured, 0, conditions["batch"], seed, conditions)[LATENCY]
        loose = noise.of_estimate("median", timed.estimate)
        noisy = "; ".join(filter(None, (timed.conditions["noisy"], *loose)))
        return replace(timed, conditions={**timed.conditions, "noisy": noisy})

    def energy(self, opened: Opener) -> Measurement | None:
        """Energy of the main workload; None where the device has no energy counter."""
        counter = energy.counter(self._prepared.context.device)
        if counter is None:
            return None
        with opened() as bench:
            return energy.energy(bench, *self.inputs(""), counter)

    @property
    def marks(self) -> tuple[str, ...]:
        """Suffixes of the workloads other than the main one that objectives and limits name."""
        config = self._prepared.config
        suffixes = (workload.marked(name)[1] for name in (*config.objectives, *config.limits.others))
        return tuple(dict.fromkeys(mark for mark in suffixes if mark))

    def inputs(self, mark: str) -> tuple[list[Batch], dict[str, Any]]:
        """Batches and conditions of a workload, computed once."""
        if mark not in self._fed:
            prepared = self._prepared
            load = prepared.config.workload
            wanted = Workload(load.batch, load.length, prepared.config.seed, load.new_tokens or 0)
            wanted = workload.other(wanted, mark) if mark else wanted
            rows = prepared.split("validation")
            here = prepared.context.device
            device = (workload.device_of_mark(mark) if mark else None) or here
            environment = prepared.environment if device == here else clock.fingerprint(device)
            conditions: dict[str, Any] = {
                "device": device,
                "threads": prepared.context.threads,
                "omp_wait": default_waiting(),
                "batch": wanted.batch,
                "length": wanted.length,
                **({"new_tokens": wanted.new_tokens} if wanted.new_tokens else {}),
                "fingerprint": clock.digest(environment),
            }
            batches = random_batches(wanted, prepared.teacher, rows)
            if wanted.new_tokens and any(one.cache.speculates for one in prepared.space.deployments):
                batches = with_texts(batches, rows.encoded)
                conditions["fed"] = texts_digest(batches)
            if prepared.task.call != ALONE:
                conditions["call"] = prepared.task.call
            if wanted.length == "data" or prepared.task.call != ALONE:  # two data sets may be fed as different shapes
                conditions["fed"] = workload.shapes_digest(batches)
                conditions["tokens"] = workload.mean_tokens(batches)
            self._fed[mark] = batches, conditions
        return self._fed[mark]

    def _with_roofline(self, timed: Timed, inputs: list[Batch], recipe: Recipe, folder: Path) -> Timed:
        """`timed` with the roofline floor and fraction, where sizes are known and each token reads the weights once."""
        sizes = model_sizes(folder)
        if sizes is None or build.speculation_of(recipe) != "none":
            return timed
        plan = build.precision_of(recipe)
        precision = str(plan["precision"])
        if "embeddings" in plan:  # rows of these tables have a precision of their own, and are few
            sizes = replace(sizes, tables=())
        cached = kv_caches.step_bytes(recipe, folder, self._prepared.context, inputs[0])
        sizes = replace(sizes, row_precision=plan.get("head"), cache_bytes=cached)
        ceiling = ceilings(self._prepared.context.device, self._prepared.context.threads)
        floor = roofline.floor(sizes, inputs, precision, ceiling)
        if roofline.below_floor(floor, timed[LATENCY]):
            ceiling.measure_again()
            floor = roofline.floor(sizes, inputs, precision, ceiling)
        return roofline.held_against(floor, timed, LATENCY)


def _share(progress: Told, done: int, of: int, share: float) -> None:
    """Report overall progress when part `done` of `of` is at `share`."""
    progress((done + share) / of)
