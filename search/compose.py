"""One search, from configuration to exported front: prepare, explore, finish. It can be resumed after an interrupt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from objectives import fork_server
from search.config.load import results_folder
from search.config.schema import RunConfig
from search.deadline import Clock, OutOfTime
from search.deliver import finalists, finishing_time, study_attributes
from search.deliver.export import export
from search.deliver.reload import reload
from search.errors import UserError
from search.execute.evaluate import Evaluator
from search.front.front import Front
from search.front.outcome import Outcome
from search.front.study_record import StudyRecord
from search.loop import Observer, explore
from search.measure.teacher_check import check_teacher
from search.prepare.prepared import Prepared
from search.prepare.runner import prepare
from search.propose.deployment_choice import DeploymentSelector, learner
from search.remeasure import measure_again
from search.report.progress import View
from search.run_log import current_log, log_start, run_log
from search.store.locks import check_writable, study_lock
from search.track.observer import Tracking
from spaces.recipe import digest_of

if TYPE_CHECKING:
    from search.propose.proposer import Proposer
    from search.propose.surrogate.cost_model import TableCostModel
    from search.track.tracker import RunStatus, Tracker

log = logging.getLogger(__name__)

#: What processes need that open a model, whatever its runtime. They are many, and each would import it again.
OPENING = ("spaces.build", "spaces.runtimes.eager", "transformers.models.auto.modeling_auto")


@dataclass(frozen=True)
class Result:
    """The result of a search: the front, its study, and where the files are."""

    front: Front
    study: StudyRecord
    exports: Path
    interrupted: str = ""  # why it ended early, or ""
    log: str = ""  # the study's log
    page: str = ""  # of the study in the MLflow UI, after its address


def run(config: RunConfig, view: View, retry_failed: bool = False, remeasure: bool = False) -> Result:
    """Run or resume a search. Finished trials are not repeated, except failed ones with `retry_failed`.

    With `remeasure` all trials of the study are measured again first, on this machine.

    Raises:
        UserError: the input is wrong; nothing was changed.
    """
    from search.propose.study import check_study, find_study
    from search.track.tracker import check_store

    fork_server.preload(*OPENING)
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

        def approve(prepared: Prepared) -> None:
            note = check_teacher(prepared, view.progress, clock.deadline)
            if note:
                view.say(f"      note: {note}")

        def say(line: str) -> None:
            view.say(f"      {line}")

        prepared = prepare(config, view.progress, clock.deadline, agree, approve, say)
        if remeasure:
            measure_again(prepared, view, clock)
        return _search(prepared, view, clock, retry_failed)


def _search(prepared: Prepared, view: View, clock: Clock, retry_failed: bool) -> Result:
    from search.propose.assembly import cost_model_of, proposer_of
    from search.track.tracker import tracking_uri

    config = prepared.config
    clock.before_s = study_attributes.spent_before(config)
    siblings = DeploymentSelector(prepared.space, [target.objective for target in prepared.targets])
    evaluate = Evaluator(prepared, view.progress, clock)
    cost_model = cost_model_of(prepared, evaluate.measurer, siblings, evaluate.weights_builder.stored_settings())
    if cost_model is None and config.sampler == "known-latency":
        view.say("      sampler: tpe (known-latency needs the metric and the time of a call or of its tokens for")
        view.say("      objectives, and a model whose layers are known)")
    proposer = proposer_of(prepared, config.budget.trials, siblings, cost_model, clock.left, retry_failed)
    front = _front_so_far(prepared, proposer, evaluate, view)
    tracking = Tracking(partial(_tracker_of, prepared), view.say, tracking_uri(Path(config.mlruns)))
    tracking.begin(front)
    reserve = _reserver(prepared, evaluate, clock, bool(proposer.left))
    reserve(front)
    learn = learner(siblings, prepared)
    for outcome in front.outcomes:
        learn(outcome, front)
        if cost_model is not None:
            cost_model.learn(outcome)
    keep_spent: Observer = partial(_keep_spent, config, clock)
    observers = (keep_spent, *_observers(view, proposer, evaluate, cost_model, learn, reserve, tracking))
    try:
        front, stopped = _explored(proposer, evaluate, front, observers, clock)
        if stopped:
            view.say(f"      stopped by {stopped}; exporting the front so far (the same command goes on)")
        result = finish_search(prepared, evaluate, front, view, clock, stopped)
        ending: RunStatus = "KILLED" if stopped == "Ctrl-C" else "FINISHED"
        for line in tracking.finish(result.front, result.study, result.exports, ending):
            view.say(line)
    except BaseException as error:
        tracking.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    result = replace(result, page=tracking.page, log=current_log())
    if proposer.exhausted:
        view.say("      every recipe the sampler can reach in this space is known")
    return result


def _keep_spent(config: RunConfig, clock: Clock, _: Outcome, __: Front) -> None:
    study_attributes.keep_spent(config, clock.study_seconds)


def _observers(
    view: View,
    proposer: Proposer,
    evaluate: Evaluator,
    cost_model: TableCostModel | None,
    learn: Observer,
    reserve: Callable[[Front], None],
    tracking: Tracking,
) -> tuple[Observer, ...]:
    """The observers of each trial, in the order in which they are called."""

    def keep_time(_: Outcome, now: Front) -> None:
        reserve(now)

    def forecast(_: Outcome, __: Front) -> None:
        view.forecast(proposer.gain)

    predictions = () if cost_model is None else (cost_model.observe,)
    return (*predictions, evaluate.observe, learn, keep_time, tracking.observe, forecast, view.observe)


def _front_so_far(prepared: Prepared, proposer: Proposer, evaluate: Evaluator, view: View) -> Front:
    """Store the study's record; the front of the trials that a resumed study has, relative to its references."""
    from search.propose.study import attribute

    config, results = prepared.config, Path(prepared.config.mlruns)
    study_attributes.begin(prepared, prepared.record(0.0))
    evaluate.measurer.recall(proposer.recalled)
    if proposer.recalled and proposer.left:
        view.say(f"      an equal search was here: the {len(proposer.recalled)} trials it had come first")
    front = Front(prepared.targets, proposer.outcomes)
    if proposer.left:  # new trials are timed, relative to the current reference
        study_attributes.keep_references(results, config.study, evaluate.measurer.times.references())
    return front.counted(
        study_attributes.read_references(attribute(results, config.study, study_attributes.REFERENCES))
    )


def _tracker_of(prepared: Prepared) -> Tracker:
    from search.propose.study import REMEASURED, attribute
    from search.track.tracker import Tracker

    config = prepared.config
    # A study that was measured again has another record, so earlier MLflow runs keep their figures.
    times = attribute(Path(config.mlruns), config.study, REMEASURED)
    measured = {REMEASURED: times} if times else {}
    tracker = Tracker(Path(config.mlruns), config.study, prepared.space.off)
    tracker.start(config.to_mapping(), prepared.environment, digest_of({**prepared.parts, **measured}))
    return tracker


def _explored(
    proposer: Proposer, evaluate: Evaluator, front: Front, observers: Sequence[Observer], clock: Clock
) -> tuple[Front, str]:
    """(the last front, why the search stopped early or "")."""
    limit = "" if clock.timeout is None else f"the time limit of {clock.timeout:g} s"
    last = [front]

    def keep_last(_: Outcome, now: Front) -> None:
        last[0] = now

    try:
        with clock.watching_ctrl_c():
            explore(proposer, evaluate, front, (keep_last, *observers))
    except OutOfTime:
        return last[0], limit
    except KeyboardInterrupt:
        return last[0], "Ctrl-C"
    if clock.interrupted:
        return last[0], "Ctrl-C"
    return last[0], limit if proposer.left and not clock.left() else ""


def finish_search(
    prepared: Prepared, evaluate: Evaluator, front: Front, view: View, clock: Clock, stopped: str
) -> Result:
    """Held-out quality and the final campaign, which decides the front again, then the export."""
    config = prepared.config
    exports = Path(config.mlruns) / "exports" / config.study
    study = prepared.record(clock.study_seconds)
    if front.members:
        front, study = finalists.measure_finalists(prepared, evaluate, front, study, view, clock)
        study = replace(study, seconds=clock.study_seconds)
    # Before the export, so that no timing is lost if that ends early.
    study_attributes.save_record(prepared, front, study)
    study_attributes.end(prepared)
    if front.members:
        view.progress("exporting", 0.0)
        export(front, study, exports, evaluate.measurer.exported)
        problems = reload(evaluate.measurer, front, exports, view, clock.left_s)
        if problems:
            raise RuntimeError("an exported model does not do what its record says: " + "; ".join(problems))
    return Result(front, study, exports, stopped)


def _reserver(prepared: Prepared, evaluate: Evaluator, clock: Clock, goes_on: bool) -> Callable[[Front], None]:
    """A function that keeps time for the finalists and the export, by what the trials so far have taken."""
    times = evaluate.measurer.times
    calls_s = {mark: ms.value / 1e3 for mark, ms in times.references().items()} if goes_on else {"": 0.0}
    plans = finishing_time.plans_of(times)
    share = len(prepared.split("test")) / len(prepared.split("validation"))

    def reserve(front: Front) -> None:
        held_out_s = finishing_time.held_out_seconds(front.outcomes, share)
        export_s = finishing_time.export_seconds(front.members)
        clock.reserve_s = finishing_time.seconds(prepared.config, plans, calls_s, held_out_s, export_s)

    return reserve
