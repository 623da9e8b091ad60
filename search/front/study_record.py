"""The record of a study, without its outcomes: configuration, hardware, held-out results, checks of exports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from objectives.measurement import Measurement
from search.front.outcome import Outcome
from search.tasks import ALONE, task_named


@dataclass(frozen=True)
class StudyRecord:
    """The contents of a report without the outcomes: configuration, hardware, held-out results, and checks."""

    config: Mapping[str, Any]  # the whole RunConfig, as `to_mapping` gives it
    hardware: Mapping[str, Any]  # objectives.clock.fingerprint
    rows: Mapping[str, int] = field(default_factory=dict)  # by split
    held_out: Mapping[int, Mapping[str, Measurement]] = field(default_factory=dict)  # by trial, on the test split
    checks: Mapping[int, Path] = field(default_factory=dict)  # by trial, outputs that a reload must reproduce
    weights_sha256: Mapping[int, str] = field(default_factory=dict)  # by trial, of the weights that are exported
    remeasured: Mapping[int, Outcome] = field(default_factory=dict)  # by trial, measured again on weights made again
    seconds: float = 0.0  # all runs of the study so far, finalists included
    unfinished: str = ""  # how far its last run is, where that has not ended: "12 of 40 trials so far"
    notes: tuple[str, ...] = ()  # about model, data and space, as the run said them at its start

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.config["study"])

    @property
    def results(self) -> Path:
        """The results folder that the study is in."""
        return Path(str(self.config.get("mlruns", "mlruns")))

    @property
    def metric(self) -> str:
        """The name of the task's metric."""
        return str(self.config["metric"])

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Python and of the libraries that measurements depend on."""
        return {"python": str(self.hardware.get("python", "")), **self.hardware.get("libraries", {})}

    @property
    def device(self) -> str:
        """The processor that ran the models, in a few words."""
        gpus = self.hardware.get("gpu") or []
        if gpus:
            return str(gpus[0].get("name", "GPU"))
        return f"{self.hardware.get('cpu', 'CPU')}, {self.hardware.get('cpus', '?')} CPUs"

    @property
    def workload(self) -> str:
        """A timed call in words: "batch 1, 32 tokens", "batch 1 (a question with all windows of its context), ..."."""
        load = self.config["workload"]
        if load.get("new_tokens"):
            return f"batch {load['batch']}, {load['new_tokens']} tokens after a prompt of {load['prompt']}"
        length = "lengths of the data" if load["length"] == "data" else f"{load['length']} tokens"
        call = task_named(str(self.config["task"])).call
        each = "" if call == ALONE else f" ({call})"
        return f"batch {load['batch']}{each}, {length}"
