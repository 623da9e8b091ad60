"""What the threads of workers do while they wait: in those that are timed as the user has it, in the others sleep."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from objectives.openmp_waiting import PASSIVE, WAIT_VARIABLES, default_waiting

PATHS = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])
PROGRAM = """
import os
from held import Held
from objectives.process import Remote

if __name__ == "__main__":
    before = dict(os.environ)
    with Remote(Held, waiting="{waiting}") as remote:
        print(remote.call("named", "OMP_WAIT_POLICY"), remote.call("named", "DO_NOT_TRACK"))
    assert dict(os.environ) == before
"""


@pytest.mark.parametrize(
    ("waiting", "chosen", "policy", "spins"),
    [
        ("passive", {}, "passive", "0"),
        ("passive", {"OMP_WAIT_POLICY": "active"}, "passive", "0"),
        ("default", {}, "None", "300000"),
        ("default", {"GOMP_SPINCOUNT": "7"}, "None", "7"),
    ],
)
def test_only_what_is_timed_waits_as_the_user_has_it(
    tmp_path: Path, waiting: str, chosen: dict[str, str], policy: str, spins: str
) -> None:
    """libgomp itself says what it has read, in the fork server, which is where it is loaded."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(waiting=waiting))
    environment = {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES}
    environment |= {"PYTHONPATH": PATHS, "OMP_DISPLAY_ENV": "verbose", **chosen}
    answer = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [policy, "1"]
    spin_counts = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", answer.stderr)
    if not spin_counts:
        pytest.skip("this torch brings another OpenMP than libgomp")
    assert set(spin_counts) == {spins}


SERVERS = """
import psutil
from held import Held
from objectives.process import Remote

if __name__ == "__main__":
    with Remote(Held, waiting="default") as timed, Remote(Held, waiting="passive") as other:
        print(psutil.Process(timed.pid).ppid() == psutil.Process(other.pid).ppid())
"""


@pytest.mark.parametrize(("chosen", "one"), [({}, "False"), (dict(PASSIVE), "True")])
def test_one_fork_server_is_enough_where_the_users_own_threads_sleep(
    tmp_path: Path, chosen: dict[str, str], one: str
) -> None:
    script = tmp_path / "program.py"
    script.write_text(SERVERS)
    environment = {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES}
    environment |= {"PYTHONPATH": PATHS, **chosen}
    answer = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [one]


def test_a_timing_says_how_its_threads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WAIT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert default_waiting() == "default"
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")
    assert default_waiting() == "OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0"
