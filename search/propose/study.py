"""The study: Optuna's record of a search, in `mlruns/optuna.db`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection

from objectives import clock
from search.errors import UserError, nearest
from search.front.outcome import Outcome, Target
from search.store.locks import BUSY_S
from spaces.knob import Knob

PARTS = "parts"  # study attribute: what all its trials have in common (model, data, limits...)
SEARCHED = "searched"  # one of the parts: the space, which follows from the configuration, the model and the machine
MACHINE = "machine"  # study attribute: the fingerprint of the machine that all its trials were measured on
REMEASURED = "remeasured"  # study attribute: how many times the study was measured again
OUTCOME = "outcome"  # trial attribute: the outcome, as JSON
PARAMS = "params"  # trial attribute: all settings, also those Optuna does not draw


def storage(mlruns: Path) -> optuna.storages.RDBStorage:
    """The database in `mlruns`; it waits for the writes of other programs."""
    url = f"sqlite:///{mlruns / 'optuna.db'}"
    return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": BUSY_S}})


def open_study(
    mlruns: Path,
    name: str,
    targets: Sequence[Target],
    sampler: Callable[[int], optuna.samplers.BaseSampler],
    seed: int,
    parts: Mapping[str, Any],
    machine: Mapping[str, Any] | None = None,
) -> optuna.Study:
    """The study called `name`, new or resumed; `sampler` makes its sampler from a seed.

    `machine` is this machine's fingerprint, stored with a new study.

    Raises:
        UserError: it exists with other `parts` (space, model, data, limits...).
    """
    directions = [StudyDirection.MINIMIZE if t.better == "lower" else StudyDirection.MAXIMIZE for t in targets]
    existing = find_study(mlruns, name)
    check_parts(mlruns, name, parts)
    # The sampler's own state is not stored. A resumed search gets another seed, so that it does not repeat its draws.
    trials = 0 if existing is None else len(existing.get_trials(deepcopy=False))
    with quiet_optuna():
        study = optuna.create_study(
            storage=storage(mlruns),
            study_name=name,
            directions=directions,
            sampler=sampler(seed + trials),
            load_if_exists=True,
        )
    attributes = study.user_attrs
    if MACHINE not in attributes and machine is not None:
        study.set_user_attr(MACHINE, json.loads(json.dumps(machine)))
    if PARTS not in attributes:
        study.set_user_attr(PARTS, json.loads(json.dumps(parts)))
    return study


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Suppress Optuna's log lines about a created or loaded study."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def check_study(
    mlruns: Path, name: str, parts: Mapping[str, Any], machine: Mapping[str, Any], remeasure: bool = False
) -> None:
    """Raise UserError if the study called `name` cannot be resumed.

    Args:
        parts: what its trials must share.
        machine: this machine's fingerprint. With `remeasure` the study may come from another machine.
    """
    existing = find_study(mlruns, name)
    if existing is None:
        return
    # Which space is searched follows from the machine too, so the machine is compared before it.
    check_parts(mlruns, name, {key: value for key, value in parts.items() if key != SEARCHED}, (SEARCHED,))
    if remeasure:
        return
    study_machine = existing.user_attrs.get(MACHINE)
    difference = "" if study_machine is None else clock.machine_difference(study_machine, machine)
    if difference:
        raise UserError(
            f"--study {name}: it was measured on another machine ({difference}); "
            "give --remeasure to measure it again here, or --study NAME for a new one"
        )
    check_parts(mlruns, name, parts)


def check_parts(mlruns: Path, name: str, parts: Mapping[str, Any], excluding: Sequence[str] = ()) -> None:
    """Raise UserError if the study called `name` has other `parts`; those named in `excluding` are not compared."""
    existing = find_study(mlruns, name)
    if existing is None:
        return
    before = existing.user_attrs.get(PARTS)
    if before is None:  # the process was killed before it stored them
        return
    before = {key: value for key, value in before.items() if key not in excluding}
    if before != json.loads(json.dumps(parts)):
        raise UserError(
            f"--study {name}: it exists in {mlruns / 'optuna.db'} with another {_first_difference(before, parts)}; "
            "choose another name with --study NAME, or restore the files and settings that it was made with"
        )


def find_study(mlruns: Path, name: str) -> optuna.Study | None:
    """The study called `name`, or None where there is none."""
    if not (mlruns / "optuna.db").exists():
        return None
    try:
        return optuna.load_study(study_name=name, storage=storage(mlruns))
    except KeyError:
        return None


def read_outcomes(mlruns: Path, name: str) -> tuple[dict[str, Any], list[Outcome]]:
    """(attributes, outcomes) of a study.

    Raises:
        UserError: there is no study of that name; names the nearest.
    """
    study = find_study(mlruns, name)
    if study is None:
        names = []
        if (mlruns / "optuna.db").exists():
            names = optuna.get_all_study_names(storage=storage(mlruns))
        close = nearest(name, names)
        hint = f'; did you mean "{close}"?' if close else (f" (there: {', '.join(names)})" if names else "")
        raise UserError(f"STUDY: no study {name!r} in {mlruns / 'optuna.db'}{hint}")
    return dict(study.user_attrs), outcomes_of(study)


def set_attribute(mlruns: Path, name: str, key: str, value: Any) -> None:
    """Store `value` (JSON) with the study."""
    study = find_study(mlruns, name)
    assert study is not None
    study.set_user_attr(key, json.loads(json.dumps(value)))


def attribute(mlruns: Path, name: str, key: str) -> Any:
    """The stored value of `key`, or None."""
    study = find_study(mlruns, name)
    return None if study is None else study.user_attrs.get(key)


def outcomes_of(study: optuna.Study) -> list[Outcome]:
    """All outcomes so far by number; for a recipe that was tried again after a failure, the last one."""
    stored = [t.user_attrs[OUTCOME] for t in study.get_trials(deepcopy=False) if OUTCOME in t.user_attrs]
    outcomes = {outcome.recipe.digest: outcome for outcome in map(Outcome.from_json, stored)}
    return sorted(outcomes.values(), key=lambda outcome: outcome.number)


def same_search(mlruns: Path, name: str, parts: Mapping[str, Any], accept: Callable[[Any], bool]) -> list[Outcome]:
    """Outcomes of the largest other study with the same `parts`, by number.

    Args:
        accept: takes the configuration and hardware that a search stores when it ends ("about"), and says whether the
            study counts.
    """
    if not (mlruns / "optuna.db").exists():
        return []
    wanted = json.loads(json.dumps(parts))
    largest: list[Outcome] = []
    for other in optuna.get_all_study_summaries(storage=storage(mlruns), include_best_trial=False):
        about = other.user_attrs
        if other.study_name == name or about.get(PARTS) != wanted or not accept(about.get("about")):
            continue
        study = optuna.load_study(study_name=other.study_name, storage=storage(mlruns))
        largest = max(largest, outcomes_of(study), key=len)
    return sorted(largest, key=lambda outcome: outcome.number)


def _first_difference(before: Any, now: Mapping[str, Any]) -> str:
    """The first key whose value changed, with both values."""
    before = before or {}
    for key in dict.fromkeys((*now, *before)):
        old, new = before.get(key), json.loads(json.dumps(now.get(key)))
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            return f"{key}.{_first_difference(old, new)}"
        if key == "digest":
            return f"{key}: the content is another ({json.dumps(old)} there, {json.dumps(new)} now)"
        return f"{key}: {json.dumps(old)[:80]} there, {json.dumps(new)[:80]} now"
    return "content"


def distribution(knob: Knob) -> BaseDistribution:
    """The Optuna distribution of a knob: integer or float for a range, categorical for choices."""
    if not knob.ordered:
        return CategoricalDistribution(knob.choices)
    assert knob.low is not None and knob.high is not None
    if isinstance(knob.low, int) and isinstance(knob.off, int):
        return IntDistribution(knob.low, int(knob.high), log=knob.log, step=int(knob.step or 1))
    return FloatDistribution(float(knob.low), float(knob.high), log=knob.log, step=knob.step)
