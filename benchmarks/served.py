"""A service in a process of its own, and questions with known answers to ask it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet

from benchmarks import header
from search.tasks.squad import f1

QUESTIONS = header.ROOT / "search" / "quickstart" / "question_answering" / "test.parquet"
CLIENT = Path(__file__).with_name("load_client.py")
#: More than any machine answers: the service's limit of a client's rate stands for many clients.
RATE = 1e6
#: The bare model: reads lists of questions, writes the milliseconds of each.
BARE = """
import json, sys, time
import search
model = search.load(sys.argv[1])
for line in sys.stdin:
    times = []
    for one in json.loads(line):
        began = time.perf_counter()
        model(one["question"], one["context"])
        times.append((time.perf_counter() - began) * 1e3)
    print(json.dumps(times), flush=True)
"""


@dataclass(frozen=True)
class Reply:
    """What came of one request."""

    due_s: float
    status: int
    ms: float  # from when it was due
    fields: dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A question, its context and its right answers."""

    question: str
    context: str
    golds: tuple[str, ...]

    def score(self, answer: str) -> float:
        """Token F1 of an answer, 0 to 1."""
        return f1(answer, self.golds)


def questions() -> list[Question]:
    """The test questions of the embedded example."""
    table = pyarrow.parquet.read_table(QUESTIONS).to_pylist()
    return [Question(row["question"], row["context"], tuple(row["answers"]["text"])) for row in table]


class Bodies:
    """Requests that no cache of the service has an answer to: contexts that come again have a number behind them."""

    def __init__(self, asked: Sequence[Question]) -> None:
        self.asked, self._next = asked, count()

    def take(self, number: int, within_ms: float | None = None) -> tuple[list[Question], list[str]]:
        """The next `number` questions and their bodies; `within_ms`: their time limit."""
        chosen, bodies = [], []
        for _ in range(number):
            turn, place = divmod(next(self._next), len(self.asked))
            one = self.asked[place]
            chosen.append(one)
            body = {"question": one.question, "context": f"{one.context} ({turn})" if turn else one.context}
            bodies.append(json.dumps(body if within_ms is None else {**body, "within_ms": within_ms}))
        return chosen, bodies


class Served:
    """`python -m search serve` on a free port, in a folder of its own, until the `with` ends.

    Args:
        front: an exported front; None: the packaged embedder alone.
    """

    def __init__(self, front: Path | None, slo_ms: float, *options: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="served-"))
        self._command = [sys.executable, "-m", "search", "serve", *([] if front is None else [str(front)])]
        self._command += ["--slo-ms", f"{slo_ms:g}", "--empty", "--rate", f"{RATE:g}", *options]
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Start the service, again with the same database after it was killed, and wait until it is ready."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        environment = {**os.environ, "PYTHONPATH": str(header.ROOT)}
        with (self._folder / "log").open("ab") as log:
            command = [*self._command, "--port", str(self.port), "--mlruns", str(self._folder / "mlruns")]
            self.process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log, env=environment)
        ends = time.monotonic() + 180
        while True:
            if self.process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"the service did not start: {(self._folder / 'log').read_text()[-2000:]}")
            try:
                self.get("/readyz")
                return
            except (OSError, urllib.error.HTTPError):
                time.sleep(0.2)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as reply:
            return json.load(reply)

    def post(self, path: str) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method="POST")
        urllib.request.urlopen(request, timeout=30).close()

    def pin(self, number: int | None) -> None:
        """Serve by one variant alone; None: by the controller's choice."""
        self.post("/v1/variants:unpin" if number is None else f"/v1/variants/{number}:pin")

    def kill(self) -> None:
        """End the process as a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def memory_mb(self) -> float:
        """Resident memory of the service and the processes that it started."""
        assert self.process is not None
        total, waiting = 0.0, [self.process.pid]
        while waiting:
            process = waiting.pop()
            try:
                status = Path(f"/proc/{process}/status").read_text()
                children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
            except OSError:  # it has ended
                continue
            total += float(status.partition("VmRSS:")[2].split()[0]) / 1e3
            waiting += map(int, children)
        return total

    def load(self, bodies: Sequence[str], path: str = "/v1/answer", **plan: Any) -> Load:
        """Begin to send these bodies from another process: `at_s`, or `callers` and `seconds` (load_client.py)."""
        return Load({"port": self.port, "path": path, "bodies": list(bodies), **plan})

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class Load:
    """A client at work."""

    def __init__(self, plan: dict[str, Any]) -> None:
        command = [sys.executable, str(CLIENT)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._text = ""
        # Read beside whatever the caller does: a client whose pipe is full never ends.
        self._reader = threading.Thread(target=self._talk, args=(json.dumps(plan),), daemon=True)
        self._reader.start()

    def _talk(self, plan: str) -> None:
        self._text = self._process.communicate(plan)[0]

    @property
    def running(self) -> bool:
        return self._reader.is_alive()

    def wait(self, timeout_s: float) -> None:
        """Until the client has ended, or for this long."""
        self._reader.join(timeout_s)

    def replies(self) -> list[Reply]:
        """All of them in the order they were due, when the client has ended."""
        self._reader.join()
        if self._process.returncode != 0:
            raise RuntimeError("the client failed")
        replies = [Reply(due, status, ms, json.loads(body or "{}")) for due, status, ms, body in json.loads(self._text)]
        return sorted(replies, key=lambda reply: reply.due_s)


class BareModel:
    """The model in an exported folder, in a process of its own without a service."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", BARE, str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=header.ROOT
        )

    def ms(self, asked: Sequence[Question]) -> list[float]:
        """Milliseconds of each question, one after the other."""
        assert self._process.stdin is not None and self._process.stdout is not None
        rows = [{"question": one.question, "context": one.context} for one in asked]
        self._process.stdin.write(json.dumps(rows) + "\n")
        self._process.stdin.flush()
        return list(map(float, json.loads(self._process.stdout.readline())))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
