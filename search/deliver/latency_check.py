"""The latency of an exported model, compared with its record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from objectives import campaign, campaign_measurements, clock, workload
from objectives.bench import Batch, open_bench
from objectives.estimate import Estimate
from objectives.estimate import ratio as quotient
from objectives.measurement import Measurement
from objectives.openmp_waiting import default_waiting
from objectives.paired_timing import Opener
from objectives.process import Remote
from search.config.schema import MeasureConfig
from search.deliver.best_config import BestConfig
from search.deliver.export import RECIPE
from search.deliver.open_exported import open_exported
from search.deliver.read_exported import read_exported
from search.errors import UserError
from search.front.formatting import text as text_of
from search.front.formatting import times
from search.front.outcome import LATENCY, SPEEDUP
from search.measure.timed_inputs import random_batches, with_texts
from search.prepare.prepared import cores
from search.prepare.runner import stored_teacher
from search.tasks import ALONE, task_named
from spaces import build
from spaces.cache_settings import SPECULATION
from spaces.runtime import Context

if TYPE_CHECKING:
    from search.prepare.prepared import PreparedData
    from search.tasks import Rows

#: Speeds that differ by less count as equal, however narrow their intervals.
ALIKE = 0.05
Latency = Literal["as recorded", "different", "unknown"]


def compare_latency(
    folder: Path, record: BestConfig, context: Context, baseline: Path | None, validation: Rows | None
) -> tuple[str, Latency]:
    """Time the model beside the uncompressed one in fresh processes; (a line that compares with the record, result).

    Args:
        baseline: the folder of the uncompressed model; None where it is not on this machine.
        validation: the rows of the data; None where they cannot be read on this machine.
    """
    alone = task_named(str(record.config["task"])).call == ALONE
    if validation is None and (record.config["workload"]["length"] == "data" or not alone):
        return "latency: not compared, because it was measured on the lengths of the data", "unknown"
    if validation is None and _says_more(record):
        return "latency: not compared, because it was measured on texts of the data", "unknown"
    plan = plan_of(record.config)
    models: dict[int, Opener] = {1: lambda: open_exported(folder, record, context)}
    if baseline is not None:
        models[0] = lambda: _eager(baseline, context)
    inputs, anchor = _inputs(folder, record, validation), min(models)
    read = partial(clock.read, device=context.device)
    try:
        measured = campaign.run([models], (anchor,), inputs, plan, 0, read, at_once=cores())
    except RuntimeError as error:
        return f"latency: not compared: {error}", "unknown"
    if measured.failed:
        return f"latency: not compared: {'; '.join(measured.failed.values())}", "unknown"
    conditions = {"device": context.device, "threads": context.threads, "omp_wait": default_waiting()}
    batch = int(record.config["workload"]["batch"])
    now = campaign_measurements.measurements(measured, 1, batch, 0, conditions)[LATENCY]
    busy = tuple(dict.fromkeys(reason for sets in measured.groups for one in sets for reason in one.disturbances))
    ratio = None if baseline is None else measured.ratio(0, 1)
    return latency_line(record, now, ratio, busy)


def plan_of(config: Mapping[str, Any]) -> campaign.CampaignPlan:
    """The timing of a record's configuration, by the defaults where it does not say how long."""
    recorded, default = config.get("measure", {}), MeasureConfig()
    final_s = float(recorded.get("final_s", default.final_s))
    quick_s = float(recorded.get("quick_s", default.quick_s))
    return campaign.CampaignPlan.lasting(final_s, at_least_s=quick_s / 2)


def latency_line(
    record: BestConfig, now: Measurement, ratio: Estimate | None, busy: Sequence[str]
) -> tuple[str, Latency]:
    """(A line that compares the latency with the record, result).

    Args:
        now: the latency measured here.
        ratio: the uncompressed model's time over this one's; None without that model.
        busy: interference during the timing, in words.
    """
    if busy:
        return f"latency: not compared, because this machine is too busy to tell: {'; '.join(busy)}", "unknown"
    paired = record.measurements.get(SPEEDUP)  # of whole calls, whatever time the study optimised
    if ratio is None or paired is None:
        then = record.measurements[LATENCY]
        text = f"latency: {text_of(now)} here, {text_of(then)} in the record"
        return f"{text}; not compared, because the uncompressed model is not here to be timed beside it", "unknown"
    before = paired.estimate
    text = f"latency: {times(ratio)} over the uncompressed model here, {times(before)} in the record"
    off = quotient(ratio, before)
    if off.includes(1.0) or abs(off.value - 1) < ALIKE:
        return f"{text}: as recorded ({text_of(now)})", "as recorded"
    factor = f"{off.value:.2f} times as fast ({off.low:.2f} to {off.high:.2f})"
    return f"{text}: {factor}, which is more than noise ({text_of(now)})", "different"


def ratio_deviation(recorded: Estimate, now: Estimate) -> str:
    """How the ratio of one further set of processes differs from the record; "" where the difference may be noise.

    The record's interval is that of a mean over three sets; the interval for one further set is twice as wide.
    """
    below, above = (2 * abs(math.log(end / recorded.value)) for end in (recorded.low, recorded.high))
    wide = Estimate(recorded.value, recorded.value * math.exp(-below), recorded.value * math.exp(above))
    off = quotient(now, wide)
    if off.includes(1.0) or abs(off.value - 1) < ALIKE:
        return ""
    return f"{times(now)} over the uncompressed model, {times(recorded)} in the record"


def baseline_folder(folder: Path, record: BestConfig, rows: PreparedData | str) -> Path | None:
    """The uncompressed model of the record's study: exported beside `folder`, or the teacher in the store here."""
    for path in sorted(folder.absolute().parent.glob(f"*/{RECIPE}")):
        try:
            beside = read_exported(path.parent)
        except UserError:
            continue
        if beside.recipe.exact and beside.recipe.teacher == record.recipe.teacher:
            return path.parent
    if isinstance(rows, str):
        return None
    return stored_teacher(rows, record.recipe.teacher)


def _eager(folder: Path, context: Context) -> Remote:
    """The model in `folder` under eager PyTorch in fp32, in a process of its own."""
    opening = partial(build.open_predict, folder, "eager", {"precision": "fp32"}, context)
    return open_bench(opening, context.device, context.threads, timeout_s=600)


def _inputs(folder: Path, record: BestConfig, rows: Rows | None) -> list[Batch]:
    load = record.config["workload"]
    wanted = workload.Workload(int(load["batch"]), load["length"], 0, int(load.get("new_tokens") or 0))
    batches = random_batches(wanted, folder, rows)
    return batches if rows is None or not _says_more(record) else with_texts(batches, rows.encoded)


def _says_more(record: BestConfig) -> bool:
    """Whether the time of a call depends on what its text says."""
    return build.speculation_of(record.recipe) != SPECULATION[0]
