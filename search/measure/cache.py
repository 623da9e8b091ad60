"""Measurements of candidates that an earlier search made here, under the same conditions."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from objectives.measurement import Measurement
from search.front.outcome import noise_in
from search.measure.graphs import made_by
from search.measure.limits import measured_for
from search.measure.timing import Timings
from search.prepare.prepared import Prepared
from search.store.store import digest_in
from spaces.base import WEIGHTS
from spaces.recipe import Recipe

MEASURED_STAGE = "measured"
MEASUREMENTS_FILE = "measurements.json"
#: Condition of a reused measurement: when it was made, in UTC.
MEASURED_AT = "measured_at"


class Reuse:
    """Stores measurements by recipe and by all that they depend on: machine, versions, data, workloads, protocol.

    Finalists are timed again in any case. Noisy measurements are not reused, except by an equal search, which repeats
    the same trials and must give the same front.
    """

    def __init__(self, prepared: Prepared, timings: Timings) -> None:
        self._prepared, self._timings = prepared, timings
        self.recalled: Collection[str] = ()  # digests of recipes that an equal search measured

    @cached_property
    def _conditions(self) -> dict[str, Any]:
        prepared, config = self._prepared, self._prepared.config
        return {
            "data": prepared.about_data["digest"],
            **config.data.choosing,
            **config.data.scoring,
            "teacher": digest_in(prepared.teacher, WEIGHTS),  # whose predictions losses are counted from
            "environment": dict(prepared.environment),
            "workloads": {mark: self._timings.inputs(mark)[1] for mark in ("", *self._timings.marks)},
            "quick_s": config.measure.quick_s,
            "rows": config.measure.validation_rows,
            "metric": config.metric,
            "seed": config.seed,
            "wanted": sorted({*(t.objective for t in prepared.targets), *measured_for(config.limits)}),
        }

    def find(self, recipe: Recipe, folder: Path) -> dict[str, Measurement] | None:
        """The stored measurements of the weights in `folder`; None where there are none or reuse is off."""
        if not self._prepared.config.measure.reuse:
            return None
        store = self._prepared.store
        entry = store.find(MEASURED_STAGE, self._key(recipe, folder))
        if entry is None and recipe.digest in self.recalled:
            entry = store.find(MEASURED_STAGE, self._key(recipe, folder, noisy=True))
        if entry is None:
            return None
        since, stored = json.loads((entry / MEASUREMENTS_FILE).read_text())
        measurements = {name: Measurement.from_json(m) for name, m in stored.items()}
        counted = self._timings.counted_now(measurements)
        return {n: replace(m, conditions={**m.conditions, MEASURED_AT: since}) for n, m in counted.items()}

    def keep(self, recipe: Recipe, folder: Path, measurements: Mapping[str, Measurement]) -> None:
        """Store the measurements if they hold every objective of the search."""
        if not measurements.keys() >= set(self._conditions["wanted"]):
            return
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

        def make(target: Path) -> None:
            (target / MEASUREMENTS_FILE).write_text(
                json.dumps([since, {name: m.to_json() for name, m in measurements.items()}])
            )

        noisy = bool(noise_in(measurements))
        self._prepared.store.make(MEASURED_STAGE, self._key(recipe, folder, noisy), make)

    def _key(self, recipe: Recipe, folder: Path, noisy: bool = False) -> dict[str, Any]:
        weights = digest_in(folder, WEIGHTS)  # training the same recipe again may give other weights
        return {
            "recipe": recipe.digest,
            "weights_sha256": weights,
            **made_by(recipe, folder, self._prepared.context),
            **self._conditions,
            **({"noisy": True} if noisy else {}),
        }
