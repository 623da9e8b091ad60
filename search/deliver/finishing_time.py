"""Predicted seconds of the end of a search: results on the held-out split, the final campaign, and the export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from objectives.campaign import CampaignPlan
from objectives.latency import FIRST_CALL, PREPARE, under
from objectives.size import SIZE
from search.config.schema import RunConfig
from search.deadline import Clock
from search.front.outcome import LATENCY, Outcome
from search.measure.timing import Timings
from search.tasks import task_named

#: Seconds to start the process of a model, without its loading and its first call, which were measured.
OPENING_S = 1.5
#: Seconds that a finalist costs in addition to its blocks and the held-out split, where its export is not predicted.
OVERHEAD_S = 4.0
#: Seconds of an export without its models: the page, the picture, the tables, and MLflow's record.
REPORTS_S = 2.0
#: Seconds of each exported model without its loading and its files: its record, a process, the check of its outputs.
RECORD_S = 0.3
#: MB a second: files of a model are linked or copied to the export and to MLflow, and read again for their digests.
COPIED_MB_S = 60.0
EXPECTED = 8
ASSUMED_SPEEDUP = 3.0

CampaignPlans = Mapping[str, CampaignPlan]  # by the mark of the workload, "" for the main one


def plans_of(times: Timings) -> CampaignPlans:
    """The plans of the final campaigns."""
    return {mark: times.plan(mark) for mark in ("", *times.marks)}


def seconds(
    config: RunConfig, plans: CampaignPlans, calls_s: Mapping[str, float], held_out_s: float, export_s: float = 0.0
) -> float:
    """Seconds to reserve for the end of a run with a time limit: its usual time, at most a third of the limit.

    An export that is expected to take more than that third has its time too, up to half of the limit.

    Args:
        plans: of the final campaigns, by the mark of the workload.
        calls_s: seconds of a call of the baseline, by the mark of the workload; the others are assumed to be
            `ASSUMED_SPEEDUP` times as fast.
        held_out_s: seconds of one model's predictions of the held-out split.
        export_s: predicted seconds of the export of the front so far (`export_seconds`).
    """
    usual_s = EXPECTED * held_out_s + max(EXPECTED * OVERHEAD_S, export_s)
    for mark, call_s in calls_s.items():
        plan = plans[mark]
        usual_s += plan.model_s(call_s) + (EXPECTED - 1) * plan.model_s(call_s / ASSUMED_SPEEDUP)
        usual_s += EXPECTED * plan.sets * OPENING_S
    limit_s = config.budget.timeout
    return usual_s if limit_s is None else max(min(usual_s, limit_s / 3), min(export_s, limit_s / 2))


def least_seconds(config: RunConfig) -> float:
    """Seconds to reserve for an export where nothing is known of the front: at most a third of the limit."""
    usual_s = REPORTS_S + EXPECTED * OVERHEAD_S
    return usual_s if config.budget.timeout is None else min(usual_s, config.budget.timeout / 3)


def held_out_seconds(outcomes: Sequence[Outcome], share: float) -> float:
    """Expected seconds of a model's predictions of the held-out split, from the mean seconds on validation.

    Args:
        share: rows of the held-out split divided by rows of validation.
    """
    spent = [s for outcome in outcomes if (s := outcome.seconds.get("quality", 0.0)) > 0]
    return share * sum(spent) / len(spent) if spent else 0.0


def opening_seconds(outcome: Outcome) -> float:
    """Expected seconds until the model has answered a first call in a fresh process."""
    return OPENING_S + _loading_s(outcome)


def _loading_s(outcome: Outcome) -> float:
    load, first = (outcome.measurements.get(objective.name) for objective in (PREPARE, FIRST_CALL))
    return (0.0 if load is None else load.value) + (0.0 if first is None else first.value / 1e3)


def campaign_seconds(plans: CampaignPlans, outcome: Outcome) -> float:
    """Expected seconds that the model adds to the campaigns of all workloads, without repeated attempts."""
    needed_s = 0.0
    for mark, plan in plans.items():
        call = outcome.measurements[under(LATENCY, mark)]
        device = str(call.conditions.get("device", ""))
        needed_s += plan.model_s(call.value / 1e3, device) + plan.sets * opening_seconds(outcome)
    return needed_s


def export_seconds(members: Sequence[Outcome]) -> float:
    """Expected seconds of the export of these models, with the check of their outputs but without a timing."""
    return REPORTS_S + sum(map(_exported_s, members))


def logging_seconds(members: Sequence[Outcome]) -> float:
    """Expected seconds, at most, until MLflow has the record and the models of an export, which is the last step."""
    return REPORTS_S + sum(RECORD_S + _copying_s(outcome) for outcome in members)


def _exported_s(outcome: Outcome) -> float:
    opened = 2 if task_named(outcome.recipe.task).generates else 1  # what scores texts, and what generates
    return RECORD_S + opened * _loading_s(outcome) + _copying_s(outcome)


def _copying_s(outcome: Outcome) -> float:
    size = outcome.measurements.get(SIZE.name)
    return 0.0 if size is None else size.value / COPIED_MB_S


def fitting(plans: CampaignPlans, ready: Sequence[Outcome], left_s: float) -> int:
    """How many of these, in order, the final campaigns have `left_s` seconds for."""
    for count, outcome in enumerate(ready):
        left_s -= campaign_seconds(plans, outcome)
        if left_s < 0:
            return count
    return len(ready)


def timing_seconds(plans: CampaignPlans, models: Sequence[Outcome]) -> float:
    """Expected seconds of the campaigns of these models, if each set takes all its attempts."""
    once_s = sum(campaign_seconds(plans, outcome) for outcome in models)
    return once_s * max(plan.attempts for plan in plans.values())


def plans_within(plans: CampaignPlans, ready: Sequence[Outcome], left_s: float) -> CampaignPlans:
    """The plans, with a single attempt of each set where `left_s` seconds are too few for all attempts of all sets."""
    if timing_seconds(plans, ready) <= left_s:
        return plans
    return {mark: replace(plan, attempts=1) for mark, plan in plans.items()}


@dataclass(frozen=True)
class TimeLeft:
    """What the time limit of a run leaves for its finalists."""

    clock: Clock
    export_s: float  # kept for the export
    plans: CampaignPlans  # of the final campaigns
    share: float  # rows of the held-out split divided by rows of validation
    held_out_s: float  # of the predictions of the held-out split by a model whose own seconds are not known

    @property
    def left_s(self) -> float:
        """Seconds left without those of the export; infinite without a time limit."""
        return self.clock.left_s - self.export_s

    def allows(self, outcome: Outcome, ready: Sequence[Outcome]) -> bool:
        """Whether there is time for the held-out results of a finalist, and for a campaign of it and those `ready`."""
        held_out_s = held_out_seconds([outcome], self.share) or self.held_out_s
        timing_s = sum(campaign_seconds(self.plans, one) for one in (*ready, outcome))
        return opening_seconds(outcome) + held_out_s + timing_s <= self.left_s
