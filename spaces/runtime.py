"""The interface of a runtime: one way of running a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from spaces.knob import Plan

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


class Predict(Protocol):
    """A prepared model: numpy arrays by input name in, numpy arrays by output name out."""

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True, slots=True)
class Context:
    """Where a runtime runs: device, threads, and the room for caches."""

    device: str = "cpu"  # "cpu" or "cuda"
    threads: int = 0  # 0: the runtime's own default
    cache_tokens: int = 2048  # capacity of a static cache: tokens a row, prompt and answer together


class Runtime(Protocol):
    """One way of running a model. A new one is a file in `runtimes/` and a line in `spaces.registry`."""

    name: str
    source: str
    install: str  # the command that brings what it needs, or ""

    def missing(self, context: Context) -> str | None:
        """Why it cannot run here at all, as a clause for messages, or None. Cheap: it imports no heavy packages."""
        ...

    def precisions(self, context: Context) -> tuple[str, ...]:
        """The precisions that it has real kernels for on this device, "fp32" first."""
        ...

    def open(self, folder: Path, plan: Plan, context: Context) -> Predict:
        """Prepare the model stored in `folder` under the precision `plan`. Raises Infeasible where it cannot.

        Graphs and programs that it makes from the weights are stored in `folder` and reused the next time.
        """
        ...

    def made_by(self, context: Context) -> Mapping[str, str]:
        """What its files depend on beside weights and plan; {} if it makes none.

        These are versions, hardware, and the code of this program that writes them.
        """
        ...

    def made_from(self, plan: Plan, folder: Path) -> Plan | None:
        """The plan from whose files those of `plan` are made; None where they are made from the weights."""
        ...

    def files(self, plan: Plan) -> tuple[str, ...]:
        """Paths, in the model's folder, of the files with the weights that it runs, once it was opened."""
        ...
