"""Finalists after the search: results on the held-out split, and the final campaign."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from objectives import clock as clocks
from objectives.measurement import Measurement
from objectives.memory import PEAK_MEMORY
from objectives.reference_speed import as_timed
from objectives.workload import MARK, marked
from search.deadline import Clock
from search.deliver import verify as check
from search.deliver.finishing_time import TimeLeft, export_seconds, fitting, held_out_seconds, plans_of, plans_within
from search.deliver.study_attributes import load_record
from search.execute.evaluate import Evaluator
from search.front.final import Final
from search.front.front import Front
from search.front.outcome import CALL_TIMES, PREDICTED_TIMES, SPEEDUP, Outcome
from search.front.pareto import dominates
from search.front.study_record import StudyRecord
from search.measure.limits import broken
from search.measure.measurer import Measurer
from search.measure.openers import at_first_use
from search.measure.timing import BASELINE, Finalist
from search.prepare.prepared import Prepared
from search.report.progress import View
from search.store.paths import located
from search.store.store import Store, digest_in
from spaces.base import WEIGHTS
from spaces.recipe import digest_of

#: Candidates off the front that take part, because the loop's timing does not distinguish them from members.
NEAR_FRONT = 2


def finalists_of(front: Front) -> list[Outcome]:
    """The models of the campaign: both baselines, the picks, the members, and a few close candidates."""
    baselines = [o for o in (front.baseline, front.best_uncompressed) if o is not None]
    wanted = [*baselines, *front.picks.values(), *front.members, *_near(front)]
    return list({outcome.number: outcome for outcome in wanted}.values())


def _near(front: Front) -> list[Outcome]:
    """The candidates off the front that would be on it at the fast end of their intervals, the closest first.

    The intervals are of the times that are objectives.
    """
    timed = [i for i, t in enumerate(front.targets) if marked(t.objective)[0] in PREDICTED_TIMES]
    members = [front.point(o) for o in front.members]
    close: list[tuple[float, Outcome]] = []
    for outcome in front.eligible:
        if not timed or outcome in front.members:
            continue
        point = front.point(outcome)
        fastest = {i: point[i] * _fast_end(outcome, front.targets[i].objective) for i in timed}
        best = tuple(fastest.get(i, x) for i, x in enumerate(point))
        by = [member for member in members if dominates(member, point)]
        if by and not any(dominates(member, best) for member in members):
            close.append((max(point[i] / member[i] for member in by for i in timed), outcome))
    return [outcome for _, outcome in sorted(close, key=lambda pair: pair[0])[:NEAR_FRONT]]


def _fast_end(outcome: Outcome, objective: str) -> float:
    """The fast end of a time's interval, as a share of the time.

    The error of the reference is the same for all, so only what was measured of this candidate counts: of a call the
    ratio to the baseline, of the tokens of a generation their times by the clock.
    """
    plain, mark = marked(objective)
    if plain not in CALL_TIMES:
        clock = as_timed(outcome.measurements[objective])
        return clock.interval[0] / clock.value
    ratio = outcome.measurements.get(f"{SPEEDUP}{MARK}{mark}" if mark else SPEEDUP)
    return 1.0 if ratio is None else ratio.value / ratio.interval[1]


@dataclass
class Gathered:
    """Results of the finalists before the campaign, by trial."""

    held_out: dict[int, Mapping[str, Measurement]] = field(default_factory=dict)
    energy: dict[int, Mapping[str, Measurement]] = field(default_factory=dict)
    checks: dict[int, Path] = field(default_factory=dict)
    weights_sha256: dict[int, str] = field(default_factory=dict)
    remeasured: dict[int, Outcome] = field(default_factory=dict)
    ready: dict[int, tuple[Outcome, Path]] = field(default_factory=dict)
    late: dict[int, str] = field(default_factory=dict)


LATE = "the time limit leaves no time for them"


def measure_finalists(
    prepared: Prepared, evaluate: Evaluator, front: Front, study: StudyRecord, view: View, clock: Clock
) -> tuple[Front, StudyRecord]:
    """The front by the final campaign, and `study` with held-out results.

    The baselines and the picks come first. Members that the time limit of the run leaves no time for, beside the
    export, keep their quick timing. Weights that the store had dropped are trained again. Where that gives other
    weights, all their measurements are repeated (`StudyRecord.remeasured`), whatever the time limit. The campaign of an
    earlier run is reused only for the same finalists and weights under the same conditions.
    """
    earlier, before = load_record(prepared)
    evaluate.finishing = True
    gathered, time_left = Gathered(), _time_left(prepared, evaluate.measurer, front, clock)
    while True:  # weights that differ now may change the finalists
        wanted = finalists_of(front.replacing(gathered.remeasured))
        new = [o for o in wanted if o.number not in gathered.weights_sha256 and o.number not in gathered.late]
        if not new:
            break
        for outcome in new:
            view.progress(f"finalist {outcome.number}", len(gathered.weights_sha256) / len(wanted))
            _gather(evaluate, Path(prepared.config.mlruns), outcome, earlier, gathered, time_left)
    front = front.replacing(gathered.remeasured)
    digest = _digest(
        prepared, evaluate.measurer, [o for o in wanted if o.number in gathered.weights_sha256], gathered.weights_sha256
    )
    if before.digest == digest and not before.late:
        final = before
    else:
        final = _campaign(evaluate.measurer, front, gathered, view, time_left)
        final = replace(final, digest=digest if final.measurements else "")
        final = replace(
            final, measurements={n: {**m, **gathered.energy.get(n, {})} for n, m in final.measurements.items()}
        )
    study = replace(
        study,
        held_out=gathered.held_out,
        checks=gathered.checks,
        weights_sha256=gathered.weights_sha256,
        remeasured=gathered.remeasured,
    )
    return front.decided(final, partial(broken, prepared.config.limits, prepared.metric)), study


def _time_left(prepared: Prepared, measurer: Measurer, front: Front, clock: Clock) -> TimeLeft:
    """What the time limit leaves for the finalists, if every member of the front so far is exported."""
    share = len(prepared.split("test")) / len(prepared.split("validation"))
    held_out_s = held_out_seconds(front.outcomes, share)
    return TimeLeft(clock, export_seconds(front.members), plans_of(measurer.times), share, held_out_s)


def _gather(
    evaluate: Evaluator, results: Path, outcome: Outcome, earlier: StudyRecord, gathered: Gathered, time_left: TimeLeft
) -> None:
    """Gather one finalist: its weights, results on the held-out split, and outputs that a reload must reproduce."""
    number, measurer = outcome.number, evaluate.measurer
    here = weights_here(results, outcome)
    ready = [one for one, _ in gathered.ready.values()]
    in_time = not gathered.late and time_left.allows(outcome, ready)
    if not in_time and outcome.weights_sha256 in ("", here):
        if earlier.weights_sha256.get(number, "") == here != "":
            gathered.held_out[number], gathered.weights_sha256[number] = (
                earlier.held_out[number],
                earlier.weights_sha256[number],
            )
            gathered.checks |= {n: path for n, path in earlier.checks.items() if n == number and path.is_file()}
            gathered.remeasured |= {n: other for n, other in earlier.remeasured.items() if n == number}
        gathered.late[number] = LATE
        return
    folder = evaluate.weights(outcome.recipe)
    gathered.weights_sha256[number] = digest_in(folder, WEIGHTS)
    same_weights = earlier.weights_sha256.get(number) == gathered.weights_sha256[number]
    if outcome.weights_sha256 not in ("", gathered.weights_sha256[number]):
        again = earlier.remeasured.get(number) if same_weights else None
        outcome = gathered.remeasured[number] = again or evaluate.measured_again(outcome, folder)
        if outcome.status != "complete":
            return
    measurer.complete(outcome.recipe, folder)
    with at_first_use(partial(measurer.opened, outcome.recipe, folder)) as opened:
        output = measurer.output(outcome.recipe, folder, opened, "test")
        gathered.held_out[number] = (
            earlier.held_out[number] if same_weights else measurer.qualities(output, "test", outcome.recipe)
        )
        gathered.energy[number] = {} if same_weights else measurer.energy(opened)
        gathered.checks[number] = check.write_reference(measurer, outcome, folder, opened)
    gathered.ready[number] = outcome, folder


def _digest(prepared: Prepared, measurer: Measurer, timed: list[Outcome], weights_sha256: Mapping[int, str]) -> str:
    """Digest of all that a campaign depends on: models, weights, conditions and seconds."""
    times = measurer.times
    return digest_of(
        {
            "models": sorted([o.number, o.recipe.digest, weights_sha256[o.number]] for o in timed),
            "hardware": clocks.digest(prepared.environment),
            "workloads": {mark: times.inputs(mark)[1] for mark in ("", *times.marks)},
            "seconds": times.plan("").model_s(),
        }
    )


def _campaign(measurer: Measurer, front: Front, gathered: Gathered, view: View, time_left: TimeLeft) -> Final:
    """Time the finalists that are ready, as many as the time limit allows; empty where it allows none."""
    candidates = [outcome for outcome, _ in gathered.ready.values()]
    left_s = time_left.left_s
    count = fitting(time_left.plans, candidates, left_s)
    plans = plans_within(time_left.plans, candidates[:count], left_s)
    ready = dict(list(gathered.ready.items())[:count])
    members = {o.number for o in front.members}
    late = {n: LATE for n in (gathered.late.keys() | gathered.ready.keys()) - ready.keys() if n in members}
    baseline, best = front.baseline, front.best_uncompressed
    if (baseline is not None and baseline.number not in ready) or not ready.keys() & members:
        if late:
            view.say("      the time limit leaves no time for a final timing: the front keeps its quick timings")
        return Final()
    models: dict[int, Finalist] = {} if baseline is not None else {BASELINE: measurer.times.baseline_as()}
    for number, (outcome, folder) in ready.items():
        models[number] = measurer.finalist(outcome.recipe, folder, outcome.measurements.get(PEAK_MEMORY.name))
    anchors = dict.fromkeys(
        [BASELINE if baseline is None else baseline.number, *([] if best is None else [best.number])]
    )
    final, failed = measurer.times.final(
        models, [key for key in anchors if key in models], plans, lambda done: view.progress("final timing", done)
    )
    for number, why in failed.items():
        view.say(f"      {number} could not be timed again: {why}")
    late |= {number: why for number, why in failed.items() if number in members}
    if late:
        view.say(
            f"      {len(late)} members keep their quick timing, rescaled to the machine's speed in the final campaign "
            f"({'; '.join(dict.fromkeys(late.values()))})"
        )
    return replace(final, late=late)


def weights_here(results: Path, outcome: Outcome) -> str:
    """SHA-256 of a trial's stored weights, which stay for its export; "" where there are none as they were made."""
    folder = located(results, outcome.folder)
    try:
        digest = digest_in(folder, WEIGHTS)
    except (OSError, ValueError, KeyError):
        return ""
    return digest if Store(results / "cache").use(folder) else ""
