"""A server that has imported what commands import, and forks a process for each: a start takes no seconds.

The server imports, and makes one empty database. It makes no tensor, so that no thread of OpenMP is lost in a fork. A
command is a real process with its own id, folder, environment and streams; what `python -m search` gets from the
interpreter is set by `_become`. One more process is forked ahead for each command: its fork server of workers
(`objectives.process`), which would import the same libraries anew.

What a command times, it times once: the tests of the other worker disturb every timing, a repetition too.
`tests/objectives/test_disturbances.py` and `tests/search/test_reference.py` are about repetitions. Finalists are timed
in as many sets of fresh processes as are asked for, mostly one: to open a process takes longer than to time it.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from multiprocessing import process, util
from pathlib import Path
from typing import Any, NoReturn

import counted

#: onnxruntime is left out: it starts a thread when it is imported.
PRELOADED = (
    *("torch", "torch._dynamo", "torch._inductor.compile_fx", "torch.export", "torch.onnx._internal.exporter._core"),
    *("safetensors.torch", "transformers.models.bert.modeling_bert", "transformers.models.auto.modeling_auto"),
    *("datasets", "evaluate", "sklearn.gaussian_process", "sklearn.metrics", "scipy.stats", "matplotlib.pyplot"),
    *("mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store", "alembic.command", "optuna.storages"),
    *("onnxscript.function_libs.torch_lib.ops.nn", "torch.onnx._internal.exporter._torchlib.ops.core"),
    *("scipy.signal", "scipy.optimize", "scipy.linalg", "loky"),
    *("jsonschema", "jinja2", "typer", "rich.live", "rich.table", "uvicorn"),
    *("search.compose", "search.cli.main", "search.propose.assembly", "search.track.tracker", "search.report.text"),
    *("search.serve.server", "search.serve.app", "spaces.training", "spaces.checkpoints", "spaces.distillation"),
)
#: Bytes of a request: its arguments and environment.
MOST = 1 << 18


def main(number: int) -> None:
    """Answer requests from the socket `number` until nobody is left to ask."""
    from objectives.quiet import quietly
    from search.track.mlflow_store import load_mlflow
    from spaces import registry

    load_mlflow()  # which says nothing of its migrations then
    with quietly():
        for name in PRELOADED:
            importlib.import_module(name)
        registry.axes()
        registry.runtimes()
    _time_once()
    _copy_databases_of_mlflow()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    woken, waking = os.pipe()
    for end in (woken, waking):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waking)
    gc.freeze()
    running: dict[int, socket.socket] = {}
    with socket.socket(fileno=number) as requests:
        while True:
            ready = select.select([requests, woken], [], [])[0]
            if woken in ready:
                os.read(woken, 4096)
                _tell_who_ended(running)
            if requests not in ready:
                continue
            text, files, _, _ = socket.recv_fds(requests, MOST, 3)
            if not text:
                return
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                for asking in (requests, *running.values()):
                    asking.close()
                os.close(woken)
                os.close(waking)
                _become(json.loads(text), files)
            for file in files[:2]:
                os.close(file)
            running[pid] = socket.socket(fileno=files[2])
            running[pid].sendall(f"{pid}\n".encode())


def _time_once() -> None:
    """Neither a disturbed timing nor a noisy reference latency is measured again, and kernels are timed briefly.

    Each search times some seven kernels for the roofline, of which no test compares the figures.
    """
    from objectives import ceilings, paired_timing
    from search.measure import reference
    from search.prepare import matmul_costs

    quietest = paired_timing.quietest
    paired_timing.quietest = lambda measure, most: quietest(measure, 1)
    reference.ATTEMPTS = 1
    ceilings.KERNEL_SECONDS = 0.02
    matmul_costs.MATMUL_SECONDS = 0.3


def _copy_databases_of_mlflow() -> None:
    """A new database of MLflow is a copy of one that is made here: its fifty migrations take a second each time."""
    from mlflow.store.db import utils
    from sqlalchemy import create_engine

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "mlflow.db")
        engine = create_engine(f"sqlite:///{file}")
        utils._initialize_tables(engine)
        engine.dispose()
        with closing(sqlite3.connect(file)) as database:
            content = database.serialize()

    def copy(engine: Any) -> None:
        with closing(sqlite3.connect(":memory:")) as source, closing(sqlite3.connect(engine.url.database)) as target:
            source.deserialize(content)
            source.backup(target)

    utils._initialize_tables = copy


def _tell_who_ended(running: dict[int, socket.socket]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with suppress(OSError), running.pop(ended[0]) as asking:
                asking.sendall(f"{os.waitstatus_to_exitcode(ended[1])}\n".encode())


def _become(request: Mapping[str, Any], files: Sequence[int]) -> NoReturn:
    """Be `python -m search`, or `python SCRIPT`, as it is when it starts, and run it to its end."""
    from objectives import campaign

    os.close(files[2])
    if request["session"]:
        os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.sched_setaffinity(0, request["cpus"])
    for stream, file in enumerate(files[:2], start=1):
        os.dup2(file, stream)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.path[0] = process.ORIGINAL_DIR = request["cwd"]
    if request["largest_file"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
    if counted.is_on():
        counted.count_in_workers()
    _fork_worker_server()
    campaign.SETS = request["sets"]
    sys.argv[1:] = request["arguments"]
    sys.modules["numpy"].random.seed()
    status = 0
    try:
        if request["script"]:
            sys.argv[0], sys.path[0] = request["script"], os.path.dirname(request["script"])
            runpy.run_path(request["script"], run_name="__main__")
        else:
            runpy.run_module("search", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    for stream_object in (sys.stdout, sys.stderr):
        stream_object.flush()
    os._exit(status)


def _fork_worker_server() -> None:
    """Fork the process that is this command's first fork server of workers, once it asks for one."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        here.close()
        _serve_workers(there)
    there.close()
    start = util.spawnv_passfds

    def spawn(path: str, arguments: Sequence[str], passed: Sequence[int]) -> int:
        if here.fileno() < 0 or not arguments[-1].startswith(counted.SERVER):
            return start(path, arguments, passed)
        about = {"code": arguments[-1], "environment": dict(os.environ), "cwd": os.getcwd(), "files": list(passed)}
        socket.send_fds(here, [json.dumps(about).encode()], list(passed))
        here.close()
        return pid

    util.spawnv_passfds = spawn


def _serve_workers(asked: socket.socket) -> NoReturn:
    """Be what `python -c CODE` is, once that is asked for; end where it never is."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as the real one is started
    text, files, _, _ = socket.recv_fds(asked, MOST, 8)
    if not text:
        os._exit(0)
    asked.close()
    about = json.loads(text)
    high = [fcntl.fcntl(file, fcntl.F_DUPFD, 500) for file in files]
    os.closerange(3, 500)
    for file, wanted in zip(high, about["files"], strict=True):  # its code names them by number
        os.dup2(file, wanted)
        os.close(file)
    os.environ.clear()
    os.environ.update(about["environment"])
    os.chdir(about["cwd"])
    if counted.is_on():
        counted.save_before_answers()
    try:
        exec(about["code"], {"__name__": "__main__"})
    except SystemExit:
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
