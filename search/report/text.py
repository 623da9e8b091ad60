"""A study's front as JSON, tables and sentences, for files, MLflow and the terminal."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from objectives.estimate import Estimate
from objectives.kv_cache import A_TOKEN
from objectives.measurement import Measurement
from objectives.quality import metrics
from search.front.formatting import describe, in_time, text, times, title
from search.front.front import Front
from search.front.outcome import Outcome
from search.front.study_record import StudyRecord
from search.report.cache_sentences import slower_caches
from search.tasks import task_named

if TYPE_CHECKING:
    from rich.table import Table

FRONT_VERSION = 2
BITS_A_BYTE = "bits a byte"  # the head of the column of `bits_a_byte`


def further_metrics(front: Front, study: StudyRecord) -> list[str]:
    """Further metrics, which are reported but are not objectives of the search."""
    measured = {name for outcome in front.outcomes for name in outcome.measurements}
    columns = {study.metric, *(target.objective for target in front.targets)}
    return [metric.name for metric in metrics() if metric.name in measured - columns]


def bits_a_byte(study: StudyRecord, number: int) -> float | None:
    """Bits per byte of the texts of the test split, comparable between tokenizers; None where there are none."""
    tested = study.held_out.get(number, {}).get("perplexity")
    bits: float | None = None if tested is None else tested.conditions.get("bits_per_byte")
    return bits


def rebuild_command(file: str) -> str:
    return f"python -m search apply {shlex.quote(file)}"


def front_json(front: Front, study: StudyRecord) -> dict[str, Any]:
    """The front as `schemas/front.schema.json` describes it."""
    config = study.config
    baseline, best = front.baseline, front.best_uncompressed
    objectives = [t.objective for t in front.targets]
    return {
        "schema_version": FRONT_VERSION,
        "study": study.name,
        "model": {"name": config["model"]["name"], "revision": config["model"]["revision"]},
        "task": config["task"],
        "metric": study.metric,
        "data": {"source": dict(config["data"]), "rows": dict(study.rows)},
        "notes": list(study.notes),
        "targets": [{"objective": t.objective, "better": t.better} for t in front.targets],
        "limits": dict(config["limits"]),
        "workload": {**config["workload"], "call": task_named(str(config["task"])).call},
        "hardware": dict(study.hardware),
        "seconds": study.seconds,
        "baseline": baseline.number if baseline else None,
        "best_uncompressed": best.number if best else None,
        "hypervolume": {
            "value": front.hypervolume,
            "reference": {name: abs(r) for name, r in zip(objectives, front.reference, strict=True)},
        },
        "picks": {name: o.number for name, o in front.picks.items()},
        "quick_timings": sorted(front.final.late),
        "ties": [list(pair) for pair in front.ties()],
        "members": [_member(front, study, o) for o in front.members],
        "trials": [_trial(front, o) for o in front.outcomes],
    }


def _member(front: Front, study: StudyRecord, outcome: Outcome) -> dict[str, Any]:
    return {
        "number": outcome.number,
        "digest": outcome.recipe.digest,
        "recipe": outcome.recipe.to_json(),
        "params": outcome.recipe.params,
        "measurements": _plain(outcome.measurements),
        "quick": _plain(outcome.quick),
        "held_out": _plain(study.held_out.get(outcome.number, {})),
        "speedup": speedups(front, outcome),
        "folder": f"models/{outcome.number}",
    }


def _trial(front: Front, outcome: Outcome) -> dict[str, Any]:
    return {
        "number": outcome.number,
        "digest": outcome.recipe.digest,
        "params": outcome.recipe.params,
        "status": outcome.status,
        "on_front": outcome in front.members,
        "baseline": outcome.baseline,
        "reason": front.why_not(outcome),
        "values": {name: m.value for name, m in outcome.measurements.items()},
    }


def speedups(front: Front, outcome: Outcome) -> dict[str, Any]:
    """Speedups over each baseline, with intervals, and the time that they are of; None where not measured."""
    over = {"over_eager_fp32": front.baseline, "over_best_uncompressed": front.best_uncompressed}
    ratios = {name: _estimate(front.speedup(outcome, other)) for name, other in over.items()}
    return {"of": front.time, **ratios}


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    return {"value": estimate.value, "interval": [estimate.low, estimate.high]} if estimate else None


def _plain(measurements: Mapping[str, Measurement]) -> dict[str, Any]:
    return {name: m.to_json() for name, m in measurements.items()}


def census(front: Front) -> str:
    """The trials by status: "40 trials: 9 on the front, 25 measured but not on it, 6 infeasible"."""
    counts = Counter(o.status for o in front.outcomes)
    on_front = len(front.members)
    parts = [f"{on_front} on the front", f"{counts['complete'] - on_front} measured but not on it"]
    parts += [f"{counts[s]} {s}" for s in ("infeasible", "rejected", "failed") if counts[s]]
    total = len(front.outcomes)
    return f"{total} trial{'' if total == 1 else 's'}: {', '.join(parts)}"


def ties_text(front: Front) -> tuple[str, ...]:
    """One sentence for each member that is not distinguishable from others."""
    indistinct: dict[int, list[str]] = {}
    for a, b in front.ties():
        indistinct.setdefault(a, []).append(str(b))
    return tuple(f"{a} is not distinguishable from {' or '.join(others)}" for a, others in indistinct.items())


def headline(front: Front) -> str:
    """What the balanced pick gives, in one sentence."""
    if not front.members:
        return "No trial is complete and inside the limits yet"
    pick = front.picks["balanced"]
    speedup, loss = front.speedup(pick, front.baseline), front.loss(pick)
    if not (speedup and loss):
        return f"The balanced pick is trial {pick.number}"
    faster = in_time(f"{times(speedup)} as fast as the uncompressed model", front.time)
    return f"Balanced pick: {faster}, {_loss(loss, front.loss_unit)}"


def _loss(loss: Estimate, unit: str) -> str:
    if abs(loss.value) < 0.05:
        return "nothing lost"
    return f"{abs(loss.value):.1f} {unit} {'lost' if loss.value > 0 else 'gained'}"


def pick_lines(front: Front) -> list[str]:
    """The picks against both baselines, a line each: the last lines of a run."""
    lines = []
    for name, outcome in front.picks.items():
        values = outcome.measurements
        figures = ", ".join(text(values[t.objective]) for t in front.targets)
        over = [
            in_time(f"{times(ratio)} over {label}", front.time)
            for label, base in (
                ("eager fp32", front.baseline),
                ("the best uncompressed", front.best_uncompressed),
            )
            if (ratio := front.speedup(outcome, base))
        ]
        loss = front.loss(outcome)
        notes = [*over, *([_loss(loss, front.loss_unit)] if loss else [])]
        lines.append(f"{name:<14}{outcome.number:>4}  {figures}  ({', '.join(notes)})  {describe(outcome.recipe)}")
    return lines


def note(front: Front, study: StudyRecord) -> str:
    """The picks as a Markdown table: what MLflow shows first of a search."""
    faster = [in_time(head, front.time) for head in ("x eager fp32", "x best")]
    heads = ["pick", "trial", *(title(t.objective) for t in front.targets), *faster, "what"]
    lines = [f"**{headline(front)}**", "", f"{study.device}, {study.workload}. {census(front)}.", ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, outcome in front.picks.items():
        values = outcome.measurements
        cells = [name, str(outcome.number), *(text(values[t.objective]) for t in front.targets)]
        cells += [times(front.speedup(outcome, over)) for over in (front.baseline, front.best_uncompressed)]
        lines.append(f"| {' | '.join([*cells, describe(outcome.recipe)])} |")
    remarks = [*ties_text(front), *slower_caches(front), *study.notes]
    return "\n".join([*lines, "", "The whole front: `front.html` under Artifacts.", *remarks])


def table(front: Front, study: StudyRecord) -> Table:
    """The front's members and the uncompressed model, fastest first, for the terminal."""
    from rich.table import Table

    rows = Table(title=f"{study.name}: {study.workload}, {study.device}", title_justify="left")
    cache = [A_TOKEN.name] if any(A_TOKEN.name in o.measurements for o in front.members) else []
    names = list(dict.fromkeys([*(t.objective for t in front.targets), *further_metrics(front, study), *cache]))
    heads = [title(name) for name in names]
    by_number = {o.number: o for o in (*front.members, *front.uncompressed)}
    bits = {n: value for n in by_number if (value := bits_a_byte(study, n)) is not None}
    faster = [in_time(head, front.time) for head in ("x eager", "x best")]
    for head in ("trial", *heads, *faster, "size", "test", *([BITS_A_BYTE] if bits else []), "what"):
        rows.add_column(head, justify="left" if head == "what" else "right", overflow="fold")
    named = {o.number: name for name, o in reversed(front.picks.items())}
    for outcome in sorted(by_number.values(), key=lambda o: o.value(front.speed.objective)):
        values = outcome.measurements
        tested = study.held_out.get(outcome.number, {}).get(study.metric)
        marks = [named[outcome.number]] if outcome.number in named else []
        marks += ["quick timing"] if outcome.number in front.final.late else []
        what = describe(outcome.recipe) + (f"  [{', '.join(marks)}]" if marks else "")
        rows.add_row(
            str(outcome.number),
            *(text(values[name]) if name in values else "" for name in names),
            times(front.speedup(outcome, front.baseline)),
            times(front.speedup(outcome, front.best_uncompressed)),
            text(values["size_mb"]) if "size_mb" in values else "",
            text(tested) if tested else "",
            *([f"{bits[outcome.number]:.3f}" if outcome.number in bits else ""] if bits else []),
            what.replace("[", r"\["),
            style=None if outcome in front.members else "dim",
        )
    return rows
