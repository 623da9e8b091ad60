"""Runs the stages, most valuable first, each in a process with its own time limit; `run.sh` calls it.

    python -m benchmarks.gpu.run OUT [--dry] [--minutes 8] [STAGE ...]

A stage is a module of this folder with `run(setup, report)`. A new one is a file and a line in `STAGES`.
Those of `ON_REQUEST` run only where they are named.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu import tables
from benchmarks.gpu.run_setup import RunSetup

#: How long a stage has to end by itself after it was asked to.
GRACE_S = 5


@dataclass(frozen=True)
class Stage:
    """One table: the module that makes it, its options, and the seconds it may take."""

    name: str
    module: str
    limit_s: float
    options: tuple[str, ...] = ()


#: Most valuable first: a run that is cut off has what came before.
STAGES = (
    Stage("search-batch-1", "benchmarks.gpu.search_front", 190, ("1",)),
    Stage("runtimes", "benchmarks.gpu.runtime_table", 95),
    Stage("search-batch-32", "benchmarks.gpu.search_front", 80, ("32",)),
    Stage("exports", "benchmarks.gpu.exported", 30),
    Stage("repeatability", "benchmarks.gpu.aa_pairs", 40),
    Stage("gpu-tests", "benchmarks.gpu.gpu_tests", 40),
)
#: Run where they are named: with the others they would not end in the time of a whole run.
ON_REQUEST = (
    Stage("question-answering", "benchmarks.gpu.task_front", 240, ("question-answering",)),
    Stage("sentence-similarity", "benchmarks.gpu.task_front", 180, ("sentence-similarity",)),
    Stage("decoding", "benchmarks.gpu.decoding", 180),
)

#: Runs this module with the arguments, in the environment, for at most so many seconds.
Start = Callable[[Sequence[str], Mapping[str, str], float], "subprocess.CompletedProcess[str]"]


def start_anew(
    arguments: Sequence[str], environment: Mapping[str, str], limit: float
) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which is told to end at the limit, and then made to."""
    return subprocess.run(
        ["timeout", "-k", str(GRACE_S), f"{limit:.1f}", sys.executable, "-m", "benchmarks.gpu.run", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )


def run(stages: Sequence[Stage], setup: RunSetup, seconds: float, start: Start = start_anew) -> int:
    """All stages one after the other, each in a process that `start` starts; the number of those that failed.

    What is left of `seconds` bounds each of them beside its own limit.
    """
    report = tables.Tables(setup.out)
    report.begin(tables.hardware(setup.device), [stage.name for stage in stages])
    until, failures = time.monotonic() + seconds, 0
    for stage in stages:
        limit = min(stage.limit_s, until - time.monotonic() - GRACE_S)
        if limit <= 0:
            report.change(stage.name, state="not begun: no time was left")
            continue
        report.change(stage.name, state=f"running, {limit:.0f} s at most")
        began = time.monotonic()
        dry = ["--dry"] if setup.dry else []
        only = ["--only", stage.name, stage.module, *stage.options]
        ended = start([str(setup.out), *dry, *only], setup.environment(limit), limit)
        took = time.monotonic() - began
        state, failed = _state(ended.returncode, limit, took)
        failures += failed
        if ended.returncode != 0:
            stderr = ended.stderr[-20_000:].strip() or "nothing on stderr"
            report.failed(stage.name, f"{state} (exit {ended.returncode})\n{stderr}")
        report.change(stage.name, state=state, seconds=round(took, 1))
        print(f"{stage.name}: {state}", flush=True)
    return failures


def _state(code: int, limit: float, took: float) -> tuple[str, bool]:
    """(what is said of a stage that ended, whether it failed): one that ran out of time keeps its rows and did not."""
    killed = code in (-signal.SIGKILL, 128 + signal.SIGKILL)
    if code == 124 or (killed and took >= limit):
        return f"stopped after its {limit:.0f} s, with the rows that were there", False
    return (f"done in {took:.0f} s", False) if code == 0 else (f"FAILED after {took:.0f} s: see failures.txt", True)


def one(name: str, module: str, options: Sequence[str], setup: RunSetup) -> int:
    """A stage, in this process. Ended for its time, it says where it was."""
    faulthandler.register(signal.SIGTERM, all_threads=False, chain=True)
    stage = importlib.import_module(module)
    try:
        stage.run(setup, tables.Report(tables.Tables(setup.out), name), *options)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder of the tables")
    parser.add_argument("--dry", action="store_true", help="every stage on the CPU, at toy size")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all stages together (default: 8)")
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)  # one stage, in this process
    parser.add_argument("stages", nargs="*", help=f"some of {', '.join(s.name for s in (*STAGES, *ON_REQUEST))}")
    chosen = parser.parse_intermixed_args()
    setup = RunSetup(chosen.out.absolute(), chosen.dry)
    if chosen.only:
        name, module, *options = chosen.only
        return one(name, module, options, setup)
    stage_of = {stage.name: stage for stage in (*STAGES, *ON_REQUEST)}
    for name in chosen.stages:
        if name not in stage_of:
            parser.error(f"a stage must be one of {', '.join(stage_of)}, got {name}")
    stages = [stage_of[name] for name in chosen.stages] or list(STAGES)
    failures = run(stages, setup, 60 * chosen.minutes)
    print((setup.out / tables.TEXT).read_text(encoding="utf-8"))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
