"""What fork servers give their workers: threads that wait as the user has it, or sleep, and imported modules."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from objectives.openmp_waiting import PASSIVE, WAIT_VARIABLES, default_waiting

PATHS = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])
#: Starts a worker for each way of waiting that is named; what its fork server prints goes to a file of that name.
PROGRAM = """
import os, sys
import psutil
from held import Held
from objectives.fork_server import preload
from objectives.process import Remote

if __name__ == "__main__":
    before = dict(os.environ)
    preload("colorsys")
    for waiting in sys.argv[1:]:
        with open(waiting, "w") as file:
            os.dup2(file.fileno(), 2)
        with Remote(Held, waiting=waiting) as remote:
            policy, untracked = (remote.call("named", name) for name in ("OMP_WAIT_POLICY", "DO_NOT_TRACK"))
            print(policy, untracked, psutil.Process(remote.pid).ppid(), remote.call("imported", "colorsys"))
    assert dict(os.environ) == before
"""


@dataclass(frozen=True)
class StartedWorker:
    """A worker, and what its fork server says."""

    policy: str  # OMP_WAIT_POLICY in the worker
    untracked: str  # DO_NOT_TRACK in the worker
    server: str  # process id of its fork server
    preloaded: bool  # whether it found the module imported that the program asked for
    spin_counts: frozenset[str]  # as libgomp itself says, in the fork server, which is where it is loaded


def workers(folder: Path, chosen: dict[str, str], *waitings: str) -> list[StartedWorker]:
    """One for each of `waitings`, of a program in whose environment nothing but `chosen` is about OpenMP."""
    script = folder / "program.py"
    script.write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES}
    environment |= {"PYTHONPATH": PATHS, "OMP_DISPLAY_ENV": "verbose", **chosen}
    command = [sys.executable, script, *waitings]
    answer = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    started = []
    for name, line in zip(waitings, answer.stdout.splitlines(), strict=True):
        spins = frozenset(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", (folder / name).read_text()))
        policy, untracked, server, preloaded = line.split()
        started.append(StartedWorker(policy, untracked, server, preloaded == "True", spins))
    return started


def check(worker: StartedWorker, policy: str, spins: str) -> None:
    assert (worker.policy, worker.untracked) == (policy, "1") and worker.preloaded
    if not worker.spin_counts:
        pytest.skip("this torch brings another OpenMP than libgomp")
    assert worker.spin_counts == {spins}


@pytest.mark.parametrize(
    ("waiting", "chosen", "policy", "spins"),
    [("passive", {"OMP_WAIT_POLICY": "active"}, "passive", "0"), ("default", {"GOMP_SPINCOUNT": "7"}, "None", "7")],
)
def test_only_what_is_timed_waits_as_the_user_has_it(
    tmp_path: Path, waiting: str, chosen: dict[str, str], policy: str, spins: str
) -> None:
    [worker] = workers(tmp_path, chosen, waiting)
    check(worker, policy, spins)


def test_where_the_user_says_nothing_timed_workers_spin_and_others_sleep_and_each_have_a_fork_server(
    tmp_path: Path,
) -> None:
    timed, other = workers(tmp_path, {}, "default", "passive")
    assert timed.server != other.server
    check(timed, "None", "300000")
    check(other, "passive", "0")


def test_one_fork_server_is_enough_where_the_users_own_threads_sleep(tmp_path: Path) -> None:
    timed, other = workers(tmp_path, dict(PASSIVE), "default", "passive")
    assert timed.server == other.server


def test_a_timing_says_how_its_threads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WAIT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert default_waiting() == "default"
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")
    assert default_waiting() == "OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0"
