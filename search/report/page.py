"""The front as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

from objectives.measurement import Measurement
from search.front.estimates import Estimate
from search.front.front import Front
from search.front.outcome import LATENCY, LOSS, Outcome
from search.front.study_record import StudyRecord
from search.front.wording import describe, interval, quantity, text, times, title
from search.report.plot import front_svg
from search.report.text import census, headline, ties_text


def front_html(front: Front, study: StudyRecord) -> str:
    """The whole page."""
    template = (resources.files("search") / "templates" / "front.html").read_text("utf-8")
    config = study.config
    columns = _columns(front, study)
    ties = "; ".join(ties_text(front))
    rows = ", ".join(f"{count:,} {split} rows" for split, count in study.rows.items())
    others = [o for o in front.outcomes if o not in front.members]
    order = [*front.members, *sorted(others, key=lambda o: (o.status != "complete", o.number))]
    plain = {
        "study": study.name,
        "headline": headline(front),
        "model": config["model"]["name"],
        "task": config["task"],
        "rows": rows or "rows unknown",
        "device": study.device,
        "workload": study.workload,
        "census": census(front),
        "usage": _usage(front, study),
    }
    made = {
        "picks": "".join(_pick(front, study, name, outcome) for name, outcome in front.picks.items()),
        "picture": front_svg(front),
        "ties": f"<p><b>Ties:</b> {escape(ties)}: their differences are within the noise.</p>" if ties else "",
        "heads": "".join(f"<th{c.css}><button>{escape(c.head)}</button></th>" for c in columns),
        "trials": "\n".join(_row(front, columns, outcome) for outcome in order),
        "hardware": "".join(_fact(*fact) for fact in _facts(study.hardware)),
    }
    return Template(template).substitute({name: escape(value) for name, value in plain.items()} | made)


@dataclass(frozen=True)
class Column:
    """One column of the table of trials; `cell` gives (value to sort by, text, interval)."""

    head: str
    cell: Callable[[Outcome], tuple[float | str, str, str]]
    words: bool = False

    @property
    def css(self) -> str:
        return ' class="words"' if self.words else ""


def _columns(front: Front, study: StudyRecord) -> list[Column]:
    """What the trials are compared in: the targets, then what else is known of most models."""
    names = [t.objective for t in front.targets]
    extra = [n for n in (study.metric, LATENCY, "size_mb", "params", "peak_memory_mb") if n not in names]
    measured = {name for o in front.outcomes for name in o.measurements}

    def of(name: str) -> Column:
        return Column(title(name), lambda o: _measured(o.measurements.get(name)))

    def estimated(head: str, unit: str, estimate: Callable[[Outcome], Estimate | None]) -> Column:
        return Column(head, lambda o: _estimated(estimate(o) if o.status == "complete" else None, unit))

    return [
        Column("trial", lambda o: (o.number, str(o.number), "")),
        Column("what", lambda o: (describe(o.recipe), describe(o.recipe), ""), words=True),
        *(of(name) for name in names),
        estimated("x eager", "x", lambda o: front.speedup(o, front.baseline)),
        estimated("x best", "x", lambda o: front.speedup(o, front.best_uncompressed)),
        estimated("loss", "points", front.loss),
        Column("test", lambda o: _measured(study.held_out.get(o.number, {}).get(study.metric))),
        Column("place", lambda o: (_place(front, o), _place(front, o), ""), words=True),
        *(of(name) for name in extra if name in measured),
        Column("noise", lambda o: (o.noise, o.noise, ""), words=True),
    ]


def _measured(measurement: Measurement | None) -> tuple[float | str, str, str]:
    if measurement is None:
        return "", "", ""
    return measurement.value, text(measurement), interval(measurement)


def _estimated(estimate: Estimate | None, unit: str) -> tuple[float | str, str, str]:
    if estimate is None:
        return "", "", ""
    low, high = estimate.low, estimate.high
    spread = "" if low == high else f"{low:.2f} to {high:.2f}"
    shown = times(estimate) if unit == "x" else quantity(estimate.value, unit)
    return estimate.value, shown, spread


def _place(front: Front, outcome: Outcome) -> str:
    """On the front, or why not."""
    why = front.why_not(outcome)
    if outcome.status == "complete":
        return front.standing(outcome)
    return outcome.status if why == outcome.status else f"{outcome.status}: {why}"


def _row(front: Front, columns: list[Column], outcome: Outcome) -> str:
    kind = "base" if outcome in front.uncompressed else "front" if outcome in front.members else ""
    cells = []
    for column in columns:
        value, shown, spread = column.cell(outcome)
        small = f"<small>{escape(spread)}</small>" if spread else ""
        cells.append(f'<td{column.css} data-value="{escape(str(value))}">{escape(shown)}{small}</td>')
    return f'<tr id="row-{outcome.number}" class="{kind}">{"".join(cells)}</tr>'


def _pick(front: Front, study: StudyRecord, name: str, outcome: Outcome) -> str:
    """A card: what it is, and what it gives against both baselines."""
    values = outcome.measurements
    tested = study.held_out.get(outcome.number, {}).get(study.metric)
    facts = {
        "over eager fp32": times(front.speedup(outcome, front.baseline)),
        "over the best uncompressed": times(front.speedup(outcome, front.best_uncompressed)),
        **{title(n): text(values[n]) for n in (LOSS, "latency_p90_ms", "size_mb") if n in values},
        f"{title(study.metric)} on the test split": text(tested) if tested else "",
    }
    big = ", ".join(text(values[t.objective]) for t in front.targets)
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items() if v)
    return (
        f'<div class="pick"><h3>{name.replace("-", " ")}</h3><div class="big">{escape(big)}</div>'
        f"<div>{escape(describe(outcome.recipe))}</div><dl>{listed}</dl>"
        f'<div class="faint">trial {outcome.number}, <code>models/{outcome.number}</code></div></div>'
    )


def _usage(front: Front, study: StudyRecord) -> str:
    """How to load the balanced pick and how to make it again."""
    if not front.picks:
        return "(no model yet)"
    number = front.picks["balanced"].number
    return (
        f'import search\nmodel = search.load("models/{number}")   # beside this file\n'
        f"\npython -m search check models/{number}          # does it still give what is recorded here?\n"
        "python -m search apply best-config.yaml    # make it again from the base model\n"
    )


def _facts(hardware: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The fingerprint, flat, without what is empty."""
    flat: list[tuple[str, str]] = []
    for name, value in hardware.items():
        if isinstance(value, Mapping):
            flat += [(f"{name}: {key}", str(inner)) for key, inner in value.items()]
        elif isinstance(value, list):
            shown = (", ".join(f"{k} {v}" for k, v in x.items()) if isinstance(x, Mapping) else str(x) for x in value)
            flat.append((name, ", ".join(shown)))
        else:
            flat.append((name, str(value)))
    return [(name, value) for name, value in flat if value]


def _fact(name: str, value: str) -> str:
    cells = (f'<td class="words">{escape(shown)}</td>' for shown in (name.replace("_", " "), value))
    return f"<tr>{''.join(cells)}</tr>"
