"""The check of an exported model: its outputs, quality and latency are compared with its record."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from objectives import quality, workload
from objectives.bench import Batch
from objectives.process import Remote
from search.config.load import from_mapping
from search.deliver import generation_check
from search.deliver.best_config import BestConfig
from search.deliver.latency_check import Latency, baseline_folder, compare_latency
from search.deliver.open_exported import open_exported, recorded_context, same_kind
from search.deliver.read_exported import read_exported
from search.errors import UserError
from search.front.outcome import Outcome
from search.measure.outputs import joined_outputs
from search.prepare.folders import frame_in, input_names
from search.prepare.runner import reading_data
from search.tasks import recorded_task
from spaces import build
from spaces.base import is_causal, read_config
from spaces.runtime import Context

if TYPE_CHECKING:
    from search.measure.measurer import Measurer
    from search.measure.openers import Opened
    from search.prepare.prepared import PreparedData

#: In a model folder: outputs that every later load must reproduce.
REFERENCE = "reference.npz"
#: Seed and shape of the fixed token ids that every exported model is compared on.
PROBE = workload.Workload(batch=1, length=24, seed=20240)


def probe(folder: Path) -> list[Batch]:
    """Batches of token ids that depend only on the model's inputs, vocabulary and frame."""
    return list(workload.inputs(PROBE, input_names(folder), frame_in(folder)))


def write_reference(measurer: Measurer, outcome: Outcome, folder: Path, opened: Opened) -> Path:
    """Store a file with the model's outputs on the probe and on the validation split; returns its path.

    For a causal language model the file also has a generated answer.
    """
    inputs, generates = probe(folder), is_causal(folder)
    probed = measurer.probed(outcome.recipe, folder, opened, inputs)
    answered = measurer.output(outcome.recipe, folder, opened, "validation")
    digests = {name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in (("p", probed), ("v", answered))}

    def make(target: Path) -> None:
        generated: dict[str, np.ndarray] = {}
        if generates:
            with opened() as bench:
                generated = generation_check.generate(bench, inputs[0], measurer.context)
        np.savez(target / REFERENCE, probe=probed, validation=answered, **generated)  # type: ignore[arg-type]

    key: dict[str, Any] = {"recipe": outcome.recipe.digest, **digests}
    if generates:
        key["generated"] = generation_check.tokens(measurer.context)
    return measurer.keep("references", key, make) / REFERENCE


@dataclass(frozen=True)
class CheckResult:
    """The result of a check; `problem` is "" where the model reproduces its record."""

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


def outputs(folder: Path, record: BestConfig, context: Context, bench: Remote) -> CheckResult:
    """The result of comparing the outputs on the probe, and a generated answer, with the recorded ones."""
    if not (folder / REFERENCE).is_file():
        bench.call("predict", probe(folder), timeout_s=600)
        return CheckResult((f"outputs: it runs, but was exported without {REFERENCE}: it was no finalist",))
    with np.load(folder / REFERENCE, allow_pickle=False) as data:
        recorded = dict(data)
    wanted = recorded["probe"]
    inputs = probe(folder)
    base = read_config(folder)[0]
    output = joined_outputs(bench.call("predict", inputs, timeout_s=600), inputs, base)
    allowed, rule = tolerance(record, context), recorded_task(record.config).parity
    difference = rule.between(output, wanted)
    rows = sum(len(batch["attention_mask"]) for batch in inputs)
    line = f"outputs on {rows} fixed inputs: largest difference {rule.shown(difference)} (allowed {allowed:g})"
    lines, problems = [line], [line] if not difference <= allowed else []
    if generation_check.GENERATED in recorded:
        difference = generation_check.largest_difference(bench, inputs[0], context, recorded)
        lines.append(
            f"{len(recorded[generation_check.GENERATED])} tokens generated through the cache: largest difference of "
            f"log probabilities {difference:.2g} (allowed {allowed:g})"
        )
        problems += lines[-1:] if not difference <= allowed else []
    return CheckResult(tuple(lines), "; ".join(problems))


def tolerance(record: BestConfig, context: Context) -> float:
    """The largest allowed difference of outputs, in the unit of the task's rule."""
    precision = str(build.precision_of(record.recipe)["precision"])
    return recorded_task(record.config).parity.allowed(precision, elsewhere=bool(same_kind(record, context)))


def check(folder: Path, mlruns: Path) -> CheckResult:
    """The whole check: outputs, quality on the validation split where its data can be read, and latency.

    `mlruns` is this machine's results folder, where the prepared data may be; nothing is written to it.

    On another kind of device than the record's only predictions are compared, and the lines say so.

    Raises:
        UserError: the folder is not a complete, unchanged exported model, or it cannot run here.
    """
    record = read_exported(folder)
    context = recorded_context(record)
    elsewhere = same_kind(record, context)
    with open_exported(folder, record, context) as bench, rows_of_record(record, context, mlruns) as rows:
        result = outputs(folder, record, context, bench)
        lines, problems = list(result.lines), [result.problem] if result.problem else []
        lines += _quality_lines(folder, record, context, bench, rows, problems)
        latency_now: Latency = "unknown"
        if elsewhere:
            lines.append(f"latency: not compared, because it is another kind of device: {elsewhere}")
        validation = None if isinstance(rows, str) else rows.split("validation")
        baseline = None if elsewhere else baseline_folder(folder, record, rows)
    if not elsewhere:
        line, latency_now = compare_latency(folder, record, context, baseline, validation)
        lines.append(line)
    return CheckResult(tuple(lines), "; ".join(problems), latency_now)


@contextmanager
def rows_of_record(record: BestConfig, context: Context, mlruns: Path) -> Iterator[PreparedData | str]:
    """The prepared data of the record, or the reason in words why they cannot be read here."""
    from search.space.choices import names

    with ExitStack() as stack:
        data: PreparedData | str
        try:
            config = replace(from_mapping(record.config, names()), mlruns=str(mlruns.absolute()))
            data = stack.enter_context(reading_data(config, context))
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
    batches = rows.batches(split, str(build.precision_of(record.recipe)["precision"]))
    outputs = bench.call("predict", batches, timeout_s=3600)
    base = read_config(folder)[0]
    output = joined_outputs(outputs, batches, base)
    metric = str(record.config["metric"])
    score = quality.score(metric, split.predictions(metric, output), split.references, split.classes)
    recorded = record.measurements[metric].value
    if not (folder / REFERENCE).is_file():
        return [f"{metric} on the validation split: {score:.4f} here, {recorded:.4f} in the record"]
    with np.load(folder / REFERENCE, allow_pickle=False) as data:
        wanted = data["validation"]
    if output.shape != wanted.shape:
        return [f"validation split: not compared, because it has {len(output)} rows here and had {len(wanted)}"]
    rule, allowed = recorded_task(record.config).parity, tolerance(record, context)
    difference = rule.between(output, wanted)
    line = (
        f"{metric} on the validation split: {score:.4f} here, {recorded:.4f} in the record; "
        f"largest difference of outputs {rule.shown(difference)} (allowed {allowed:g})"
    )
    close = difference <= allowed
    lost = abs(float(quality.metric_named(metric).loss(score, recorded)))
    if not close or (not same_kind(record, context) and lost > 50 / len(split)):  # half a row, of a share
        problems.append(line)
    return [line]
