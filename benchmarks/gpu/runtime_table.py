"""Runtimes by precisions by shapes, batch 1 and 32: host and device time, roofline, first call, memory, energy.

Weights are random, because latency does not depend on them. Each case is a process of its own; several are opened at
once, then one after the other is timed while the rest is stopped. What cannot run here is a row that says why.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import header, timed_models
from benchmarks.gpu import several
from benchmarks.gpu.run_setup import RunSetup
from benchmarks.gpu.runtime_cases import MODELS, SHORTER, THINNER, WHOLE, Case, case_of, cases, dry_cases, named
from benchmarks.gpu.tables import Report
from objectives import energy, latency, memory, roofline
from objectives.bench import Batch, open_bench
from objectives.ceilings import MeasuredCeilings, Meter
from objectives.paired_timing import QUICK
from objectives.process import Remote
from search.space.stored_sizes import model_sizes
from spaces import build
from spaces.errors import Infeasible
from spaces.knob import Plan
from spaces.runtime import Context, Predict

COLUMNS = (
    "model",
    "shape",
    "runtime",
    "precision",
    "batch",
    "host_ms",
    "device_ms",
    "floor_ms",
    "roofline %",
    "error",
    "first_call_ms",
    "open_s",
    "memory_mb",
    "energy_mj",
    "note",
)
#: Of the roofline, for BERT-base whole in bf16 at its length, under the best runtime: by batch.
GOALS = {1: 0.08, 32: 0.50}

QUICK_S, DRY_S = 0.4, 0.05
ENERGY_S = 0.2  # of each of its blocks
OPEN_S = 100.0  # one may take


def run(setup: RunSetup, report: Report) -> None:
    shapes = {"toy": (timed_models.TOY, 16)} if setup.dry else MODELS
    report.begin("latency by runtime, precision and shape; random weights", COLUMNS)
    folders = Folders(setup.work / "random", shapes)
    wanted = list(dry_cases() if setup.dry else cases())
    runnable = [case for case in wanted if feasible(case, folders, setup, report)]
    at_once = 2 if setup.dry else max(2, min(8, len(os.sched_getaffinity(0)) // 2))
    with open_meter(setup.device) as meter:
        ceilings = Held(setup.device, meter)
        for first in range(0, len(runnable), at_once):
            group = runnable[first : first + at_once]
            openings = [partial(opening, case, folders.of(case), setup) for case in group]
            with several.opened(openings) as sides:
                for case, side in zip(group, sides, strict=True):
                    if isinstance(side, Remote):
                        timed(case, side, len(group) - 1, folders, ceilings, setup, report)
                    else:
                        report.add(**named(case), note=several.brief(side))
            judge(report)
            if setup.left_s < 5:
                break
    reached = len({case_of(row) for row in report.rows})
    if reached < len(wanted):
        report.note(f"{len(wanted) - reached} of {len(wanted)} cases were not reached in time")


def feasible(case: Case, folders: Folders, setup: RunSetup, report: Report) -> bool:
    """Whether the runtime says that it can; else a row with its reason. Nothing is opened for it."""
    from spaces import registry, two_of_four
    from spaces.runtimes.requirements import require

    context = Context(setup.device)
    try:
        two_of_four.check_kernels(folders.plans(case), case.runtime, case.kernel_precision, context)
        require(registry.runtime_named(case.runtime), {"precision": case.kernel_precision}, context)
    except Infeasible as reason:
        report.add(**named(case), note=several.brief(reason))
        return False
    return True


class Folders:
    """Models with random weights, written when they are first asked for."""

    def __init__(self, root: Path, shapes: Mapping[str, tuple[Mapping[str, Any], int]]) -> None:
        self._root, self._shapes = root, shapes
        self._written: dict[tuple[str, str, bool], Path] = {}
        self._expected: dict[Path, Any] = {}

    def of(self, case: Case) -> Path:
        key = (case.model, case.shape, case.sparse)
        if key not in self._written:
            name = "-".join([case.model, case.shape.replace(" ", "-"), *(["sparse"] if case.sparse else [])])
            folder = self._root / name
            self._expected[folder] = write(folder, self._shapes[case.model][0], self.plans(case), self.fed(case, 1)[0])
            self._written[key] = folder
        return self._written[key]

    def fed(self, case: Case, batch: int) -> list[Batch]:
        return timed_models.fed(batch, self._shapes[case.model][1])

    def expected(self, case: Case) -> Any:
        """Logits of the first batch of one row, from the CPU in fp32."""
        return self._expected[self.of(case)]

    def plans(self, case: Case) -> dict[str, Plan]:
        """The shape and the pattern as plans of the axes."""
        from spaces.slicing import encode_ranges

        config = self._shapes[case.model][0]
        depth, heads, neurons = (
            int(config[name]) for name in ("num_hidden_layers", "num_attention_heads", "intermediate_size")
        )
        plans: dict[str, Plan] = {}
        if case.shape == SHORTER:
            plans["distill"] = {"blocks": list(range(0, depth, 2))}
        if case.shape == THINNER:
            half = {"heads": heads // 2, "neurons": neurons // 2}
            plans["prune"] = {name: [encode_ranges(list(range(n)))] * depth for name, n in half.items()} | {
                "tuning": "none"
            }
        if case.sparse:
            plans["sparse"] = {"weights": 0.5, "pattern": "2-of-4"}
        return plans


def write(folder: Path, config: Mapping[str, Any], plans: Mapping[str, Plan], batch: Batch) -> Any:
    """A model folder of the planned shape, and the logits that it gives for `batch` on the CPU."""
    import torch

    from spaces import registry
    from spaces.base import Base, skeleton, write_folder
    from spaces.sparse_storage import best_of_four, sparse_modules

    torch.manual_seed(0)
    base = Base("bert", "random", "mean", ("negative", "positive"), ("input_ids", "attention_mask"), config)
    model = skeleton(base).eval()
    for name, plan in plans.items():
        registry.axis_named(name).reshape(model, plan)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # what was reshaped holds whatever was in memory
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.02)
            elif name.endswith(".bias"):
                parameter.zero_()
        for module in sparse_modules(model).values():
            weight = torch.randn(module.out_features, module.in_features) * 0.02
            module.take(weight, best_of_four(weight.abs()))
    write_folder(folder, model, base, plans)
    with torch.inference_mode():
        return model(**{name: torch.from_numpy(array) for name, array in batch.items()}).numpy()


def opening(case: Case, folder: Path, setup: RunSetup) -> Remote:
    predict = partial(open_case, folder, case.runtime, case.kernel_precision, case.precision == "tf32", setup.device)
    return open_bench(predict, setup.device, timeout_s=min(OPEN_S, setup.left_s))


def open_case(folder: Path, runtime: str, precision: str, tf32: bool, device: str) -> Predict:
    """In the process of the case."""
    if tf32:
        import torch

        torch.set_float32_matmul_precision("high")
    return build.open_predict(folder, runtime, {"precision": precision}, Context(device))


def open_meter(device: str) -> Remote:
    return Remote(partial(Meter, device, 0), timeout_s=60)


class Held(MeasuredCeilings):
    """The device's ceilings, from one process that stays: a process for each would take longer than the timing."""

    def __init__(self, device: str, meter: Remote) -> None:
        super().__init__(device, 0)
        self._meter = meter

    def measure(self, method: str, argument: Any) -> float:
        return float(self._meter.call(method, argument, timeout_s=60))


def timed(
    case: Case, side: Remote, waiting: int, folders: Folders, ceilings: Held, setup: RunSetup, report: Report
) -> None:
    """One row a batch. What goes wrong is said in the row, and the next case goes on."""
    batches = (1, 4) if setup.dry else (1, 32)
    for batch in batches:
        row = report.add(**named(case), batch=batch)
        try:
            _time(row, case, side, batch, waiting, folders, ceilings, setup, report)
        except Exception as error:  # a case that dies, for memory or a kernel, is a finding about it
            report.fill(row, note=several.brief(error))
            break
    side.pause()


def _time(
    row: dict[str, Any],
    case: Case,
    side: Remote,
    batch: int,
    waiting: int,
    folders: Folders,
    ceilings: Held,
    setup: RunSetup,
    report: Report,
) -> None:
    folder, fed = folders.of(case), folders.fed(case, batch)
    protocol = replace(QUICK.lasting(DRY_S if setup.dry else QUICK_S), attempts=1, timeout_s=min(OPEN_S, setup.left_s))
    conditions = {"device": setup.device, "batch": batch}
    side.resume()
    if batch == 1:
        report.fill(row, error=error_of(side.call("predict", fed[:1], timeout_s=OPEN_S), folders.expected(case)))
    # The meter holds the GPU too, and waits.
    read = several.read_beside(waiting + 1, setup.device)
    timed = latency.measure(side, None, fed, protocol, 0, conditions, read)
    device = timed.get(latency.DEVICE_P50.name)
    peak = memory.memory(side).get(memory.PEAK_MEMORY.name)
    report.fill(
        row,
        host_ms=timed[latency.P50.name].value,
        device_ms=None if device is None else device.value,
        first_call_ms=timed[latency.FIRST_CALL.name].value if batch == 1 else None,
        open_s=timed[latency.PREPARE.name].value if batch == 1 else None,
        memory_mb=None if peak is None else peak.value,
        note=timed[latency.P50.name].conditions["noisy"],
    )
    sizes = model_sizes(folder)
    if sizes is not None:
        floor = roofline.floor(sizes, fed, case.kernel_precision, ceilings)
        note = "; ".join(filter(None, (row["note"], roofline.below_floor(floor, timed[latency.P50.name]))))
        report.fill(row, floor_ms=floor.ms, **{"roofline %": 100 * floor.ms / row["host_ms"]}, note=note)
    if case.shape == WHOLE and (setup.dry or case.precision == "bf16"):
        counter = energy.counter(setup.device)
        taken = energy.energy(side, fed, conditions, counter, DRY_S if setup.dry else ENERGY_S)
        report.fill(row, energy_mj=None if taken is None else taken.value)


def error_of(outputs: Sequence[Mapping[str, Any]], expected: Any) -> float:
    """Mean absolute difference of logits, relative to those of the CPU in fp32."""
    logits = outputs[0]["logits"]
    return float(abs(logits - expected).mean() / abs(expected).mean())


def judge(report: Report) -> None:
    """The goals, as far as there are rows for them."""
    goals = []
    for batch, wanted in GOALS.items():
        rows = [r for r in report.rows if (r["model"], r["shape"], r["precision"]) == ("BERT-base", WHOLE, "bf16")]
        fractions = {r["runtime"]: r["roofline %"] / 100 for r in rows if r.get("batch") == batch and "roofline %" in r}
        if fractions:
            best = max(fractions, key=lambda runtime: fractions[runtime])
            what = f"share of the roofline, BERT-base, bf16, length 128, batch {batch} ({best})"
            goals.append(header.Promise(what, fractions[best], wanted))
    report.goals(goals)
