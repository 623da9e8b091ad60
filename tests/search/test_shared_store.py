"""A store that other threads, containers and hosts use too: leases, locks and signs of life."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from search.errors import UserError
from search.store import locks as lock
from search.store import owner
from search.store.atomic import PARTIAL
from search.store.owner import Owner
from search.store.store import MANIFEST, Store

from .test_store import aged, lease_of


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the machine that this process takes itself to be on; process numbers and start times stay the same."""

    def move(name: str) -> None:
        monkeypatch.setattr(owner, "machine_digest", lambda: (name * 12)[:12])

    yield move
    for name in "ab":
        move(name)
        Store(tmp_path).release()


def test_what_another_host_is_making_is_not_swept_until_it_was_silent_for_long(
    tmp_path: Path, elsewhere: Callable[[str], None]
) -> None:
    """Both hosts have a process of one number, and the sweeping one has none of the other's."""
    store, begun = Store(tmp_path), []

    def build(folder: Path) -> None:
        elsewhere("b")
        begun.append(folder)
        Store(tmp_path).sweep()
        assert folder.exists(), "it is being made"
        long_ago = time.time() - owner.SILENT_S - 60
        os.utime(folder, (long_ago, long_ago))
        elsewhere("a")
        owner.touch_all()
        elsewhere("b")
        Store(tmp_path).sweep()
        assert folder.exists(), "a sign of life came"
        (folder / "data.bin").touch()
        elsewhere("a")

    elsewhere("a")
    store.make("weights", {"number": 0}, build)
    dead = owner.temporary(store.path("weights", {"number": 1}))
    dead.mkdir()
    os.utime(dead, (time.time() - owner.SILENT_S - 60,) * 2)
    elsewhere("b")
    store.sweep()
    assert not dead.exists() and store.find("weights", {"number": 0}) is not None
    assert begun[0].name.endswith(PARTIAL)


def test_what_another_host_uses_is_not_removed_until_it_was_silent_for_long(
    tmp_path: Path, elsewhere: Callable[[str], None]
) -> None:
    store = Store(tmp_path)
    elsewhere("a")
    folder = aged(store, "weights", 0, hours=1)
    store.release()
    lease = lease_of(store, owner.this_process(), hours=2)
    elsewhere("b")
    store.prune(0)
    assert folder.exists() and lease.exists()
    lease_of(store, Owner("a" * 12, os.getpid(), owner.this_process().started), hours=2, silent_hours=2)
    store.prune(0)
    assert not folder.exists() and not lease.exists()


def test_a_later_process_of_the_same_number_is_another(tmp_path: Path) -> None:
    here = owner.this_process()
    earlier = Owner(here.machine, here.pid, here.started - 1)
    assert Owner.parse(str(here)) == here and not here.gone(tmp_path, 0.0)
    assert earlier.gone(tmp_path, 0.0)


def test_a_process_that_ended_and_was_not_waited_for_is_gone(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert Owner(owner.machine_digest(), child, owner.this_process().started).gone(tmp_path, 0.0)
    assert owner.started_at(child) is None
    os.waitpid(child, 0)


def test_threads_that_make_one_entry_at_once_all_get_it_whole(tmp_path: Path) -> None:
    """Each in a folder of its own; the first to end makes the entry, the others' work is dropped."""
    store, together, places = Store(tmp_path), Barrier(4), []

    def build(folder: Path) -> None:
        places.append(folder)
        (folder / "data.bin").write_bytes(b"x" * 1000)
        together.wait(30)
        store.sweep()  # as another search of this process does when it begins
        (folder / "more.bin").write_bytes(b"y")

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: store.make("weights", {"number": 0}, build), range(4)))
    (folder,) = {folder for folder, _ in results}
    assert len(set(places)) == 4
    assert sorted(p.name for p in folder.iterdir()) == ["data.bin", MANIFEST, "more.bin"]
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    assert store.find("weights", {"number": 0}) == folder


def succeeds_in_a_fork(work: Callable[[], bool]) -> bool:
    """Whether `work` returns True in a child process, which has no thread of this one's."""
    child = os.fork()
    if child == 0:
        succeeded = False
        try:
            succeeded = work()
        finally:
            os._exit(0 if succeeded else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_signs_of_life_come_from_a_thread_that_is_there_after_a_fork_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fork of a fork: this process may have a thread that sleeps for the usual time."""
    monkeypatch.setattr(owner, "BEAT_S", 0.01)

    def beats(path: Path) -> bool:
        path.touch()
        os.utime(path, (0, 0))
        with owner.beating(path):
            for _ in range(1000):
                if path.stat().st_mtime > 0:
                    return True
                time.sleep(0.01)
        return False

    child = tmp_path / "child"
    assert succeeds_in_a_fork(lambda: beats(tmp_path / "parent") and succeeds_in_a_fork(lambda: beats(child)))


def test_a_lock_is_held_on_a_file_open_for_writing(tmp_path: Path) -> None:
    """A network file system locks only what is open for writing."""
    with (
        lock.alone_in(tmp_path),
        (tmp_path / lock.LOCK).open("r+") as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_threads_are_alone_in_a_folder_one_after_the_other(tmp_path: Path) -> None:
    inside, most = [], []

    def enter(number: int) -> None:
        with lock.alone_in(tmp_path):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, range(8)))
    assert most == [1] * 8


HOLDING = """
import sys, time
from pathlib import Path
from search.store.locks import alone_in, study_lock
with alone_in(Path(sys.argv[1])), study_lock(Path(sys.argv[1]), "study"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_holds_no_lock_and_one_that_lives_is_named(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout is not None and held.stdout.readline() == "held\n"
        for _ in range(2):  # to be refused takes nothing from the holder, nor its name
            with (
                pytest.raises(UserError, match=f"process {held.pid} is running it"),
                lock.study_lock(tmp_path, "study"),
            ):
                pass
        held.kill()
        held.wait()
    started = time.monotonic()
    with lock.alone_in(tmp_path), lock.study_lock(tmp_path, "study"):
        assert time.monotonic() - started < 5
    assert list((tmp_path / "locks").iterdir()) == []
