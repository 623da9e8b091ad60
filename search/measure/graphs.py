"""Graphs and programs that runtimes make from weights, in store entries of their own.

A published entry is never written to again, so a runtime cannot put its files beside the weights. An entry of the stage
"graphs" is a folder that links to the files of the weights, and holds the files that the runtime makes from them. Its
key is the content of the weights' folder, calibration rows included, the plan, and what the files depend on beside
these: the versions of exporter and quantiser, the code of this program that writes them, or the processor that a
program was compiled for. A graph of another version of torch is therefore another entry.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from objectives.bench import open_bench
from search.front.outcome import Outcome
from search.store.paths import located
from search.store.store import MANIFEST, Store
from spaces import build, calibration, registry, sensitivity
from spaces.base import WEIGHTS
from spaces.knob import Plan
from spaces.recipe import Recipe
from spaces.runtime import Context
from spaces.runtimes import int4_weights
from spaces.runtimes.seal import seal_path

GRAPHS_STAGE = "graphs"

#: Opens the model in a folder under a runtime and a plan, in a process of its own, and closes it.
Open = Callable[[Path, str, Plan, Context], None]


class Graphs:
    """Finds or makes the folder that a runtime opens.

    Args:
        open_once: makes the files, by opening the model in a process that is not measured, because making a graph uses
            memory that is not freed.
        watched: context around making an entry, such as a stopwatch.
    """

    def __init__(
        self, store: Store, open_once: Open, watched: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self._store, self._open_once, self._watched = store, open_once, watched

    def folder(self, recipe: Recipe, weights: Path, context: Context) -> Path:
        """The folder that the recipe's runtime opens: that of the weights itself, or an entry of the store.

        Raises:
            Infeasible: the runtime cannot make its files here.
        """
        return self._folder(recipe.runtime.name, build.precision_of(recipe), weights, context)

    def _folder(self, runtime: str, plan: Plan, weights: Path, context: Context) -> Path:
        runs = registry.runtime_named(runtime)
        names = [name for name in runs.files(plan) if name != WEIGHTS]
        if not names:
            return weights
        content = json.loads((weights / MANIFEST).read_text()).get("files")
        if content is None:  # no entry of a store: what the runtime makes lies beside the weights
            return weights
        key = {"of": content, "plan": plan, "files": names, "device": context.device, "by": _by(runtime, plan, context)}
        entry = self._store.find(GRAPHS_STAGE, key)
        if entry is not None:
            return entry
        plainer = runs.made_from(plan, weights)
        source = None if plainer is None else self._folder(runtime, plainer, weights, context)

        def make(target: Path) -> None:
            for name in content:
                _link(weights / name, target / name)
            borrowed = [] if source is None or plainer is None else list(runs.files(plainer))
            for name in borrowed:
                assert source is not None
                _link(source / name, target / name)
            self._open_once(target, runtime, plan, context)
            for name in borrowed:
                (target / name).unlink()
            absent = [name for name in names if not (target / name).is_file()]
            assert not absent, f"{runtime} did not make {absent}"
            wanted = {*content, *names, *(str(seal_path(Path(name))) for name in names)}
            for path in [p for p in target.rglob("*") if not p.is_dir()]:
                if str(path.relative_to(target)) not in wanted:  # intermediate files
                    path.unlink()

        with self._watched():
            return self._store.make(GRAPHS_STAGE, key, make, {"runtime": runtime, "plan": plan})[0]


def _link(file: Path, link: Path) -> None:
    """A relative link at `link`, which stays valid when the whole store is moved."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(file, link.parent))


def made_by(recipe: Recipe, weights: Path, context: Context) -> dict[str, Any]:
    """What the files that a recipe's runtime makes depend on beside `weights` and plan, for keys of what is measured.

    These are versions, the code that writes them, and the rows or the order of blocks that they are calibrated by.
    Empty for a runtime that makes no files.
    """
    plan = build.precision_of(recipe)
    by = _by(recipe.runtime.name, plan, context)
    if not by:
        return {}
    files = json.loads((weights / MANIFEST).read_text())["files"]
    calibrated = plan["precision"] == "int8-static" or "rounding" in plan
    ordered = "fp32_blocks" in plan or "int8_blocks" in plan
    needed = {calibration.CALIBRATION_FILE: calibrated, sensitivity.SENSITIVITY_FILE: ordered}
    read = {name: files[name][1] for name, needs in needed.items() if needs and name in files}
    return {"made_by": by, **({"calibrated_by": read} if read else {})}


def _by(runtime: str, plan: Plan, context: Context) -> dict[str, str]:
    """What the files of a plan depend on beside weights and plan; empty where the runtime makes none for it."""
    return dict(registry.runtime_named(runtime).made_by(context)) or int4_weights.int4_made_by(plan)


def opened_from(store: Store, context: Context) -> Callable[[Outcome], Path]:
    """A function from an outcome to the folder of its files, for exports of an earlier search in this store."""

    def open_once(folder: Path, runtime: str, plan: Plan, context: Context) -> None:
        opening = partial(build.open_whole, folder, runtime, plan, context)
        open_bench(opening, context.device, context.threads, waiting="passive").close()

    graphs = Graphs(store, open_once)
    return lambda outcome: graphs.folder(outcome.recipe, located(store.root.parent, outcome.folder), context)
