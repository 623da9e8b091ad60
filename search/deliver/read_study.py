"""Reads a search from its record, without running anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from search.config.schema import STUDY_RULE, LimitsConfig, is_study_name
from search.deliver import study_attributes
from search.errors import UserError, wrong
from search.front.final import Final
from search.front.front import Front
from search.front.outcome import Outcome
from search.front.study_record import StudyRecord
from search.measure.limits import broken

#: Why a trial of a study that goes on has no final timing.
NOT_YET = "its study goes on"


def read_study(mlruns: Path, name: str) -> tuple[Front, StudyRecord]:
    """The front and the record of a study, finished or not.

    Raises:
        UserError: there is no study of that name, it has no trial, or the name is not valid.
    """
    from search.prepare.prepared import targets_of
    from search.propose.study import read_outcomes

    if not is_study_name(name):  # it becomes a folder's name, and a database that came from elsewhere may hold any
        raise wrong("STUDY", STUDY_RULE, name)
    attributes, outcomes = read_outcomes(mlruns, name)
    about, begun = attributes.get("about"), attributes.get(study_attributes.BEGUN)
    if about is None and begun is None:
        raise UserError(f"STUDY: {name!r} has no trial yet; go on with it: python -m search run --study {name}")
    fields = {**study_attributes.NOTHING_FINAL, **(begun or {}), **(about or {})}
    study = study_attributes.record_of({**fields["config"], "mlruns": str(mlruns.absolute())}, fields)
    if begun is not None and begun["run"] != attributes.get(study_attributes.ENDED):
        total = begun["config"]["budget"]["trials"]
        study = replace(study, unfinished=f"{len(outcomes)} of {total} trials so far")
    checks = {n: path for n, path in study.checks.items() if path.is_file()}
    limits = partial(broken, LimitsConfig(**study.config["limits"]), study.metric)
    front = Front(targets_of(study.config["objectives"], study.config["metric"]), tuple(outcomes))
    front = front.counted(study_attributes.read_references(attributes.get(study_attributes.REFERENCES)))
    known = fields.get("trials") if study.unfinished else None  # those before the final campaign
    new = [] if known is None else [outcome.number for outcome in outcomes if outcome.number not in known]
    front = _decided(front.replacing(study.remeasured), Final.from_json(fields["final"]), new, limits)
    return front, replace(study, checks=checks)


def _decided(front: Front, final: Final, new: list[int], limits: Callable[[Outcome], tuple[str, ...]]) -> Front:
    """The front by its final campaign; trials that are `new` since then may be members by their quick timing."""
    for _ in range(2):  # first with all of them, then with those that are members
        decided = front.decided(replace(final, late={**final.late, **dict.fromkeys(new, NOT_YET)}), limits)
        new = [outcome.number for outcome in decided.members if outcome.number in new]
    return decided
