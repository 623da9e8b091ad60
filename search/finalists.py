"""The front's members after the search: the held-out split, the long timing, and the reload of what was exported."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from objectives import clock as clocks
from objectives import latency
from objectives.measurement import Measurement
from search import check
from search.config import RunConfig
from search.evaluate import Evaluator
from search.export import model_folder
from search.front import Front, Outcome
from search.measurer import at_first_use
from search.report import Study
from search.results import located
from search.setting import Setting
from search.store import digest_in
from search.view import View
from spaces.base import WEIGHTS

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

    The picks come first: when the run's time limit passes, the members that are left keep what an earlier run measured,
    or their quick timing. Weights that the store had dropped are made again; where they are other numbers then, all
    that was measured of them is measured again (`Study.renewed`), late or not: no record is of other weights.
    """
    known = remembered(setting)
    evaluate.finishing = True
    measurer = evaluate.measurer
    held_out: dict[int, Mapping[str, Measurement]] = {}
    final: dict[int, Mapping[str, Measurement]] = {}
    checks: dict[int, Path] = {}
    made: dict[int, str] = {}
    renewed: dict[int, Outcome] = {}
    best = front.best_uncompressed
    wanted = {o.number: o for o in (*front.picks.values(), *(() if best is None else (best,)), *front.members)}
    late = 0
    for done, outcome in enumerate(wanted.values()):
        number = outcome.number
        here = _weights_here(Path(setting.config.mlruns), outcome)
        if clock.over() and outcome.made in ("", here):
            if known.made.get(number, "") == here != "":
                held_out[number], final[number] = known.held_out[number], known.final[number]
                made[number] = known.made[number]
                checks |= {n: path for n, path in known.checks.items() if n == number and path.is_file()}
                renewed |= {n: found for n, found in known.renewed.items() if n == number}
            else:
                late += 1
            continue
        view.progress(f"finalist {number}", done / len(wanted))
        folder = evaluate.weights(outcome.recipe)
        made[number] = digest_in(folder, WEIGHTS)
        remembered_here = known.made.get(number) == made[number]
        if outcome.made not in ("", made[number]):
            again = known.renewed.get(number) if remembered_here else None
            renewed[number] = again or evaluate.again(outcome, folder)
        measurer.complete(outcome.recipe, folder)
        with at_first_use(partial(measurer.opened, outcome.recipe, folder)) as opened:
            logits = measurer.logits(outcome.recipe, folder, opened, "test")
            held_out[number] = known.held_out[number] if remembered_here else measurer.qualities(logits, "test")
            energy = {} if remembered_here else measurer.energy(opened)
            checks[number] = check.write_reference(measurer, outcome, folder, opened)
        timed = known.final[number] if remembered_here else measurer.final_timings(outcome.recipe, folder)
        final[number] = {**timed, **energy}
    if late:
        view.say(f"      the time limit passed: {late} members keep their quick timing")
    return replace(study, held_out=held_out, final=final, checks=checks, made=made, renewed=renewed)


def _weights_here(results: Path, outcome: Outcome) -> str:
    """SHA-256 of the weights that are stored of a trial now; "" where there are none."""
    try:
        return digest_in(located(results, outcome.folder), WEIGHTS)
    except (OSError, ValueError, KeyError):
        return ""


#: Attributes of a study: what its last run is about, and which run was the last to end.
BEGUN, ENDED = "begun", "ended"
#: What `read_study` is given of a study that has no finalists yet.
NOTHING_FINAL: Mapping[str, Any] = {"seconds": 0.0, "final": {}, "held_out": {}, "checks": {}}


def begin(setting: Setting, study: Study) -> None:
    """Keep in the study what `front` and `export` show of it before it has ended."""
    from search.propose.study import set_attribute

    about = {"config": dict(study.config), "hardware": dict(study.hardware), "rows": dict(study.rows)}
    set_attribute(Path(setting.config.mlruns), setting.config.study, BEGUN, {**about, "run": uuid.uuid4().hex})


def end(setting: Setting) -> None:
    """What `begin` was told of is at its end."""
    from search.propose.study import attribute, set_attribute

    folder, name = Path(setting.config.mlruns), setting.config.study
    begun = attribute(folder, name, BEGUN)
    if begun is not None:
        set_attribute(folder, name, ENDED, begun["run"])


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
        "checks": {str(n): setting.written(path) for n, path in study.checks.items()},
        "made": {str(n): digest for n, digest in study.made.items()},
        "renewed": {str(n): outcome.to_json() for n, outcome in study.renewed.items()},
    }
    set_attribute(Path(setting.config.mlruns), setting.config.study, "about", about)


def read_study(config: Mapping[str, Any], about: Mapping[str, Any]) -> Study:
    """What `remember` kept, under a configuration."""
    final, held_out = (
        {int(n): {k: Measurement.from_json(m) for k, m in ms.items()} for n, ms in about[name].items()}
        for name in ("final", "held_out")
    )
    return Study(
        config,
        about["hardware"],
        rows=about["rows"],
        held_out=held_out,
        final=final,
        checks={int(n): located(Path(config["mlruns"]), path) for n, path in about["checks"].items()},
        made={int(n): digest for n, digest in about.get("made", {}).items()},
        renewed={int(n): Outcome.from_json(outcome) for n, outcome in about.get("renewed", {}).items()},
        seconds=about["seconds"],
    )


def spent_before(config: RunConfig) -> float:
    """Seconds that earlier runs of this study took, as far as they came to an end."""
    from search.propose.study import attribute

    about = attribute(Path(config.mlruns), config.study, "about")
    return 0.0 if about is None else float(about["seconds"])


def remembered(setting: Setting) -> Study:
    """What an earlier run of this study measured of its finalists, on this same machine; nothing if there was none."""
    from search.propose.study import attribute

    about = attribute(Path(setting.config.mlruns), setting.config.study, "about")
    if about is None or clocks.difference(about["hardware"], setting.environment):
        return Study(setting.config.to_mapping(), dict(setting.environment))
    return read_study({**about["config"], "mlruns": setting.config.mlruns}, about)


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
