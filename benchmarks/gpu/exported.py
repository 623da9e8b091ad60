"""Every exported model: loaded in fresh processes, held against its record, and timed on the CPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks import header
from benchmarks.gpu import several
from benchmarks.gpu.run_setup import RunSetup
from benchmarks.gpu.search_front import results
from benchmarks.gpu.tables import Report
from objectives import latency
from objectives.bench import open_bench
from objectives.paired_timing import QUICK
from objectives.workload import Workload, inputs
from search.deliver import verify as check
from search.deliver.best_config import BestConfig
from search.deliver.read_exported import read_exported
from search.front.outcome import LATENCY
from search.prepare.folders import frame_in
from search.prepare.prepared import cores
from spaces import build, registry
from spaces.base import read_config
from spaces.errors import Infeasible
from spaces.runtime import Context

COLUMNS = ("study", "trial", "runtime", "precision", "check", "ms", "cpu_ms", "cpu runtime", "result")
CPU_S, DRY_S = 0.6, 0.05


def run(setup: RunSetup, report: Report) -> None:
    report.begin("exported models: the check in fresh processes, and latency_p50_ms/cpu", COLUMNS)
    folders = sorted(results(setup).glob("exports/*/models/*/recipe.yaml"))
    if not folders:
        report.note("no search has exported a model")
    # A dry run shows the way; one model is enough for that.
    rows = [looked_at(path.parent, setup, report) for path in (folders[:1] if setup.dry else folders)]
    if rows:
        share = sum(row["check"] == "ok" for row in rows) / len(rows)
        what = f"share of {len(rows)} exported models that do what their record says"
        report.goals([header.Promise(what, share, 1.0)])


def looked_at(folder: Path, setup: RunSetup, report: Report) -> dict[str, object]:
    record = read_exported(folder)
    precision = str(build.precision_of(record.recipe)["precision"])
    name = record.recipe.runtime.name
    measured = record.measurements
    row = report.add(
        study=record.study, trial=record.number, runtime=name, precision=precision, ms=measured[LATENCY].value
    )
    try:
        result = check.check(folder, results(setup))
        report.fill(row, check="FAILED" if result.problem else "ok", result=result.problem or result.lines[-1])
        ms, where = on_cpu(folder, record, precision, setup.dry)
        report.fill(row, cpu_ms=ms, **{"cpu runtime": where})
    except Exception as error:  # one that does not load must not hide the others
        report.fill(row, check=row.get("check", "FAILED"), result=several.brief(error))
    return row


def on_cpu(folder: Path, record: BestConfig, precision: str, dry: bool) -> tuple[float, str]:
    """(median ms on this machine's CPU, under what): its own runtime where that runs there, else eager in fp32."""
    context = Context("cpu", cores())
    name, plan = record.recipe.runtime.name, build.precision_of(record.recipe)
    runtime = registry.runtime_named(name)
    if runtime.missing(context) is not None or precision not in runtime.precisions(context):
        name, plan = "eager", {"precision": "fp32"}
    load, base = record.config["workload"], read_config(folder)[0]
    length = 32 if load["length"] == "data" else int(load["length"])
    fed = list(inputs(Workload(int(load["batch"]), length), base.inputs, frame_in(folder)))
    opening = partial(build.open_predict, folder, name, plan, context)
    try:
        with open_bench(opening, "cpu", context.threads, timeout_s=60) as side:
            timed = latency.measure(side, None, fed, QUICK.lasting(DRY_S if dry else CPU_S), 0, {"device": "cpu"})
    except Infeasible as reason:
        raise RuntimeError(f"on the CPU: {reason}") from reason
    return timed[LATENCY].value, f"{name} {plan['precision']}"
