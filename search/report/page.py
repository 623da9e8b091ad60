"""The front as one self-contained HTML file, without network or other files.

The page is the template `templates/front.html.j2`; this module prepares the plain values that it shows.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from objectives.estimate import Estimate
from objectives.kv_cache import A_TOKEN
from objectives.measurement import Measurement
from objectives.roofline import STEP_FRACTION
from search.front.formatting import chance, describe, in_time, interval, quantity, text, times, title
from search.front.front import Front
from search.front.outcome import CALL_TIMES, LATENCY, LOSS, Outcome
from search.front.study_record import StudyRecord
from search.report.cache_sentences import slower_caches
from search.report.plot import BASELINE_COLOUR, FAINT, FRONT_COLOUR, INK, front_svg
from search.report.text import BITS_A_BYTE, bits_a_byte, census, further_metrics, headline, ties_text

if TYPE_CHECKING:
    from jinja2 import Template

#: The colours of the picture as variables of the page's style, so that the picture follows light and dark too.
THEME = {
    FRONT_COLOUR: "--front",
    BASELINE_COLOUR: "--base",
    INK: "--ink",
    FAINT: "--faint",
    "#ffffff": "--paper",
    "white": "--paper",
}


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("search.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("front.html.j2")


def front_html(front: Front, study: StudyRecord) -> str:
    """The whole page."""
    columns = _columns(front, study)
    others = [o for o in front.outcomes if o not in front.members]
    order = [*front.members, *sorted(others, key=lambda o: (o.status != "complete", o.number))]
    return _template().render(
        study=study.name,
        headline=headline(front),
        model=study.config["model"]["name"],
        task=study.config["task"],
        rows=", ".join(f"{count:,} {split} rows" for split, count in study.rows.items()) or "rows unknown",
        device=study.device,
        workload=study.workload,
        census=census(front),
        picks=[_pick(front, study, name, outcome) for name, outcome in front.picks.items()],
        picture=_themed(front_svg(front)),
        time="" if front.time == LATENCY else title(front.time),
        ties=ties_text(front),
        slower=slower_caches(front),
        notes=study.notes,
        columns=columns,
        trials=[_trial(front, columns, outcome) for outcome in order],
        balanced=front.picks["balanced"].number if front.picks else None,
        hardware=_facts(study.hardware),
    )


def _themed(svg: str) -> str:
    """`svg` with each colour of `THEME` in its style attributes as the page's variable."""
    colours = "|".join(THEME)
    return re.sub(rf"(fill|stroke): ({colours})\b", lambda m: f"{m[1]}: var({THEME[m[2]]})", svg)


@dataclass(frozen=True)
class Cell:
    """One cell of the table of trials: the value it is sorted by, its text and its interval."""

    sort: float | str = ""
    text: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Column:
    """One column of the table of trials; `kind` is its CSS class."""

    head: str
    cell: Callable[[Outcome], Cell]
    kind: str = ""


def _columns(front: Front, study: StudyRecord) -> list[Column]:
    """The measurements that trials are compared in: the targets, then others that most models have."""
    names = [t.objective for t in front.targets]
    time = () if set(names) & set(CALL_TIMES) else (LATENCY,)
    counted = ("size_mb", "params", "peak_memory_mb", A_TOKEN.name, STEP_FRACTION.name)
    common = (study.metric, *further_metrics(front, study), *time, *counted)
    extra = [name for name in common if name not in names]
    measured = {name for o in front.outcomes for name in o.measurements}
    bits = any(bits_a_byte(study, number) for number in study.held_out)

    def of(name: str) -> Column:
        return Column(title(name), lambda o: _measured(o.measurements.get(name)))

    def estimated(head: str, unit: str, estimate: Callable[[Outcome], Estimate | None]) -> Column:
        return Column(head, lambda o: _estimated(estimate(o) if o.status == "complete" else None, unit))

    def words(head: str, say: Callable[[Outcome], str], kind: str = "words") -> Column:
        return Column(head, lambda o: Cell(say(o), say(o)), kind)

    return [
        Column("trial", lambda o: Cell(o.number, str(o.number))),
        words("recipe", lambda o: describe(o.recipe), "words recipe"),
        *(of(name) for name in names),
        estimated(in_time("x eager", front.time), "x", lambda o: front.speedup(o, front.baseline)),
        estimated(in_time("x best", front.time), "x", lambda o: front.speedup(o, front.best_uncompressed)),
        Column(f"loss ({front.loss_unit})", lambda o: _lost(front, o)),
        Column("test", lambda o: _measured(study.held_out.get(o.number, {}).get(study.metric))),
        *([Column(BITS_A_BYTE, lambda o: _bits(study, o))] if bits else []),
        *(of(name) for name in extra if name in measured),
        words("place", lambda o: _place(front, o)),
        *([words("noise", lambda o: o.noise)] if any(o.noise for o in front.outcomes) else []),
    ]


def _measured(measurement: Measurement | None) -> Cell:
    return Cell(measurement.value, text(measurement), interval(measurement)) if measurement else Cell()


def _estimated(estimate: Estimate | None, unit: str) -> Cell:
    if estimate is None:
        return Cell()
    low, high = estimate.low, estimate.high
    spread = "" if low == high else f"{low:.2f} to {high:.2f}"
    return Cell(estimate.value, times(estimate) if unit == "x" else quantity(estimate.value, unit), spread)


def _bits(study: StudyRecord, outcome: Outcome) -> Cell:
    bits = bits_a_byte(study, outcome.number)
    return Cell() if bits is None else Cell(bits, f"{bits:.3f}")


def _lost(front: Front, outcome: Outcome) -> Cell:
    """The loss with its interval, and how likely it is by chance."""
    cell = _estimated(front.loss(outcome) if outcome.status == "complete" else None, "")
    p = outcome.measurements[LOSS].conditions.get("p") if LOSS in outcome.measurements else None
    return cell if p is None else replace(cell, interval=", ".join(filter(None, (cell.interval, f"p {p:.2g}"))))


def _place(front: Front, outcome: Outcome) -> str:
    """Whether an outcome is on the front, or why not."""
    why = front.why_not(outcome)
    if outcome.status == "complete":
        return front.standing(outcome)
    return outcome.status if why == outcome.status else f"{outcome.status}: {why}"


def _trial(front: Front, columns: list[Column], outcome: Outcome) -> dict[str, Any]:
    """A row of the table of trials."""
    kind = "base" if outcome in front.uncompressed else "front" if outcome in front.members else ""
    return {"number": outcome.number, "kind": kind, "cells": [column.cell(outcome) for column in columns]}


def _pick(front: Front, study: StudyRecord, name: str, outcome: Outcome) -> dict[str, Any]:
    """A card: the pick, and its speedups and loss against both baselines."""
    values = outcome.measurements
    tested = study.held_out.get(outcome.number, {}).get(study.metric)
    facts = {
        in_time("over eager fp32", front.time): times(front.speedup(outcome, front.baseline)),
        in_time("over the best uncompressed", front.time): times(front.speedup(outcome, front.best_uncompressed)),
        **{title(n): text(values[n]) for n in (LOSS, "latency_p90_ms", "size_mb") if n in values},
        f"{title(LOSS)} by chance": chance(values[LOSS]) if LOSS in values else "",
        f"{title(study.metric)} on the test split": text(tested) if tested else "",
    }
    return {
        "name": name.replace("-", " "),
        "number": outcome.number,
        "figures": ", ".join(text(values[t.objective]) for t in front.targets),
        "recipe": describe(outcome.recipe),
        "facts": {fact: value for fact, value in facts.items() if value},
    }


def _facts(hardware: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The fingerprint of the hardware as (name, value), without what is empty."""
    flat: list[tuple[str, str]] = []
    for name, value in hardware.items():
        if isinstance(value, Mapping):
            flat += [(f"{name}: {key}", str(inner)) for key, inner in value.items()]
        elif isinstance(value, list):
            parts = (", ".join(f"{k} {v}" for k, v in x.items()) if isinstance(x, Mapping) else str(x) for x in value)
            flat.append((name, ", ".join(parts)))
        else:
            flat.append((name, str(value)))
    return [(name.replace("_", " "), value) for name, value in flat if value]
