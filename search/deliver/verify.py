"""The check of an exported model: loaded in a fresh process, and compared with its record in outputs and speed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from objectives import campaign, clock, latency, quality, workload
from objectives.bench import Batch, open_bench
from objectives.estimate import Estimate
from objectives.estimate import ratio as quotient
from objectives.measurement import Measurement
from objectives.process import Remote
from objectives.waiting import default_waiting
from search.config.load import from_mapping
from search.deliver.best_config import BestConfig
from search.deliver.export import RECIPE
from search.deliver.exported import read_exported
from search.errors import UserError
from search.front.outcome import LATENCY, Outcome
from search.front.wording import text as text_of
from search.front.wording import times
from search.measure.outputs import joined, unit
from search.prepare.folders import frame_in, input_names
from search.prepare.prepared import cores
from spaces import build
from spaces.base import ModelError, read_config
from spaces.errors import Infeasible
from spaces.runtime import Context

if TYPE_CHECKING:
    from search.measure.measurer import Measurer, Opened
    from search.prepare.prepared import PreparedData

#: In a model folder: outputs that every later load must reproduce.
REFERENCE = "reference.npz"
#: Largest difference of outputs. On the same device the same kernels run, so only the order of sums may differ;
#: another device rounds otherwise, and integers then step otherwise.
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 2e-2, "int8-static": 2e-2, "int4": 2e-2, "fp8": 1e-1}
ELSEWHERE = 20.0  # times the tolerance, on another kind of device
#: Speeds that differ by less count as equal, however narrow their intervals.
ALIKE = 0.05
#: Seed and shape of the fixed token ids that every exported model is compared on.
PROBE = workload.Workload(batch=1, length=24, seed=20240)


def probe(folder: Path) -> list[Batch]:
    """Token ids that depend on nothing but the model's vocabulary."""
    return list(workload.inputs(PROBE, input_names(folder), frame_in(folder)))


def write_reference(measurer: Measurer, outcome: Outcome, folder: Path, opened: Opened) -> Path:
    """Write a file with the model's outputs on the probe and on the validation split; its path."""
    probed = measurer.probed(outcome.recipe, folder, opened, probe(folder))
    answered = measurer.output(outcome.recipe, folder, opened, "validation")
    digests = {name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in (("p", probed), ("v", answered))}

    def make(target: Path) -> None:
        np.savez(target / REFERENCE, probe=probed, validation=answered)

    return measurer.keep("references", {"recipe": outcome.recipe.digest, **digests}, make) / REFERENCE


Latency = Literal["as recorded", "different", "unknown"]


@dataclass(frozen=True)
class CheckResult:
    """The result of a check; `problem` is "" when the model reproduces its record."""

    lines: tuple[str, ...] = ()
    problem: str = ""
    latency: Latency = "unknown"  # whether it is as fast beside the uncompressed model as its record says

    @property
    def verdict(self) -> str:
        """The last line of a check without a problem."""
        return {
            "as recorded": "the model does what its record says",
            "different": "the model gives the outputs that its record says, at another speed",
            "unknown": "the model gives the outputs that its record says; its speed was not compared",
        }[self.latency]


def opened(folder: Path, record: BestConfig, context: Context) -> Remote:
    """The exported model in a process of its own.

    Raises:
        UserError: files that are missing, foreign or pickled, or a runtime that is not here.
    """
    recipe = record.recipe
    opening = partial(build.open_predict, folder, recipe.runtime.name, build.precision_of(recipe), context)
    try:
        return open_bench(opening, context.device, context.threads, timeout_s=600)
    except ModelError as error:
        raise UserError(str(error)) from None
    except Infeasible as reason:
        raise UserError(f"{folder}: cannot run on this machine: {reason}") from None


def context_of(record: BestConfig) -> Context:
    """The device of the record when this machine has it, else the CPU."""
    import torch

    measured = str(record.conditions["hardware"].get("device", "cpu"))
    device = "cuda" if measured == "cuda" and torch.cuda.is_available() else "cpu"
    return Context(device, int(record.config["workload"].get("threads") or 0))


def same_kind(record: BestConfig, context: Context) -> str:
    """ "" when this is the kind of device that was measured, else what differs."""
    then = record.conditions["hardware"]
    now = clock.fingerprint(context.device)
    for key in ("device", "cpu"):
        if then.get(key) != now.get(key):
            return f"measured on {then.get(key)}, this is {now.get(key)}"
    if context.device == "cuda" and _gpu(then) != _gpu(now):
        return f"measured on {_gpu(then)}, this is {_gpu(now)}"
    return ""


def _gpu(hardware: Mapping[str, Any]) -> str:
    return ", ".join(str(gpu.get("name")) for gpu in hardware.get("gpu") or [])


def outputs(folder: Path, record: BestConfig, context: Context, bench: Remote) -> CheckResult:
    """The outputs on the probe, compared with the recorded ones."""
    if not (folder / REFERENCE).is_file():
        bench.call("predict", probe(folder), timeout_s=600)
        return CheckResult((f"outputs: it runs, but was exported without {REFERENCE}: it was no finalist",))
    with np.load(folder / REFERENCE, allow_pickle=False) as data:
        wanted = data["probe"]
    inputs = probe(folder)
    base = read_config(folder)[0]
    found = joined(bench.call("predict", inputs, timeout_s=600), inputs, base)
    allowed = tolerance(record, context)
    difference = quality.parity([{"output": found}], [{"output": wanted}]) / unit(base, wanted)
    rows = sum(len(batch["attention_mask"]) for batch in inputs)
    line = f"outputs on {rows} fixed inputs: largest difference {difference:.2g} (allowed {allowed:g})"
    return CheckResult((line,), "" if difference <= allowed else line)


def tolerance(record: BestConfig, context: Context) -> float:
    precision = str(build.precision_of(record.recipe)["precision"])
    return TOLERANCE[precision] * (ELSEWHERE if same_kind(record, context) else 1.0)


def check(folder: Path, mlruns: Path) -> CheckResult:
    """The whole check: outputs, quality on the validation split where its data can be read, and latency.

    `mlruns` is this machine's results folder, where the prepared data may be; nothing is written to it.

    On another kind of device than the record's only predictions are compared, and the lines say so.

    Raises:
        UserError: the folder is not a whole exported model.
    """
    record = read_exported(folder)
    context = context_of(record)
    elsewhere = same_kind(record, context)
    with opened(folder, record, context) as bench, rows_of_record(record, context, mlruns) as rows:
        result = outputs(folder, record, context, bench)
        lines, problems = list(result.lines), [result.problem] if result.problem else []
        lines += _quality_lines(folder, record, context, bench, rows, problems)
        latency_now: Latency = "unknown"
        if elsewhere:
            lines.append(f"latency: not compared, because it is another kind of device: {elsewhere}")
        lengths = None if isinstance(rows, str) else rows.split("validation").encoded.lengths.tolist()
        baseline = None if elsewhere else baseline_folder(folder, record, rows)
    if not elsewhere:
        line, latency_now = _latency(folder, record, context, baseline, lengths)
        lines.append(line)
    return CheckResult(tuple(lines), "; ".join(problems), latency_now)


@contextmanager
def rows_of_record(record: BestConfig, context: Context, mlruns: Path) -> Iterator[PreparedData | str]:
    """The prepared data of the record, or the reason why they cannot be read here."""
    from search.prepare import runner as compose
    from search.space.choices import names

    with ExitStack() as stack:
        data: PreparedData | str
        try:
            config = replace(from_mapping(record.config, names()), mlruns=str(mlruns.absolute()))
            data = stack.enter_context(compose.reading_data(config, context))
        except UserError as reason:
            data = str(reason)
        yield data


def _quality_lines(
    folder: Path,
    record: BestConfig,
    context: Context,
    bench: Remote,
    rows: PreparedData | str,
    problems: list[str],
) -> list[str]:
    """Lines on the validation split, where its data can be read."""
    if isinstance(rows, str):
        return [f"validation split: not compared, because its data cannot be read here: {rows}"]
    split = rows.split("validation")
    batches = rows.batches(split.encoded, rows.batch_for(str(build.precision_of(record.recipe)["precision"])))
    outputs = bench.call("predict", batches, timeout_s=3600)
    base = read_config(folder)[0]
    found = joined(outputs, batches, base)
    metric = str(record.config["metric"])
    score = quality.score(metric, split.predictions(metric, found), split.references, split.classes)
    recorded = record.measurements[metric].value
    if not (folder / REFERENCE).is_file():
        return [f"{metric} on the validation split: {score:.4f} here, {recorded:.4f} in the record"]
    with np.load(folder / REFERENCE, allow_pickle=False) as data:
        wanted = data["validation"]
    if found.shape != wanted.shape:
        return [f"validation split: not compared, because it has {len(found)} rows here and had {len(wanted)}"]
    difference = quality.parity([{"output": found}], [{"output": wanted}]) / unit(base, wanted)
    allowed = tolerance(record, context)
    line = (
        f"{metric} on the validation split: {score:.4f} here, {recorded:.4f} in the record; "
        f"largest difference of outputs {difference:.2g} (allowed {allowed:g})"
    )
    close = difference <= allowed
    if not close or (not same_kind(record, context) and abs(score - recorded) > 0.5 / len(split)):
        problems.append(line)
    return [line]


def _latency(
    folder: Path, record: BestConfig, context: Context, baseline: Path | None, lengths: Sequence[int] | None
) -> tuple[str, Latency]:
    """A line on the speed: the model timed in turns with the uncompressed one in fresh processes, against the record.

    `baseline` is the folder of the uncompressed model, if it is here; `lengths` are those of the data, if known.
    """
    if record.config["workload"]["length"] == "data" and lengths is None:
        return "latency: not compared, because it was measured on the lengths of the data", "unknown"
    measure = record.config["measure"]
    plan = campaign.Plan.lasting(float(measure["final_s"]), at_least_s=float(measure["quick_s"]) / 2)
    models: dict[int, campaign.Opener] = {1: lambda: opened(folder, record, context)}
    if baseline is not None:
        models[0] = lambda: _eager(baseline, context)
    inputs, anchor = _inputs(folder, record, lengths or ()), min(models)
    read = partial(clock.read, device=context.device)
    try:
        measured = campaign.run([models], (anchor,), inputs, plan, 0, read, at_once=cores())
    except RuntimeError as error:
        return f"latency: not compared: {error}", "unknown"
    if measured.failed:
        return f"latency: not compared: {'; '.join(measured.failed.values())}", "unknown"
    conditions = {"device": context.device, "threads": context.threads, "omp_wait": default_waiting()}
    now = campaign.measurements(measured, 1, latency.rows_of(inputs), 0, conditions)[LATENCY]
    busy = tuple(dict.fromkeys(reason for sets in measured.groups for one in sets for reason in one.disturbances))
    ratio = None if baseline is None else measured.ratio(0, 1)
    return latency_line(record, now, ratio, busy)


def latency_line(
    record: BestConfig, now: Measurement, ratio: Estimate | None, busy: Sequence[str]
) -> tuple[str, Latency]:
    """A line on the speed. `ratio`: the uncompressed model's time over this one's; None without that model."""
    if busy:
        return f"latency: not compared, because this machine is too busy to tell: {'; '.join(busy)}", "unknown"
    if ratio is None or record.speedup.get("over_eager_fp32") is None:
        then = record.measurements[LATENCY]
        text = f"latency: {text_of(now)} here, {text_of(then)} in the record"
        return f"{text}; not compared, because the uncompressed model is not here to be timed beside it", "unknown"
    recorded = record.speedup["over_eager_fp32"]
    before = Estimate(recorded["value"], *recorded["interval"])
    text = f"latency: {times(ratio)} over the uncompressed model here, {times(before)} in the record"
    off = quotient(ratio, before)
    if off.includes(1.0) or abs(off.value - 1) < ALIKE:
        return f"{text}: as recorded ({text_of(now)})", "as recorded"
    factor = f"{off.value:.2f} times as fast ({off.low:.2f} to {off.high:.2f})"
    return f"{text}: {factor}, which is more than noise ({text_of(now)})", "different"


def strays(recorded: Estimate, now: Estimate) -> str:
    """How a ratio of one more set of processes differs from the record; "" where the difference may be noise.

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
        if not beside.recipe.steps and beside.recipe.teacher == record.recipe.teacher:
            return path.parent
    if isinstance(rows, str):
        return None
    from search.prepare import runner as compose

    return compose.stored_teacher(rows, record.recipe.teacher)


def _eager(folder: Path, context: Context) -> Remote:
    """The weights in `folder` under plain PyTorch."""
    opening = partial(build.open_predict, folder, "eager", {"precision": "fp32"}, context)
    return open_bench(opening, context.device, context.threads, timeout_s=600)


def _inputs(folder: Path, record: BestConfig, lengths: Sequence[int]) -> list[Batch]:
    load = record.config["workload"]
    wanted = workload.Workload(int(load["batch"]), load["length"], 0)
    return list(workload.inputs(wanted, input_names(folder), frame_in(folder), lengths))
