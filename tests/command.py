"""The real command in a process of its own: run to its end, or watched and killed on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).parents[1]
AT_ONCE = 2  # commands; most of their time is one core importing torch
MARK = "SEARCH_TEST_RUN"  # an environment variable that tells which run a process belongs to

#: What makes a search of the tiny model quick. Relative paths are those of the folder of `tiny.data`.
QUICK: Mapping[str, Any] = {
    "task": "classification",
    "data": {"train": "train.csv", "validation": "validation.jsonl", "test": "test.parquet", "max_length": 24},
    "teacher": {"epochs": 4, "learning_rate": 1e-3, "head_learning_rate": 1e-2, "freeze_embeddings": False},
    "recover": {"epochs": 1, "learning_rate": 1e-3},
    "space": {
        "distill": {"layers": [1, 2]},
        "prune": {"neurons": [0.5, 1.0], "heads": "off"},
        "low_rank": "off",
        "bits": {"precision": ["fp32", "int8"]},
        "runtime": {"name": ["eager", "onnx"]},
    },
    "device": "cpu",
    "workload": {"batch": 1, "length": 16},
    "budget": {"trials": 4, "trial_timeout": 120},
    "measure": {"quick_s": 0.1, "final_s": 0.1},
}


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    out: str
    err: str
    seconds: float

    def succeeded(self) -> Ended:
        """Itself. Raises AssertionError with its output when it failed."""
        assert self.code == 0, f"exit {self.code}\n{self.out}\n{self.err}"
        return self


def write_config(path: Path, **changes: Any) -> Path:
    """`QUICK` with `changes`, each a section's keys or a whole value, as a YAML file."""
    made = dict(QUICK)
    for name, value in changes.items():
        merged = isinstance(value, Mapping) and isinstance(made.get(name), Mapping)
        made[name] = {**made[name], **value} if merged else value
    path.write_text(yaml.safe_dump(made), encoding="utf-8")
    return path


def environment(**changes: str) -> dict[str, str]:
    """Of a command: this repository importable, the hub out of reach, the user's own MLflow server left alone."""
    made = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", MARK: uuid.uuid4().hex}
    made.pop("MLFLOW_TRACKING_URI", None)
    return {**made, **changes}


def one_core() -> None:
    """Keep this process, and those it starts, on one core: threads of a tiny model only wait for each other.

    Ctrl-C is as on a terminal, also where the tests run in the background of a shell that ignores it.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def search(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None, prepare: Any = one_core) -> Ended:
    """`python -m search ARGUMENTS` in the folder `cwd`, run to its end. `prepare()` runs in it before it starts."""
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "search", *map(str, arguments)],
        cwd=cwd,
        env=env or environment(),
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=prepare,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr, time.monotonic() - began)


class Started:
    """`python -m search ARGUMENTS` in a process group of its own, with its standard output read line by line."""

    def __init__(self, *arguments: object, cwd: Path) -> None:
        self._environment = environment()
        self._errors = (cwd / f"{self._environment[MARK]}.stderr").open("w+")
        self._began = time.monotonic()
        self.seen: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "search", *map(str, arguments)],
            cwd=cwd,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
            preexec_fn=one_core,  # noqa: PLW1509
        )

    def until(self, text: str) -> Started:
        """Returns when a line with `text` was printed; raises AssertionError when it ended without one."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen.append(line)
            if text in line:
                return self
        raise AssertionError(f"ended without {text!r}: {''.join(self.seen)}{self.errors()}")

    def send(self, number: signal.Signals) -> Started:
        """Signal the whole process group, as a terminal does."""
        os.killpg(self.process.pid, number)
        return self

    def kill_parent(self) -> Started:
        """SIGKILL for the program alone, not for the processes it started."""
        self.process.kill()
        return self

    def end(self, timeout_s: float = 300) -> Ended:
        """Wait for it; asserts that none of its processes is left ten seconds later."""
        try:
            rest, _ = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            raise
        ended = Ended(
            self.process.returncode, "".join([*self.seen, rest]), self.errors(), time.monotonic() - self._began
        )
        deadline = time.monotonic() + 10
        while left := self.processes():
            assert time.monotonic() < deadline, f"still running: {left}"
            time.sleep(0.05)
        return ended

    def errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read()

    def processes(self) -> list[psutil.Process]:
        """Every process that this run started and that has not ended."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ours = process.environ().get(MARK) == self._environment[MARK]
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def refused(ended: Ended, wanted: list[str]) -> None:
    """The command ended with 2 and at most two lines that hold all of `wanted`."""
    assert ended.code == 2, f"{ended.code}: {ended.out}{ended.err}"
    assert ended.err.startswith("error: ")
    assert 1 <= len(ended.err.splitlines()) <= 2 and "Traceback" not in ended.out
    for text in wanted:
        assert text in ended.err, f"{text!r} is not in {ended.err}"
