"""One search from configuration to exported front: prepare, explore, finish. Survives an interrupt at any point."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from search import compose, finalists
from search.compare import Estimate
from search.config import STUDY, RunConfig, results_folder
from search.errors import UserError, wrong
from search.evaluate import Evaluator, OutOfTime
from search.export import export
from search.final import Final
from search.front import LATENCY, LOSS, Front, Outcome
from search.knowledge import TableKnowledge
from search.known import Known, UnknownAnatomy
from search.limits import broken
from search.lock import check_writable, study_lock
from search.loop import Observer, explore
from search.measurer import Measurer
from search.proposing import informed, proposer_of
from search.remeasure import measure_again
from search.report import Study
from search.run_log import here, log_start, run_log
from search.sections import LimitsConfig
from search.setting import Setting
from search.space import Params
from search.teacher_check import check_teacher
from search.tracking import Tracking
from search.view import View
from spaces import build
from spaces.recipe import digest_of

if TYPE_CHECKING:
    from search.propose import Proposer
    from search.track import Ending, Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a search leaves: the front, what is said beside it, and where its files are."""

    front: Front
    study: Study
    exports: Path
    interrupted: str = ""  # why it ended early, or ""
    log: str = ""  # the study's log
    page: str = ""  # of the study in the MLflow UI, after its address


class Clock:
    """The run's own time limit. `reserve_s` of it is kept for the finalists and the export."""

    def __init__(self, timeout: float | None) -> None:
        self.began, self.timeout = time.monotonic(), timeout
        self.deadline = None if timeout is None else self.began + timeout
        self.reserve_s = 0.0
        self.interrupted = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def search_deadline(self) -> float | None:
        return None if self.deadline is None else self.deadline - self.reserve_s

    @staticmethod
    def now() -> float:
        """The time that `deadline` is a moment of."""
        return time.monotonic()

    def over(self) -> bool:
        """Whether the whole run's time is up."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def left(self) -> bool:
        """Whether there is time for another candidate."""
        return not self.interrupted and (self.search_deadline is None or time.monotonic() < self.search_deadline)

    @contextmanager
    def watching_ctrl_c(self) -> Iterator[None]:
        """Remember a Ctrl-C, because Python drops the exception where it falls into a destructor."""

        def remember(number: int, frame: FrameType | None) -> None:
            self.interrupted = True
            signal.default_int_handler(number, frame)

        if threading.current_thread() is not threading.main_thread():  # only there can a handler be set
            yield
            return
        before = signal.signal(signal.SIGINT, remember)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def run(config: RunConfig, view: View, retry_failed: bool = False, remeasure: bool = False) -> Result:
    """Search, or go on with a search: nothing that is finished is repeated, but what failed with `retry_failed`.

    With `remeasure` all that the study holds is measured again first, on this machine.

    Raises:
        UserError: the input is wrong; nothing was changed.
    """
    from search.propose.study import check_study, find_study
    from search.track import check_store

    with results_folder(config) as folder, study_lock(folder, config.study), run_log(folder, config.study):
        log_start(config.to_mapping())
        check_writable(folder / "optuna.db")
        check_store(folder)
        clock = Clock(config.budget.timeout)
        if remeasure and find_study(folder, config.study) is None:
            raise UserError(
                f"--remeasure: needs a study to measure again, and there is no {config.study!r} in {folder}"
            )
        agree = partial(check_study, folder, config.study, remeasure=remeasure)

        def approve(setting: Setting) -> None:
            note = check_teacher(setting, view.progress, clock.deadline)
            if note:
                view.say(f"      note: {note}")

        def say(line: str) -> None:
            view.say(f"      {line}")

        setting = compose.prepare(config, view.progress, clock.deadline, agree, approve, say)
        if remeasure:
            measure_again(setting, view, clock)
        return _search(setting, view, clock, retry_failed)


def _search(setting: Setting, view: View, clock: Clock, retry_failed: bool) -> Result:
    from search.propose.study import attribute
    from search.track import tracking_uri

    config = setting.config
    siblings = compose.Siblings(setting.space)
    evaluate = Evaluator(setting, view.progress, clock)
    knowledge = knowledge_of(setting, evaluate.measurer, siblings, evaluate.maker.made())
    if knowledge is None and config.sampler == "known-latency":
        view.say("      sampler: tpe (known-latency needs the task's metric and latency_p50_ms for objectives, and a")
        view.say("      model whose layers are known)")
    proposer = proposer_of(
        setting, config.budget.trials, siblings, knowledge, clock.left, evaluate.maker.is_made, retry_failed
    )
    finalists.begin(setting, study_of(setting, 0.0))
    evaluate.measurer.recall(proposer.recalled)
    if proposer.recalled and proposer.left:
        view.say(f"      an equal search was here: the {len(proposer.recalled)} trials it had come first")
    front = Front(setting.targets, proposer.outcomes)
    results = Path(config.mlruns)
    if proposer.left:  # more will be timed, and counted by the reference of now
        finalists.keep_references(results, config.study, evaluate.measurer.times.references())
    front = front.counted(finalists.read_references(attribute(results, config.study, finalists.REFERENCES)))
    tracking = Tracking(partial(_tracker_of, setting), view.say, tracking_uri(Path(config.mlruns)))
    tracking.begin(front)
    clock.reserve_s = finalists.seconds(config)
    learn = _learner(siblings)
    for outcome in front.outcomes:
        learn(outcome, front)
        if knowledge is not None:
            knowledge.learn(outcome)

    def forecast(_: Outcome, __: Front) -> None:
        view.forecast(proposer.gain)

    known = () if knowledge is None else (knowledge.observe,)
    observers = (*known, evaluate.observe, learn, tracking.observe, forecast, view.observe)
    try:
        front, stopped = _explored(proposer, evaluate, front, observers, clock)
        if stopped:
            view.say(f"      stopped by {stopped}; exporting the front so far (the same command goes on)")
        result = finish(setting, evaluate, front, view, clock, stopped)
        ending: Ending = "KILLED" if stopped == "Ctrl-C" else "FINISHED"
        for line in tracking.finish(result.front, result.study, result.exports, ending):
            view.say(line)
    except BaseException as error:
        tracking.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    result = replace(result, page=tracking.page, log=here())
    if proposer.exhausted:
        view.say("      every recipe the sampler can reach in this space is known")
    return result


def _tracker_of(setting: Setting) -> Tracker:
    from search.propose.study import REMEASURED, attribute
    from search.track import Tracker

    config = setting.config
    # What was measured again is another record: runs of before keep what they say.
    times = attribute(Path(config.mlruns), config.study, REMEASURED)
    measured = {REMEASURED: times} if times else {}
    tracker = Tracker(Path(config.mlruns), config.study, setting.space.off)
    tracker.start(config.to_mapping(), setting.environment, digest_of({**setting.parts, **measured}))
    return tracker


def _explored(
    proposer: Proposer, evaluate: Evaluator, front: Front, observers: Sequence[Observer], clock: Clock
) -> tuple[Front, str]:
    """(the last front, what stopped the search early or "")."""
    limit = "" if clock.timeout is None else f"the time limit of {clock.timeout:g} s"
    latest = [front]

    def remember(_: Outcome, now: Front) -> None:
        latest[0] = now

    try:
        with clock.watching_ctrl_c():
            explore(proposer, evaluate, front, (remember, *observers))
    except OutOfTime:
        return latest[0], limit
    except KeyboardInterrupt:
        return latest[0], "Ctrl-C"
    if clock.interrupted:
        return latest[0], "Ctrl-C"
    return latest[0], limit if proposer.unfinished and not clock.left() else ""


def knowledge_of(
    setting: Setting, measurer: Measurer, siblings: compose.Siblings, made: Sequence[Params] = ()
) -> TableKnowledge | None:
    """What is known before training; None where the search is about something else, or the model's shape is unknown."""
    if not informed(setting):
        return None
    try:
        return TableKnowledge(setting, Known(setting, measurer), siblings, made)
    except UnknownAnatomy as reason:
        log.info("sampler: %s", reason)
        return None


def finish(setting: Setting, evaluate: Evaluator, front: Front, view: View, clock: Clock, stopped: str) -> Result:
    """Held-out quality and the final campaign, which decides the front again, then the export."""
    config = setting.config
    front = replace(front, outcomes=tuple(o for o in front.outcomes if o.status != "paused"))
    exports = Path(config.mlruns) / "exports" / config.study
    before = finalists.spent_before(config)
    study = study_of(setting, before + clock.seconds)
    if front.members:
        front, study = finalists.measure(setting, evaluate, front, study, view, clock)
        study = replace(study, seconds=round(before + clock.seconds, 1))
    finalists.remember(setting, front, study)  # before the export, so that no timing is lost if that ends early
    finalists.end(setting)
    if front.members:
        view.progress("exporting", 0.0)
        export(front, study, exports, evaluate.measurer.exported)
        problems = finalists.reload(evaluate.measurer, front, exports, view)
        if problems:
            raise RuntimeError("an exported model does not do what its record says: " + "; ".join(problems))
    return Result(front, study, exports, stopped)


def study_of(setting: Setting, seconds: float) -> Study:
    rows = {name: int(count) for name, count in setting.about_data["rows"].items()}
    return Study(setting.config.to_mapping(), dict(setting.environment), rows=rows, seconds=round(seconds, 1))


def _learner(siblings: compose.Siblings) -> Callable[[Outcome, Front], None]:
    """An observer that tells `siblings` what the baselines measured, once there are any."""
    seen: dict[tuple[str, str], tuple[Estimate, float]] = {}

    def learn(outcome: Outcome, _: Front) -> None:
        if outcome.baseline and outcome.status == "complete":
            pair = (outcome.recipe.runtime.name, str(build.precision_of(outcome.recipe)["width"]))
            seen[pair] = (Estimate.of(outcome.measurements[LOSS]), outcome.value(LATENCY))
            siblings.learn(seen)

    return learn


def stored(mlruns: Path, name: str) -> tuple[Front, Study]:
    """The front and the study of a search from its record: as it ended, or as far as it is.

    Raises:
        UserError: there is none of that name, or it is no name of a study.
    """
    from search.propose.study import read_outcomes
    from search.setting import targets_of

    if not STUDY.holds(name):  # it becomes a folder's name, and a database that came from elsewhere may hold any
        raise wrong("STUDY", STUDY.text, name)
    attributes, outcomes = read_outcomes(mlruns, name)
    about, begun = attributes.get("about"), attributes.get(finalists.BEGUN)
    if about is None and begun is None:
        raise UserError(f"STUDY: {name!r} has no trial yet; go on with it: python -m search run --study {name}")
    outcomes = [outcome for outcome in outcomes if outcome.status != "paused"]
    told = {**finalists.NOTHING_FINAL, **(begun or {}), **(about or {})}
    study = finalists.read_study({**told["config"], "mlruns": str(mlruns.absolute())}, told)
    if begun is not None and begun["run"] != attributes.get(finalists.ENDED):
        total = begun["config"]["budget"]["trials"]
        study = replace(study, unfinished=f"{len(outcomes)} of {total} trials so far")
    checks = {n: path for n, path in study.checks.items() if path.is_file()}
    limits = partial(broken, LimitsConfig(**study.config["limits"]), study.metric)
    front = Front(targets_of(study.config["objectives"], study.config["metric"]), tuple(outcomes))
    front = front.counted(finalists.read_references(attributes.get(finalists.REFERENCES)))
    front = front.renewed(study.renewed).decided(Final.from_json(told["final"]), limits)
    return front, replace(study, checks=checks)
