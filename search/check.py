"""Whether an exported model does what its record says: loaded in a fresh process, compared, measured again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from objectives import clock, latency, quality, workload
from objectives.bench import Batch, open_bench
from objectives.measurement import Measurement
from objectives.process import Remote, default_waiting
from search import stages
from search.best_config import BestConfig
from search.config import from_mapping
from search.errors import UserError
from search.exported import read_exported
from search.front import LATENCY, Outcome
from spaces import build
from spaces.axis import Context, Infeasible
from spaces.base import ModelError

if TYPE_CHECKING:
    from search.measurer import Measurer, Opened
    from search.setting import Rows

#: In a model folder: outputs that every later load must reproduce.
REFERENCE = "reference.npz"
#: Largest difference of logits. On the same device the same kernels run, so only the order of sums may differ;
#: another device rounds otherwise, and integers then step otherwise.
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 2e-2, "int8-static": 2e-2, "int4": 2e-2, "fp8": 1e-1}
ELSEWHERE = 20.0  # times the tolerance, on another kind of device
#: Seed and shape of the token ids that every model is tried on, whatever its data.
PROBE = workload.Workload(batch=1, length=24, seed=20240)


def probe(folder: Path) -> list[Batch]:
    """Token ids that depend on nothing but the model's vocabulary."""
    return list(workload.inputs(PROBE, stages.input_names(folder), stages.frame_in(folder)))


def write_reference(measurer: Measurer, outcome: Outcome, folder: Path, opened: Opened) -> Path:
    """A file with the outputs that the model gives here: on the probe, and on the validation split."""
    probed = measurer.probed(outcome.recipe, folder, opened, probe(folder))
    logits = measurer.logits(outcome.recipe, folder, opened, "validation")
    digests = {name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in (("p", probed), ("v", logits))}

    def make(target: Path) -> None:
        np.savez(target / REFERENCE, probe=probed, validation=logits)

    return measurer.keep("references", {"recipe": outcome.recipe.digest, **digests}, make) / REFERENCE


@dataclass(frozen=True)
class Found:
    """What a check saw; `problem` is "" when the model does what its record says."""

    lines: tuple[str, ...] = ()
    problem: str = ""
    measurements: Mapping[str, Measurement] = field(default_factory=dict)


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


def after_export(folder: Path, lengths: Sequence[int]) -> tuple[Found, str]:
    """Load the model in a fresh process, compare its outputs with those that were recorded, and time it.

    The second says how its latency compares with the record where it is outside the record's interval, else "".
    `lengths` are those of the data.
    """
    record = read_exported(folder)
    context = context_of(record)
    protocol = latency.QUICK.lasting(float(record.config["measure"]["quick_s"]))
    with opened(folder, record, context) as bench:
        found = _compare(folder, record, context, bench)
        if found.problem:
            return found, ""
        inputs = _inputs(folder, record, lengths)
        now = latency.measure(bench, None, inputs, protocol, 0, {"device": context.device})[LATENCY]
    text, inside = held_against(record, now)
    return found, "" if inside else text


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


def _compare(folder: Path, record: BestConfig, context: Context, bench: Remote) -> Found:
    if not (folder / REFERENCE).is_file():
        bench.call("predict", probe(folder), timeout_s=600)
        return Found((f"outputs: it runs, but was exported without {REFERENCE}: it was no finalist",))
    with np.load(folder / REFERENCE, allow_pickle=False) as data:
        wanted = data["probe"]
    outputs = bench.call("predict", probe(folder), timeout_s=600)
    found = np.concatenate([o["logits"] for o in outputs])
    allowed = tolerance(record, context)
    difference = quality.parity([{"logits": found}], [{"logits": wanted}])
    line = f"outputs on {len(wanted)} fixed inputs: largest difference of logits {difference:.2g} (allowed {allowed:g})"
    return Found((line,), "" if difference <= allowed else line)


def tolerance(record: BestConfig, context: Context) -> float:
    width = str(build.precision_of(record.recipe)["width"])
    return TOLERANCE[width] * (ELSEWHERE if same_kind(record, context) else 1.0)


def check(folder: Path, mlruns: Path) -> Found:
    """The whole check: outputs, quality on the validation split where its data can be read, and latency.

    `mlruns` is this machine's results folder, where the prepared data may be; no path of the record is one, and nothing
    is made in it.

    On another kind of device than the record's only predictions are compared, and the lines say so.

    Raises:
        UserError: the folder is not a whole exported model.
    """
    record = read_exported(folder)
    context = context_of(record)
    elsewhere = same_kind(record, context)
    with opened(folder, record, context) as bench, _rows(record, context, mlruns) as rows:
        found = _compare(folder, record, context, bench)
        lines, problems = list(found.lines), [found.problem] if found.problem else []
        lines += _quality_lines(folder, record, context, bench, rows, problems)
        if elsewhere:
            lines.append(f"latency: not compared, because it is another kind of device: {elsewhere}")
        lengths = None if isinstance(rows, str) else rows.split("validation")[0].lengths.tolist()
    if not elsewhere:
        lines.append(_latency_line(folder, record, context, lengths))
    return Found(tuple(lines), "; ".join(problems))


@contextmanager
def _rows(record: BestConfig, context: Context, mlruns: Path) -> Iterator[Rows | str]:
    """The prepared data of the record, or why they cannot be read here."""
    from search import compose
    from search.names import names

    with ExitStack() as stack:
        found: Rows | str
        try:
            config = replace(from_mapping(record.config, names()), mlruns=str(mlruns.absolute()))
            found = stack.enter_context(compose.reading_data(config, context))
        except UserError as reason:
            found = str(reason)
        yield found


def _quality_lines(
    folder: Path,
    record: BestConfig,
    context: Context,
    bench: Remote,
    rows: Rows | str,
    problems: list[str],
) -> list[str]:
    """The validation split again, when its data are where the record says."""
    if isinstance(rows, str):
        return [f"validation split: not compared, because its data cannot be read here: {rows}"]
    encoded, labels = rows.split("validation")
    batches = rows.batches(encoded, rows.batch_for(str(build.precision_of(record.recipe)["width"])))
    outputs = bench.call("predict", batches, timeout_s=3600)
    found = np.concatenate([o["logits"] for o in outputs])
    metric = str(record.config["metric"])
    score = quality.score(metric, rows.decide(found), labels, rows.classes)
    recorded = record.measurements[metric].value
    if not (folder / REFERENCE).is_file():
        return [f"{metric} on the validation split: {score:.4f} here, {recorded:.4f} in the record"]
    with np.load(folder / REFERENCE, allow_pickle=False) as data:
        wanted = data["validation"]
    if found.shape != wanted.shape:
        return [f"validation split: not compared, because it has {len(found)} rows here and had {len(wanted)}"]
    difference = quality.parity([{"logits": found}], [{"logits": wanted}])
    allowed = tolerance(record, context)
    line = (
        f"{metric} on the validation split: {score:.4f} here, {recorded:.4f} in the record; "
        f"largest difference of logits {difference:.2g} (allowed {allowed:g})"
    )
    close = difference <= allowed
    if not close or (not same_kind(record, context) and abs(score - recorded) > 0.5 / len(labels)):
        problems.append(line)
    return [line]


def _latency_line(folder: Path, record: BestConfig, context: Context, lengths: Sequence[int] | None) -> str:
    """The median in fresh processes, held against the record's interval; `lengths` are those of the data, if known."""
    if record.config["workload"]["length"] == "data" and lengths is None:
        return "latency: not compared, because it was measured on the lengths of the data"
    protocol = latency.LONG.lasting(float(record.config["measure"]["final_s"]))
    known = {"device": context.device, "threads": context.threads, "omp_wait": default_waiting()}
    inputs = _inputs(folder, record, lengths or ())
    now = latency.measure_fresh(lambda: opened(folder, record, context), None, inputs, protocol, 0, known)[LATENCY]
    return f"latency: {held_against(record, now)[0]}"


def _inputs(folder: Path, record: BestConfig, lengths: Sequence[int]) -> list[Batch]:
    load = record.config["workload"]
    wanted = workload.Workload(int(load["batch"]), load["length"], 0)
    return list(workload.inputs(wanted, stages.input_names(folder), stages.frame_in(folder), lengths))


def held_against(record: BestConfig, now: Measurement) -> tuple[str, bool]:
    """What was timed alone now, against the record as it was timed then, at the speed that the machine had."""
    then = record.final.get(LATENCY) or record.measurements[LATENCY]
    faster = then.conditions.get("as_timed", then.value) / then.value
    value, low, high = (number * faster for number in (then.value, *then.interval))
    inside = low <= now.value <= high
    noisy = now.conditions.get("noisy")
    text = (
        f"{now.value:.2f} ms here, {value:.2f} ms in the record ({now.value / value:.2f}x, "
        f"{'inside' if inside else 'outside'} its interval of {low:.2f} to {high:.2f})"
        f"{f'; noisy: {noisy}' if noisy else ''}"
    )
    return text, inside
