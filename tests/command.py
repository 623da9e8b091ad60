"""The real command in a process of its own: run to its end, or watched and killed on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from objectives import campaign
from tests.fork_client import MARK, SERVER, Forked, environment, one_core

AT_ONCE = 2  # commands; most of their time is one core importing torch

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


#: With `QUICK`: one deployment, so one baseline and no graph, where a test is about neither.
PLAIN = ("--set", "space.bits=off", "--set", "space.runtime.name=eager")


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
    config = dict(QUICK)
    for name, value in changes.items():
        merged = isinstance(value, Mapping) and isinstance(config.get(name), Mapping)
        config[name] = {**config[name], **value} if merged else value
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def _start(
    arguments: tuple[object, ...],
    cwd: Path,
    env: Mapping[str, str],
    out: int,
    err: int,
    session: bool = False,
    one_core_only: bool = True,
    largest_file: int | None = None,
    script: Path | None = None,
    sets: int = 1,
) -> Forked:
    cpus = sorted(os.sched_getaffinity(0))
    request = {
        "arguments": list(map(str, arguments)),
        "cwd": str(cwd.resolve()),
        "environment": dict(env),
        "session": session,
        "cpus": cpus[-1:] if one_core_only else cpus,
        "largest_file": largest_file,
        "script": str(script or ""),
        "sets": sets,
    }
    return SERVER.start(request, out, err)


def search(
    *arguments: object,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    one_core_only: bool = True,
    largest_file: int | None = None,
    sets: int = 1,
) -> Ended:
    """`python -m search ARGUMENTS` in the folder `cwd`, run to its end, in a process that `forking` starts.

    No file that it writes may be longer than `largest_file` bytes, as where the disk is full. It times finalists in
    `sets` sets of fresh processes.
    """
    where = cwd, env or environment()
    chosen = False, one_core_only, largest_file, None, sets
    return _run_to_its_end(lambda *files: _start(arguments, *where, *files, *chosen))


def forked(script: Path, *arguments: object, cwd: Path, env: Mapping[str, str], sets: int = campaign.SETS) -> Ended:
    """`python SCRIPT ARGUMENTS`, run to its end, in a process that `forking` starts."""
    return _run_to_its_end(lambda *files: _start(arguments, cwd, env, *files, script=script, sets=sets))


def _run_to_its_end(start: Callable[[int, int], Forked | subprocess.Popen[bytes]]) -> Ended:
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = start(out.fileno(), err.fileno())
        try:
            code = process.wait(300)
        finally:
            process.kill()
        seconds = time.monotonic() - began
        out.seek(0)
        err.seek(0)
        return Ended(code, out.read(), err.read(), seconds)


def _start_anew(
    arguments: tuple[object, ...], cwd: Path, env: Mapping[str, str], out: int, err: int, session: bool = False
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "search", *map(str, arguments)],
        cwd=cwd,
        env=env,
        stdout=out,
        stderr=err,
        start_new_session=session,
        preexec_fn=one_core,  # noqa: PLW1509
    )


def search_anew(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
    """The same, started by the interpreter as a user starts it, which takes seconds more."""
    return _run_to_its_end(lambda *files: _start_anew(arguments, cwd, env or environment(), *files))


class Started:
    """`python -m search ARGUMENTS` in a process group of its own, with its standard output read line by line.

    `anew`: started by the interpreter, as a user starts it.
    """

    def __init__(self, *arguments: object, cwd: Path, anew: bool = False) -> None:
        self._environment = environment()
        self._errors = (cwd / f"{self._environment[MARK]}.stderr").open("w+")
        self._began = time.monotonic()
        self.seen: list[str] = []
        reading, writing = os.pipe()
        self._printed = os.fdopen(reading)
        start = _start_anew if anew else _start
        self.process = start(arguments, cwd, self._environment, writing, self._errors.fileno(), session=True)
        os.close(writing)

    def until(self, text: str) -> Started:
        """Returns when a line with `text` was printed; raises AssertionError when it ended without one."""
        for line in self._printed:
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
        watchdog = threading.Timer(timeout_s, self.send, [signal.SIGKILL])
        watchdog.start()
        with self._printed:
            rest = self._printed.read()
        code = self.process.wait(timeout_s)
        watchdog.cancel()
        ended = Ended(code, "".join([*self.seen, rest]), self.errors(), time.monotonic() - self._began)
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
        children = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                ours = (
                    process.environ().get(MARK) == self._environment[MARK] or os.getsid(process.pid) == self.process.pid
                )
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    children.append(process)
        return children


def refused(ended: Ended, wanted: list[str]) -> None:
    """The command ended with 2 and at most two lines that hold all of `wanted`."""
    assert ended.code == 2, f"{ended.code}: {ended.out}{ended.err}"
    assert ended.err.startswith("error: ")
    assert 1 <= len(ended.err.splitlines()) <= 2 and "Traceback" not in ended.out
    for text in wanted:
        assert text in ended.err, f"{text!r} is not in {ended.err}"
