"""Names in a configuration are checked before anything that takes seconds to import."""

from __future__ import annotations

import json
import subprocess
import sys

#: Each of a kind of name, and the nearest valid one, which the message gives.
WRONG = {
    "budjet.trials=3": "budget",
    "budget.trails=3": "budget.trials",
    "space.prun.heads=0.5": "prune",
    "space.prune.headz=0.5": "heads",
    "space.runtime.name=onx": "onnx",
    "space.bits.precision=int9": "int8",
    "task=clasification": "classification",
    "metric=acuracy": "accuracy",
    "sampler=nsga": "nsga2",
    "objectives=[metric,latency_p50]": "latency_p50_ms",
    "limits.others.sise_mb=3": "size_mb",
}
HEAVY = ("torch", "transformers", "optuna", "mlflow", "scipy", "pandas", "datasets")
CODE = """
import contextlib, io, json, sys
from search.cli.main import main

told = {}
for wrong in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as text:
        told[wrong] = [main(["run", "--set", wrong]), text.getvalue()]
print(json.dumps([told, sorted(sys.modules)]))
"""


def test_a_wrong_name_is_answered_with_the_nearest_before_torch_is_imported() -> None:
    command = [sys.executable, "-c", CODE, json.dumps(list(WRONG))]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    answers, modules = json.loads(answer.stdout)
    for wrong, nearest in WRONG.items():
        code, text = answers[wrong]
        assert code == 2, (wrong, text)
        assert f'did you mean "{nearest}"?' in text, (wrong, text)
    assert not set(HEAVY) & set(modules)


def test_a_command_ends_with_its_status_whatever_a_library_does_at_the_processs_end() -> None:
    """Exit handlers of Python run; a C library that aborts at its own end is not asked."""
    code = (
        "import atexit, ctypes; from search.__main__ import leave; libc = ctypes.CDLL(None); "
        "libc.on_exit(libc.abort, None); atexit.register(print, 'handler'); print('said'); leave(7)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.split()) == (7, ["said", "handler"]), ended.stderr


def test_a_second_ctrl_c_cuts_no_exit_handler_short() -> None:
    """The first is told by `main`; what comes while that is told, or while processes are ended, changes nothing."""
    code = (
        "import atexit, os, signal; from search import __main__ as own; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's background job ignores it
        "interrupt = lambda: os.kill(os.getpid(), signal.SIGINT); own.main = interrupt; "
        "atexit.register(print, 'handler'); atexit.register(interrupt); own.program()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "handler\n", "")
