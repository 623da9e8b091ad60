"""A study measured again: built as another study beside the one it replaces, and put in its place when it is whole.

Optuna cannot tell a finished trial again, and its samplers learn from the values that trials were told with. So all of
them are told anew, under their old numbers.
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
    quiet,
    storage,
)
from search.propose.telling import add
from search.space.space import Space
from search.store.locks import BUSY_S


class Replacement:
    """What is to be measured again of the study `name`, and what was.

    Only complete trials are: whatever else became of a recipe (rejected, failed, without a kernel) was decided with
    another machine's figures, so its trial stays as an empty one and the recipe may be proposed again. What an earlier
    call left unfinished on this machine goes on.

    Args:
        limits: outcome to constraint values.
        parts, machine: of the study that is made.
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
        wanted = json.loads(json.dumps({PARTS: dict(parts), MACHINE: dict(machine), REMEASURED: self._times}))
        self._new = self._begun(wanted) or self._begin(old, wanted)

    @property
    def left(self) -> list[Outcome]:
        """Complete outcomes that are not measured again yet, by number."""
        done = len(self._new.get_trials(deepcopy=False))
        found = (self._complete(trial) for trial in self._trials[done:])
        return [outcome for outcome in found if outcome is not None]

    def add(self, outcome: Outcome) -> None:
        """Keep what became of the next of `left`."""
        for trial in self._trials[len(self._new.get_trials(deepcopy=False)) :]:
            if trial.number == outcome.number:
                settings = trial.user_attrs[PARAMS]
                add(self._new, self._space, outcome, settings, self._targets, self._limits, self._distributions)
                return
            self._new.add_trial(create_trial(state=TrialState.FAIL))
        raise ValueError(f"no trial {outcome.number} is left to be measured again")

    def finish(self) -> str:
        """Put the new study in the old one's place, in one step; the name under which the old one stays.

        Raises:
            ValueError: not all is measured again.
        """
        if self.left:
            raise ValueError(f"{len(self.left)} trials are not measured again yet")
        for _ in self._trials[len(self._new.get_trials(deepcopy=False)) :]:
            self._new.add_trial(create_trial(state=TrialState.FAIL))
        taken = set(optuna.get_all_study_names(storage=storage(self._mlruns)))
        names = (f"{self._name}.before-{number}" for number in range(self._times, self._times + len(taken) + 1))
        kept = next(name for name in names if name not in taken)
        # Optuna has no call that renames, and none that changes two studies together.
        rename = "UPDATE studies SET study_name = ? WHERE study_name = ?"
        with closing(sqlite3.connect(self._mlruns / "optuna.db", timeout=BUSY_S)) as database, database:
            database.execute(rename, (kept, self._name))
            database.execute(rename, (self._name, self._draft))
        return kept

    @staticmethod
    def _complete(trial: optuna.trial.FrozenTrial) -> Outcome | None:
        told = trial.user_attrs.get(OUTCOME)
        return Outcome.from_json(told) if told is not None and told["status"] == "complete" else None

    def _begun(self, wanted: Mapping[str, Any]) -> optuna.Study | None:
        """What an earlier call left of the same study on this machine; removed where it is of anything else."""
        draft = find_study(self._mlruns, self._draft)
        if draft is None:
            return None
        known = draft.user_attrs
        if (
            known.get(PARTS) == wanted[PARTS]
            and known.get(REMEASURED) == wanted[REMEASURED]
            and not clock.difference(known.get(MACHINE, {}), wanted[MACHINE])
            and self._follows(draft)
        ):
            return draft
        optuna.delete_study(study_name=self._draft, storage=storage(self._mlruns))
        return None

    def _follows(self, draft: optuna.Study) -> bool:
        """Whether what was measured again are the first trials of the old study, as it is now."""
        made = draft.get_trials(deepcopy=False)
        for before, after in zip(self._trials, made, strict=False):
            outcome, told = self._complete(before), after.user_attrs.get(OUTCOME)
            if (None if told is None else told["digest"]) != (None if outcome is None else outcome.recipe.digest):
                return False
        return len(made) <= len(self._trials)

    def _begin(self, old: optuna.Study, wanted: Mapping[str, Any]) -> optuna.Study:
        with quiet():
            made = optuna.create_study(
                storage=storage(self._mlruns), study_name=self._draft, directions=old.directions, load_if_exists=True
            )
        for key, value in wanted.items():
            made.set_user_attr(key, value)
        return made
