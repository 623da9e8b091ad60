"""`python -m search` without its store between candidates, for benchmarks/savings.py.

Statistics and the teacher's outputs are made anew for every candidate that is trained or looked at, and a training that
paused begins again. The teacher is trained once, and the weights of what was measured are kept: finalists need them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import header  # noqa: F401 - puts the project on the path

from search.cli.main import main
from search.execute.looks import Looks
from search.execute.weights import WeightsBuilder
from search.prepare import runner as compose
from search.prepare.prepared import cores
from search.prepare.statistics import make_statistics
from spaces.recipe import Recipe


class Uncached(WeightsBuilder):
    """Makes everything that weights are made from, each time."""

    def weights(self, recipe: Recipe, looks: bool = True) -> Path:
        if recipe.compressed and not self.is_made(recipe):
            self._begin(recipe)
        return super().weights(recipe, looks)

    def look(self, recipe: Recipe, share: float) -> tuple[Looks, float]:
        self._begin(recipe)
        return super().look(recipe, share)

    def _begin(self, recipe: Recipe) -> None:
        prepared = self._prepared
        self.forget(recipe)
        made: list[tuple[Path | None, Any]] = [
            (prepared.statistics, self._statistics),
            (prepared.outputs, self._outputs),
        ]
        for folder, make in made:
            if folder is not None:
                shutil.rmtree(folder)
                if make() != folder:
                    raise AssertionError(f"{folder} was made elsewhere: not where search/prepare/runner.py makes it")

    @property
    def _stage(self) -> compose.Stages:
        return compose.Stages(self._prepared.store, self._progress)

    @property
    def _known(self) -> dict[str, Any]:
        return {"teacher": self._prepared.teacher_digest, "seed": self._prepared.config.seed}

    def _statistics(self) -> Path:
        s = self._prepared
        return self._stage(
            "statistics", self._known, make_statistics, s.config, s.data, s.teacher, s.context.device, cores()
        )

    def _outputs(self) -> Path | None:
        s = self._prepared
        return compose._outputs(s.config, s.space, self._known, s.data, s.teacher, s.context.device, self._stage)


if __name__ == "__main__":
    import search.execute.evaluate

    search.execute.evaluate.WeightsBuilder = Uncached  # type: ignore[misc]
    sys.exit(main())
