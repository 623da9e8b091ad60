"""Weights of recipes, built in processes of their own and stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from objectives.process import Progress
from search.execute.build_weights import build_weights
from search.prepare import isolate
from search.prepare.prepared import Prepared, cores
from spaces.knob import Value
from spaces.recipe import DEPLOYED, Recipe


class WeightsBuilder:
    """Builds the weights that the store does not have.

    Args:
        limit_s: returns the seconds that the next step may take.
    """

    def __init__(self, prepared: Prepared, progress: Progress, limit_s: Callable[[], float]) -> None:
        self._prepared, self._progress, self._limit_s = prepared, progress, limit_s

    def get_or_build(self, recipe: Recipe) -> Path:
        """The folder of the recipe's weights: the teacher's own, or built and stored."""
        if not recipe.compressed:
            return self._prepared.teacher
        prepared, key = self._prepared, {"weights": recipe.weights_digest}
        steps = tuple(step for step in recipe.steps if step.name not in DEPLOYED)
        scratch = prepared.store.scratch("weights", key)

        def build(folder: Path) -> None:
            isolate.run(
                build_weights,
                folder,
                prepared.config,
                steps,
                recipe.recover,
                prepared.data,
                prepared.teacher,
                prepared.statistics,
                prepared.outputs or Path(),
                prepared.context.device,
                cores(),
                scratch,
                timeout_s=self._limit_s(),
                progress=self._progress,
            )

        settings = {n: v for n, v in recipe.params.items() if n.partition(".")[0] not in (*DEPLOYED, "runtime")}
        return prepared.store.make("weights", key, build, {"settings": settings})[0]

    def stored_settings(self) -> list[dict[str, Value]]:
        """Settings of this search whose weights are in the store."""
        prepared, stored = self._prepared, []
        for folder, about in prepared.store.abouts("weights").items():
            settings = about.get("settings")
            if settings and folder == self._folder(prepared.recipe({**prepared.space.off, **settings})):
                stored.append(settings)
        return stored

    def _folder(self, recipe: Recipe) -> Path:
        return self._prepared.store.path("weights", {"weights": recipe.weights_digest})

    def forget(self, recipe: Recipe) -> None:
        """Delete the state of a training that will not be resumed."""
        self._prepared.store.drop_scratch("weights", {"weights": recipe.weights_digest})
