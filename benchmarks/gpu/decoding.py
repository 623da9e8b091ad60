"""Decoding at batch 1 by a 1B-class model with random weights: time a token in each deployment, and its roofline.

Time depends on the shape and not on what the weights are. Each deployment is a process of its own with a time limit;
those of a group are opened at once, then one after the other is timed while the rest is stopped. What does not compile
comes first, so that a run which is cut off has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks import header
from benchmarks.gpu import several
from benchmarks.gpu.decoder import (
    COMPILED,
    COMPILED_GRAPH,
    CUDA_GRAPH,
    EAGER,
    TOY,
    WHOLE,
    Calls,
    CopyMeter,
    Decoder,
    Deployment,
    bytes_read,
    check,
)
from benchmarks.gpu.run_setup import RunSetup
from benchmarks.gpu.tables import Report
from objectives import generation_times
from objectives.process import Remote
from spaces.errors import Infeasible

COLUMNS = (
    "runtime",
    "cache",
    "precision",
    "tpot_ms",
    "tpot_p90_ms",
    "ttft_ms",
    "tokens_per_s",
    "read_mb",
    "floor_ms",
    "roofline %",
    "memory_mb",
    "open_s",
    "error",
    "note",
)
#: Of the time that the copied bandwidth allows, by the best deployment that a search can choose.
GOAL = 0.60

QUICK = (
    Deployment(EAGER, "dynamic", "bf16"),
    Deployment(CUDA_GRAPH, "static", "bf16"),
    Deployment(EAGER, "dynamic", "fp8"),
    Deployment(EAGER, "dynamic", "int4"),
    Deployment(CUDA_GRAPH, "static", "int4"),
)
COMPILING = (
    Deployment(COMPILED, "static", "bf16"),
    Deployment(COMPILED, "static", "fp8"),
    Deployment(COMPILED, "static", "int4"),
    Deployment(COMPILED_GRAPH, "static", "bf16"),
)
#: (deployments, seconds that opening one of them may take): 135 s, and the rest of the stage is for their timing.
GROUPS = ((QUICK, 40.0), (COMPILING, 95.0))
DRY_GROUPS = ((QUICK, 60.0),)

CALLS = Calls(prompt=128, new_tokens=128, seconds=3.0)
DRY_CALLS = Calls(prompt=8, new_tokens=24, seconds=0.05)
COPIED, DRY_COPIED = 1 << 31, 1 << 24  # bytes
#: Precisions of `EAGER` that a dry run times on the CPU, though a runtime may not offer them there (int4 by PyTorch's
#: kernels of a CPU).
ON_A_CPU = ("bf16", "int4")
CALL_S = 15.0  # that one question to a process may take


def run(setup: RunSetup, report: Report) -> None:
    calls = DRY_CALLS if setup.dry else CALLS
    title = f"decoding, batch 1, {calls.prompt} tokens of prompt and {calls.new_tokens} of answer; random weights"
    report.begin(title, COLUMNS)
    Stage(setup, report, calls).run(DRY_GROUPS if setup.dry else GROUPS)


class Stage:
    """The rows of one run, and what they share: the copied bandwidth, and the logits of the first deployment."""

    def __init__(self, setup: RunSetup, report: Report, calls: Calls) -> None:
        self._setup, self._report, self._calls = setup, report, calls
        self._bandwidth: float | None = None
        self._expected: np.ndarray | None = None

    def run(self, groups: Sequence[tuple[Sequence[Deployment], float]]) -> None:
        for deployments, most_s in groups:
            possible = [deployment for deployment in deployments if self._possible(deployment)]
            if not possible:
                continue
            limit_s = min(most_s, self._setup.left_s)
            openings = [partial(self._opening, deployment, limit_s) for deployment in possible]
            # The bandwidth is measured while the processes of the first group wait.
            metering = [partial(self._meter, limit_s)] if self._bandwidth is None else []
            with several.opened([*metering, *openings]) as sides:
                for meter in sides[: len(metering)]:
                    self._measure_bandwidth(meter)
                for deployment, side in zip(possible, sides[len(metering) :], strict=True):
                    self._row(deployment, side)
                    self.judge()

    def _possible(self, deployment: Deployment) -> bool:
        """Whether it can run here; else a row says why not."""
        try:
            check(deployment, self._setup.device)
        except Infeasible as reason:
            if not (self._setup.dry and deployment.precision in ON_A_CPU and deployment.runtime == EAGER):
                self._report.add(**named(deployment), note=several.brief(reason))
                return False
            # Slow on a CPU without bf16 instructions, which does not matter to a dry run.
        return True

    def _opening(self, deployment: Deployment, limit_s: float) -> Remote:
        shape = TOY if self._setup.dry else WHOLE
        return Remote(partial(Decoder, deployment, shape, self._calls, self._setup.device), timeout_s=limit_s)

    def _meter(self, limit_s: float) -> Remote:
        return Remote(partial(CopyMeter, self._setup.device, 0), timeout_s=limit_s)

    def _measure_bandwidth(self, meter: Remote | Exception) -> None:
        try:
            if not isinstance(meter, Remote):
                raise meter
            meter.resume()
            size = DRY_COPIED if self._setup.dry else COPIED
            self._bandwidth = float(meter.call("copied", size, timeout_s=CALL_S))
            self._report.note(f"copied bandwidth: {self._bandwidth / 1e9:.0f} GB/s, read and written")
        except Exception as error:  # the times are worth having without it
            self._report.note(f"no share of the roofline: the bandwidth was not measured: {several.brief(error)}")
        finally:
            if isinstance(meter, Remote):
                meter.close()  # its buffers too

    def _row(self, deployment: Deployment, side: Remote | Exception) -> None:
        """What goes wrong is said in the row, and the next deployment goes on."""
        row = self._report.add(**named(deployment))
        try:
            if not isinstance(side, Remote):
                raise side
            self._fill(row, deployment, side)
        except Exception as error:
            self._report.fill(row, note=several.brief(error))
        finally:
            if isinstance(side, Remote):
                side.close()

    def _fill(self, row: dict[str, Any], deployment: Deployment, side: Remote) -> None:
        side.resume()
        about = side.call("about", timeout_s=CALL_S)
        read = bytes_read(about, deployment.precision)
        note = "" if deployment.offered else "no runtime of its own: not counted for the goal"
        self._report.fill(row, open_s=about["open_s"], read_mb=read / 1e6, note=note, weights=about["weights"])
        times = side.call("times", timeout_s=CALL_S)
        tokens = generation_times.token_times([[call[None] for call in times]], 1, 0, {})
        figures = {measured.objective: measured.value for measured in tokens}
        tpot = figures[generation_times.TPOT.name]
        self._report.fill(row, **figures, memory_mb=side.call("peak_mb", timeout_s=CALL_S))
        if self._bandwidth is not None:
            floor = read / self._bandwidth * 1e3
            self._report.fill(row, floor_ms=floor, **{"roofline %": 100 * floor / tpot})
        logits = side.call("logits", timeout_s=CALL_S)
        if self._expected is None:
            self._expected = logits
        error = abs(logits - self._expected).mean() / abs(self._expected).mean()
        self._report.fill(row, error=float(error))

    def judge(self) -> None:
        """The goal, as far as there are rows for it."""
        shares = {
            deployment.name: row["roofline %"] / 100
            for row in self._report.rows
            if "roofline %" in row and (deployment := deployment_of(row)).offered
        }
        if shares:
            best = max(shares, key=lambda name: shares[name])
            what = f"share of the copied bandwidth, decoding at batch 1 ({best})"
            self._report.goals([header.Promise(what, shares[best], GOAL)])


def named(deployment: Deployment) -> dict[str, str]:
    return {"runtime": deployment.runtime, "cache": deployment.cache, "precision": deployment.precision}


def deployment_of(row: dict[str, Any]) -> Deployment:
    return Deployment(row["runtime"], row["cache"], row["precision"])
