"""Weights of recipes, made in processes of their own and kept in the store; and looks at them on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from search.execute.build_weights import make_weights
from search.execute.looks import FILE, Looks, looked_at
from search.measure.measurer import Progress
from search.prepare import isolate
from search.prepare.prepared import Prepared, cores
from spaces.knob import Value
from spaces.recipe import Recipe


class WeightsBuilder:
    """Makes what the store does not have.

    Args:
        limit_s: seconds one step may take, asked for at each.
    """

    def __init__(self, prepared: Prepared, progress: Progress, limit_s: Callable[[], float]) -> None:
        self._prepared, self._progress, self._limit_s = prepared, progress, limit_s
        #: Of the recovery, after which this search looks at a candidate.
        self.shares = prepared.config.economy.rungs if prepared.weighs_quality_and_latency else ()
        self._of = looked_at(prepared.config)
        self._trained: dict[str, float] = {}  # seconds of recovery so far, by digest of the weights

    def get_or_build(self, recipe: Recipe, looks: bool = True) -> Path:
        """The folder of the recipe's weights: the teacher's own, or made and stored, looked at on the way or not."""
        if not recipe.compressed:
            return self._prepared.teacher
        shares = (*self.shares, 1.0) if recipe.recover and looks else (1.0,)
        return self._made("weights", recipe, shares, {"weights": recipe.weights_digest})

    def stored_settings(self) -> list[dict[str, Value]]:
        """Settings of this search whose weights are in the store already."""
        prepared, found = self._prepared, []
        for folder, about in prepared.store.abouts("weights").items():
            settings = about.get("settings")
            if settings and folder == self._folder(prepared.recipe({**prepared.space.off, **settings})):
                found.append(settings)
        return found

    def is_stored(self, recipe: Recipe) -> bool:
        return self._folder(recipe).exists()

    def _folder(self, recipe: Recipe) -> Path:
        return self._prepared.store.path("weights", {"weights": recipe.weights_digest})

    def look(self, recipe: Recipe, share: float) -> tuple[Looks, float]:
        """(what is seen of the weights when `share` of their recovery is done, seconds beside the training)."""
        began = time.monotonic()
        shares = tuple(s for s in self.shares if s <= share)
        key = {"weights": recipe.weights_digest, "shares": list(shares), "of": self._of}
        before = self._trained.get(recipe.weights_digest, 0.0)
        seen = Looks.read(self._made("looks", recipe, shares, key) / FILE, self._of)
        self._trained[recipe.weights_digest] = seen.trained_s
        return seen, max(0.0, time.monotonic() - began - max(0.0, seen.trained_s - before))

    def forget(self, recipe: Recipe) -> None:
        """Drop the state of a training that nobody goes on with."""
        self._prepared.store.drop_scratch("weights", {"weights": recipe.weights_digest})

    def seen(self, folder: Path) -> Looks:
        """What was seen of weights on their way."""
        return Looks.read(folder / FILE, self._of)

    def _made(self, stage: str, recipe: Recipe, shares: tuple[float, ...], key: Mapping[str, object]) -> Path:
        prepared = self._prepared
        steps = tuple(step for step in recipe.steps if step.name != "bits")
        scratch = prepared.store.scratch("weights", {"weights": recipe.weights_digest})

        def make(folder: Path) -> None:
            isolate.run(
                make_weights,
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
                shares,
                timeout_s=self._limit_s(),
                progress=self._progress,
            )

        cut = {n: v for n, v in recipe.params.items() if not n.startswith(("bits.", "runtime."))}
        return prepared.store.make(stage, key, make, {"settings": cut})[0]
