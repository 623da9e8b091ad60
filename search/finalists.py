"""The front's members after the search: the held-out split, the long timing, and the reload of what was exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from objectives import clock as clocks
from objectives import latency
from objectives.measurement import Measurement
from search import check
from search.config import RunConfig
from search.evaluate import Evaluator
from search.export import model_folder
from search.front import Front
from search.measurer import at_first_use
from search.report import Study
from search.setting import Setting
from search.view import View

if TYPE_CHECKING:
    from search.session import Clock

#: What a finalist costs beside its timing: the held-out split, copying, reloading; and every pair of fresh processes.
OVERHEAD_S = 12.0
FRESH_PAIR_S = 4.0
EXPECTED = 6


def seconds(config: RunConfig) -> float:
    """Time to keep for the finalists of a run with a time limit: what they usually take, at most a third of it."""
    usual = EXPECTED * (config.measure.final_s + latency.LONG.processes * FRESH_PAIR_S + OVERHEAD_S)
    return usual if config.budget.timeout is None else min(usual, config.budget.timeout / 3)


def measure(setting: Setting, evaluate: Evaluator, front: Front, study: Study, view: View, clock: Clock) -> Study:
    """`study` with held-out results and final timings; members measured by an earlier run keep theirs.

    The picks come first: when the run's time limit passes, the members that are left keep their quick timing.
    """
    known = remembered(setting)
    evaluate.finishing = True
    measurer = evaluate.measurer
    held_out: dict[int, Mapping[str, Measurement]] = {}
    final: dict[int, Mapping[str, Measurement]] = {}
    checks: dict[int, Path] = {}
    best = front.best_uncompressed
    wanted = {o.number: o for o in (*front.picks.values(), *(() if best is None else (best,)), *front.members)}
    for done, outcome in enumerate(wanted.values()):
        if clock.over():
            view.say(f"      the time limit passed: {len(wanted) - done} members keep their quick timing")
            break
        number = outcome.number
        view.progress(f"finalist {number}", done / len(wanted))
        folder = evaluate.weights(outcome.recipe)
        with at_first_use(partial(measurer.opened, outcome.recipe, folder)) as opened:
            logits = measurer.logits(outcome.recipe, folder, opened, "test")
            remembered_here = number in known[0] and number in known[1]
            held_out[number] = known[0][number] if remembered_here else measurer.qualities(logits, "test")
            energy = {} if remembered_here else measurer.energy(opened)
            checks[number] = check.write_reference(measurer, outcome, folder, opened)
        timed = known[1][number] if remembered_here else measurer.final_timings(outcome.recipe, folder)
        final[number] = {**timed, **energy}
    return replace(study, held_out=held_out, final=final, checks=checks)


def remember(setting: Setting, study: Study) -> None:
    """Keep in the study what `front` and `export` show later."""
    from search.propose.study import set_attribute

    about = {
        "config": dict(study.config),
        "hardware": dict(study.hardware),
        "rows": dict(study.rows),
        "seconds": study.seconds,
        "held_out": _plain(study.held_out),
        "final": _plain(study.final),
        "checks": {str(n): str(path) for n, path in study.checks.items()},
    }
    set_attribute(Path(setting.config.mlruns), setting.config.study, "about", about)


def spent_before(config: RunConfig) -> float:
    """Seconds that earlier runs of this study took, as far as they came to an end."""
    from search.propose.study import attribute

    about = attribute(Path(config.mlruns), config.study, "about")
    return 0.0 if about is None else float(about["seconds"])


def remembered(
    setting: Setting,
) -> tuple[dict[int, Mapping[str, Measurement]], dict[int, Mapping[str, Measurement]]]:
    """(held out, final) of trials that an earlier run of this study finished, on this same machine."""
    from search.propose.study import attribute

    about = attribute(Path(setting.config.mlruns), setting.config.study, "about")
    if about is None or clocks.difference(about["hardware"], setting.environment):
        return {}, {}
    found: list[dict[int, Mapping[str, Measurement]]] = []
    for name in ("held_out", "final"):
        found.append({int(n): {k: Measurement.from_json(m) for k, m in ms.items()} for n, ms in about[name].items()})
    return found[0], found[1]


def reload(setting: Setting, front: Front, exports: Path, view: View) -> list[str]:
    """Load every exported model in a fresh process and compare its outputs with its record; what is wrong.

    Its latency is held against the record too; where it is outside the interval a line says so, and no more than
    that: the machine may have changed since.
    """
    problems = []
    lengths = setting.split("validation")[0].lengths.tolist()
    for done, outcome in enumerate(front.members):
        view.progress(f"reloading {outcome.number}", done / len(front.members))
        folder = model_folder(exports, outcome)
        found, strays = check.after_export(folder, lengths)
        if found.problem:
            problems.append(f"{outcome.number}: {found.problem}")
        elif strays:
            view.say(f"      {outcome.number} after export: {strays}")
    return problems


def _plain(found: Mapping[int, Mapping[str, Measurement]]) -> dict[str, dict[str, object]]:
    return {str(n): {k: m.to_json() for k, m in ms.items()} for n, ms in found.items()}
