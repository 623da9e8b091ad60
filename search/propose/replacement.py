"""Remeasuring a study: a draft study is built beside the old one, and takes its name when it is complete.

Optuna cannot change the values of a finished trial, and its samplers learn from these values. So the draft has every
trial again, under its old number.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from objectives import clock
from search.front.outcome import Outcome, Target
from search.propose.study import (
    MACHINE,
    OUTCOME,
    PARAMS,
    PARTS,
    REMEASURED,
    distribution,
    find_study,
    quiet_optuna,
    storage,
)
from search.propose.trials import add
from search.space.space import Space
from search.store.locks import BUSY_S


class Replacement:
    """The draft that replaces the study `name`.

    Only complete trials are measured again. A recipe may have been rejected, failed or infeasible because of the other
    machine, so its trial becomes an empty one, and the recipe may be proposed again. An unfinished draft of an earlier
    call on this machine is continued.

    Args:
        limits: maps an outcome to constraint values.
        parts, machine: study attributes of the draft (`search.propose.study`).
    """

    def __init__(
        self,
        mlruns: Path,
        name: str,
        space: Space,
        targets: Sequence[Target],
        limits: Callable[[Outcome], Mapping[str, float]],
        parts: Mapping[str, Any],
        machine: Mapping[str, Any],
    ) -> None:
        old = find_study(mlruns, name)
        assert old is not None
        self._mlruns, self._name, self._draft = mlruns, name, f"{name}.remeasuring"
        self._space, self._targets, self._limits = space, tuple(targets), limits
        self._trials = old.get_trials(deepcopy=False)
        self._times = int(old.user_attrs.get(REMEASURED, 0)) + 1
        self._distributions = {name: distribution(knob) for name, knob in space.searched.items()}
        attributes = json.loads(json.dumps({PARTS: dict(parts), MACHINE: dict(machine), REMEASURED: self._times}))
        self._new = self._unfinished(attributes) or self._create(old, attributes)

    @property
    def left(self) -> list[Outcome]:
        """Complete outcomes that are still to be measured again, by number."""
        done = len(self._new.get_trials(deepcopy=False))
        outcomes = (self._complete(trial) for trial in self._trials[done:])
        return [outcome for outcome in outcomes if outcome is not None]

    def add(self, outcome: Outcome) -> None:
        """Add the new outcome of the first of `left`. Raises ValueError for another trial's outcome."""
        for trial in self._trials[len(self._new.get_trials(deepcopy=False)) :]:
            if trial.number == outcome.number:
                settings = trial.user_attrs[PARAMS]
                add(self._new, self._space, outcome, settings, self._targets, self._limits, self._distributions)
                return
            self._new.add_trial(create_trial(state=TrialState.FAIL))
        raise ValueError(f"no trial {outcome.number} is left to be measured again")

    def finish(self) -> str:
        """Rename both studies in one transaction; returns the new name of the old one.

        Raises:
            ValueError: some trials are still to be measured.
        """
        if self.left:
            raise ValueError(f"{len(self.left)} trials are not measured again yet")
        for _ in self._trials[len(self._new.get_trials(deepcopy=False)) :]:
            self._new.add_trial(create_trial(state=TrialState.FAIL))
        taken = set(optuna.get_all_study_names(storage=storage(self._mlruns)))
        names = (f"{self._name}.before-{number}" for number in range(self._times, self._times + len(taken) + 1))
        old_name = next(name for name in names if name not in taken)
        # Optuna has no call that renames, and none that changes two studies together.
        rename = "UPDATE studies SET study_name = ? WHERE study_name = ?"
        with closing(sqlite3.connect(self._mlruns / "optuna.db", timeout=BUSY_S)) as database, database:
            database.execute(rename, (old_name, self._name))
            database.execute(rename, (self._name, self._draft))
        return old_name

    @staticmethod
    def _complete(trial: optuna.trial.FrozenTrial) -> Outcome | None:
        outcome = trial.user_attrs.get(OUTCOME)
        return Outcome.from_json(outcome) if outcome is not None and outcome["status"] == "complete" else None

    def _unfinished(self, wanted: Mapping[str, Any]) -> optuna.Study | None:
        """The draft of an earlier call with the attributes `wanted`; a draft with others is deleted."""
        draft = find_study(self._mlruns, self._draft)
        if draft is None:
            return None
        attributes = draft.user_attrs
        if (
            attributes.get(PARTS) == wanted[PARTS]
            and attributes.get(REMEASURED) == wanted[REMEASURED]
            and not clock.machine_difference(attributes.get(MACHINE, {}), wanted[MACHINE])
            and self._is_prefix(draft)
        ):
            return draft
        optuna.delete_study(study_name=self._draft, storage=storage(self._mlruns))
        return None

    def _is_prefix(self, draft: optuna.Study) -> bool:
        """Whether the draft's trials are the first ones of the old study as it is now."""
        trials = draft.get_trials(deepcopy=False)
        for before, after in zip(self._trials, trials, strict=False):
            old, new = self._complete(before), after.user_attrs.get(OUTCOME)
            if (None if new is None else new["digest"]) != (None if old is None else old.recipe.digest):
                return False
        return len(trials) <= len(self._trials)

    def _create(self, old: optuna.Study, attributes: Mapping[str, Any]) -> optuna.Study:
        with quiet_optuna():
            draft = optuna.create_study(
                storage=storage(self._mlruns), study_name=self._draft, directions=old.directions, load_if_exists=True
            )
        for key, value in attributes.items():
            draft.set_user_attr(key, value)
        return draft
