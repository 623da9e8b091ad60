"""Laws of `Remote`: an object in a process of its own, and every way that process can end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from held import Held, fail_to_open

from objectives.fork_server import ctrl_c_later
from objectives.process import Remote, RemoteDied, RemoteError, RemoteTimeout, raised_in

ROOT = Path(__file__).parents[2]


@pytest.fixture
def remote() -> Iterator[Remote]:
    with Remote(Held) as opened:
        yield opened


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_the_object_lives_elsewhere_and_keeps_its_state(remote: Remote) -> None:
    assert remote.pid != os.getpid()
    assert [remote.call("add", 2), remote.call("add", 3)] == [2, 5]


def test_an_exception_keeps_its_type_and_brings_its_traceback(remote: Remote) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        remote.call("divide", 0)
    assert any("in divide" in note for note in caught.value.__notes__)
    assert remote.call("add", 1) == 1


def test_an_exception_that_cannot_travel_is_told_in_words(remote: Remote) -> None:
    with pytest.raises(RemoteError, match="UnsendableError: this and that"):
        remote.call("refuse")


def test_an_answer_that_cannot_travel_is_an_error_and_the_process_goes_on(remote: Remote) -> None:
    with pytest.raises(Exception, match=r"(?i)pickle"):
        remote.call("give_function")
    assert remote.call("add", 1) == 1


def test_what_the_factory_raises_is_raised_by_the_constructor() -> None:
    with pytest.raises(ValueError, match="no such model"):
        Remote(fail_to_open)


def test_death_by_signal_is_reported_with_its_usual_reason(remote: Remote) -> None:
    with pytest.raises(RemoteDied, match=r"signal 9.*out of memory") as caught:
        remote.call("die")
    assert caught.value.exitcode == -signal.SIGKILL


def test_a_crash_below_python_brings_where_it_was_and_what_was_printed(
    remote: Remote, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RemoteDied, match="signal 11") as caught:
        remote.call("crash")
    [note] = caught.value.__notes__
    assert "about to crash" in note and "a library's last words" in note
    assert "Segmentation fault" in note and "in crash" in note
    assert capfd.readouterr() == ("", ""), "nothing between our own lines"


def test_an_exception_brings_what_was_printed_and_where_it_was_raised(remote: Remote) -> None:
    with pytest.raises(ValueError, match="odd") as caught:
        remote.call("complain")
    assert any("something is odd" in note for note in caught.value.__notes__)
    assert str(raised_in(caught.value)).endswith("held.py")
    assert raised_in(ValueError("of this process")) is None


def test_an_exit_is_reported_with_its_status(remote: Remote) -> None:
    with pytest.raises(RemoteDied, match="exit 7"):
        remote.call("leave", 7)


def test_death_between_calls_is_found_by_the_next(remote: Remote) -> None:
    os.kill(remote.pid, signal.SIGKILL)
    assert wait_until(lambda: gone(remote.pid))
    remote.pause()  # nobody is there to be stopped, which is no error of the caller's
    remote.resume()
    with pytest.raises(RemoteDied):
        remote.call("add", 1)


def test_a_late_answer_ends_the_process(remote: Remote) -> None:
    with pytest.raises(RemoteTimeout, match="within 0 s"):
        remote.call("sleep", 60, timeout_s=0.2)
    assert gone(remote.pid)
    with pytest.raises(RemoteDied):
        remote.call("add", 1)


@pytest.mark.parametrize("limit_s", [2.2e6, 1e10, 1e308])
def test_a_limit_may_be_longer_than_a_kernel_can_wait_for(remote: Remote, limit_s: float) -> None:
    assert remote.call("add", 1, timeout_s=limit_s) == 1


def test_no_call_takes_longer_than_is_left_whatever_its_own_limit_is() -> None:
    left = iter([60.0, 0.2])
    with Remote(Held, limit_s=lambda: next(left)) as remote:
        assert remote.call("add", 1) == 1
        with pytest.raises(RemoteTimeout, match="within 0 s"):
            remote.call("sleep", 60, timeout_s=300)


def test_a_paused_process_does_nothing_until_it_is_resumed(remote: Remote) -> None:
    remote.pause()
    assert wait_until(lambda: psutil.Process(remote.pid).status() == psutil.STATUS_STOPPED)
    remote.resume()
    assert remote.call("add", 1, timeout_s=30) == 1


def test_a_paused_process_can_be_closed() -> None:
    remote = Remote(Held)
    remote.pause()
    remote.close()
    assert gone(remote.pid)


def test_a_remote_that_nobody_holds_ends_its_process() -> None:
    pid = Remote(Held).pid
    assert wait_until(lambda: gone(pid))


def test_progress_comes_in_order_before_the_answer(remote: Remote) -> None:
    reports: list[tuple[str, float]] = []
    assert remote.call("work", 4, progress=lambda stage, done: reports.append((stage, done))) == "done"
    assert reports == [("work", 0.25), ("work", 0.5), ("work", 0.75), ("work", 1.0)]


def test_an_interrupted_call_leaves_no_answer_for_the_next(remote: Remote) -> None:
    def interrupt(stage: str, done: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote.call("work", 1, progress=interrupt)
    with pytest.raises(RemoteDied):
        remote.call("add", 1)


PROGRAM = """
import threading, time
from held import Held
from objectives import process
if __name__ == "__main__":
    paused, working = process.Remote(Held), process.Remote(Held)
    paused.pause()
    threading.Thread(target=working.call, args=("sleep", 60), daemon=True).start()
    print(paused.pid, working.pid, flush=True)
    {then}
"""


@pytest.mark.parametrize("then", ["time.sleep(60)", "pass"], ids=["killed", "ended"])
def test_no_process_outlives_the_program(tmp_path: Path, then: str) -> None:
    """Neither one that is paused nor one that is working."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(then=then))
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": paths}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as program:
        assert program.stdout is not None
        pids = list(map(int, program.stdout.readline().split()))
        if then != "pass":
            program.kill()
        program.wait(timeout=30)
    assert len(pids) == 2
    assert wait_until(lambda: all(map(gone, pids)))


def test_ctrl_c_takes_effect_where_a_worker_has_been_told_all() -> None:
    """In between, the worker would show a traceback of what it could not read."""
    done: list[str] = []
    here = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

    def told() -> None:
        with ctrl_c_later():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("told")
        done.append("not reached")

    try:
        with pytest.raises(KeyboardInterrupt):
            told()
        assert done == ["told"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, here)
