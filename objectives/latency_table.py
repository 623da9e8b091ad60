"""Measured times of model shapes on this device, stored on disk, which predict the time of a model before it is built.

Each digest of the conditions has a file, and each entry a line. A line is appended in one write, so several processes
may add at once; a damaged line is skipped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objectives.arrays import Floats
from objectives.latency import P50
from objectives.latency_model import (
    BORROWED_SD,
    GUESSED_MS_A_BYTE,
    UNMEASURED_SD,
    Fit,
    MeasuredTimes,
    Unmeasured,
    fit_latency,
    guess,
)
from objectives.measurement import TOLD_APART
from objectives.passes import Passes
from objectives.shapes import Shapes

#: A deployment with fewer measurements than this has the best measured deployment's costs as its prior.
MANY = 12


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """One measured model."""

    deployment: str
    shape: Mapping[str, Any]  # a row of `Shapes.to_json`
    ms: float
    error: float  # relative standard error

    @classmethod
    def read(cls, line: bytes) -> MeasuredModel | None:
        """The entry of a line, or None where the line is damaged or is no entry."""
        try:
            data = json.loads(line)
            entry = cls(str(data["deployment"]), data["shape"], float(data["ms"]), float(data["error"]))
            entry.check()
            Shapes.from_json([entry.shape])
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return entry

    def check(self) -> None:
        """Raises ValueError unless the time is positive and the error not negative, both finite."""
        if not (math.isfinite(self.ms) and self.ms > 0):
            raise ValueError(f"ms must be above 0, got {self.ms}")
        if not (math.isfinite(self.error) and self.error >= 0):
            raise ValueError(f"error must be 0 or more, got {self.error}")


class LatencyTable:
    """Times of models under deployments "runtime/precision", measured or predicted, under one set of conditions.

    A table holds one measured time: `latency_p50_ms`, or of calls that generate also `ttft_ms` or `tpot_ms`. All are
    predicted from the same costs; the time says which passes are counted (`passes`).

    Args:
        folder: of the tables; created when an entry is added.
        conditions: those of a `Measurement`, "batch" and "length" among them. The ones that must be equal for times to
            be compared (`TOLD_APART`: device, fingerprint, threads, ...) determine the file, with the time's name where
            calls generate.
        time: name of the measured time.
        ms_a_byte: gives the time to read a byte at the memory's bandwidth, the prior of a step of generation.
    """

    def __init__(
        self,
        folder: Path,
        conditions: Mapping[str, Any],
        time: str = P50.name,
        ms_a_byte: Callable[[], float] = lambda: GUESSED_MS_A_BYTE,
    ) -> None:
        identity = {name: conditions[name] for name in TOLD_APART if name in conditions}
        if "new_tokens" in identity:
            identity["time"] = time
        self.passes, self._ms_a_byte = Passes.of(time, identity), ms_a_byte
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self.path = folder / f"{digest}.jsonl"
        self._conditions = identity
        self._entries: list[MeasuredModel] = []
        self._read_to = 0
        self._measured: dict[str, MeasuredTimes] = {}
        self._fits: dict[str, Fit | Unmeasured] = {}

    def add(self, deployment: str, shape: Shapes, ms: float, error: float) -> None:
        """Store the measured time of one model; an identical entry is stored once.

        Args:
            shape: of one model.
            ms: its median time.
            error: relative standard error of `ms`.

        Raises:
            ValueError: not one model, a time that is not above 0, or an error below 0.
        """
        if len(shape) != 1:
            raise ValueError(f"shape must be of one model, got {len(shape)}")
        entry = MeasuredModel(deployment, shape.to_json()[0], float(ms), float(error))
        entry.check()
        self._refresh()
        if entry in self._entries:
            return
        record = {"deployment": deployment, "shape": dict(entry.shape), "ms": entry.ms, "error": entry.error}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        opened = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            first = [{"conditions": self._conditions}] if os.fstat(opened).st_size == 0 else []
            # A line break before it too: whoever wrote last may have been killed in the middle of a line.
            lines = "".join(f"\n{json.dumps(line, default=str)}\n" for line in (*first, record))
            os.write(opened, lines.encode())
        finally:
            os.close(opened)

    def entries(self, deployment: str) -> int:
        """The number of different models that are measured under a deployment."""
        self._refresh()
        return len(self._measured[deployment].ms) if deployment in self._measured else 0

    def measured(self, deployment: str, shapes: Shapes) -> NDArray[np.bool_]:
        """(N,): whether each of these models is measured under a deployment."""
        self._refresh()
        shape_keys = {_key(entry.shape) for entry in self._entries if entry.deployment == deployment}
        return np.array([_key(row) in shape_keys for row in shapes.to_json()], dtype=bool)

    @property
    def deployments(self) -> tuple[str, ...]:
        """The deployments with measurements."""
        self._refresh()
        return tuple(self._measured)

    def predict(self, deployment: str, shapes: Shapes) -> tuple[Floats, Floats]:
        """(log of ms (N,), its standard deviation (N,)) of models under a deployment.

        The deviation is the estimated prediction error, in log units: 0.05 is about 5 %. A deployment without
        measurements has a wide one.
        """
        self._refresh()
        return self._fit(deployment).predict(shapes)

    def _fit(self, deployment: str) -> Fit | Unmeasured:
        if deployment not in self._fits:
            measured = self._measured.get(deployment)
            richest = max(self._measured, key=lambda name: len(self._measured[name].ms), default=deployment)
            lent = deployment != richest and (measured is None or len(measured.ms) < MANY)
            guessed = self._guess()
            prior = self._fit(richest).costs if lent else guessed
            if measured is None:
                self._fits[deployment] = Unmeasured(self.passes, prior, BORROWED_SD if lent else UNMEASURED_SD)
            else:
                # A cost that is nothing under the other deployment may well be something under this one.
                prior = prior + 1e-3 * guessed * (prior.sum() / guessed.sum()) if lent else prior
                self._fits[deployment] = fit_latency(measured, self.passes, prior)
        return self._fits[deployment]

    def _guess(self) -> Floats:
        # Only the bytes of steps depend on the bandwidth, which takes a process to measure.
        return guess(self.passes, self._ms_a_byte()) if self.passes.steps else guess(self.passes)

    def _refresh(self) -> None:
        """Read the lines that this or another process has appended since."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size == self._read_to:
            return
        if size < self._read_to:  # removed, or another file of the same name
            self._entries, self._read_to = [], 0
            self._measured, self._fits = {}, {}
        if size == 0:
            return
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if not whole:
            return
        self._read_to += len(whole)
        self._entries += [entry for line in whole.splitlines() if (entry := MeasuredModel.read(line)) is not None]
        self._measured, self._fits = _by_deployment(self._entries), {}


def _by_deployment(entries: Sequence[MeasuredModel]) -> dict[str, MeasuredTimes]:
    """Measured times by deployment, with repeated measurements of a model combined."""
    by_shape: dict[str, dict[str, list[MeasuredModel]]] = {}
    for entry in entries:
        by_shape.setdefault(entry.deployment, {}).setdefault(_key(entry.shape), []).append(entry)
    measured = {}
    for deployment, models in by_shape.items():
        together = np.array([_together(entries) for entries in models.values()])
        shapes = Shapes.from_json([entries[0].shape for entries in models.values()])
        measured[deployment] = MeasuredTimes(shapes, together[:, 0], together[:, 1])
    return measured


def _key(shape: Mapping[str, Any]) -> str:
    return json.dumps(shape, sort_keys=True)


def _together(entries: Sequence[MeasuredModel]) -> tuple[float, float]:
    """(ms, relative standard error) of several measurements: their inverse-variance weighted mean on the log scale.

    Where they disagree the error is widened by Birge's ratio (1932): the root of chi squared over its degrees of
    freedom, where that is above 1.
    """
    logs, errors = np.log([e.ms for e in entries]), np.maximum([e.error for e in entries], 1e-3)
    weights = errors**-2
    mean = float((weights * logs).sum() / weights.sum())
    ratio = float((weights * (logs - mean) ** 2).sum() / max(1, len(entries) - 1))
    return math.exp(mean), math.sqrt(max(1.0, ratio) / weights.sum())
