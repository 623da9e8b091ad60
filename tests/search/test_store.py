"""The stage cache: found again, whole or not at all, bounded, and safe with several processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import command
import pytest

from search.store import owner
from search.store import store as stores
from search.store.owner import Owner
from search.store.store import LEASES, MANIFEST, SCRATCH_S, Store


def fill(size: int):  # type: ignore[no-untyped-def]
    def build(folder: Path) -> None:
        (folder / "data.bin").write_bytes(b"x" * size)

    return build


def aged(store: Store, stage: str, number: int, size: int = 1000, hours: float = 1.0) -> Path:
    """An entry that was last used `hours` ago."""
    folder, _ = store.make(stage, {"number": number}, fill(size))
    os.utime(folder, (time.time() - 3600 * hours,) * 2)
    return folder


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folders = [aged(store, "weights", n, hours=10 - n) for n in range(4)]
    total = sum(entry.bytes for entry in store.entries())
    removed = store.prune(total - 1)
    assert [entry.folder for entry in removed] == folders[:1]
    assert [folder.exists() for folder in folders] == [False, True, True, True]
    assert store.find("weights", {"number": 1}) == folders[1]  # a use, so that it is the youngest now
    store.prune(total // 2 - 1)
    assert [folder.exists() for folder in folders] == [False, True, False, False]


def test_a_limit_holds_while_entries_are_made(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=5000)
    for number in range(12):
        aged(store, "weights", number)
    assert sum(entry.bytes for entry in store.entries()) <= 5000
    assert store.find("weights", {"number": 11}) is not None and store.find("weights", {"number": 0}) is None


def test_the_time_of_writing_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = aged(store, "weights", 0)
    written = (folder / MANIFEST).stat().st_mtime_ns
    store.find("weights", {"number": 0})
    assert (folder / MANIFEST).stat().st_mtime_ns == written
    assert time.time() - store.entries()[0].used < 60


def test_to_read_what_is_said_of_entries_is_no_use_of_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = aged(store, "weights", 0, hours=48)
    os.utime(folder / MANIFEST, (time.time() - 3600 * 48,) * 2)  # to read a file this old changes its time
    assert list(store.abouts("weights")) == [folder]
    assert time.time() - store.entries()[0].used > 3600 * 47


def lease_of(store: Store, of: Owner, hours: float, silent_hours: float = 0.0) -> Path:
    """The lease of a process that began to use the store `hours` ago, and gave its last sign of life then."""
    lease = store.root / LEASES / str(of)
    lease.parent.mkdir(exist_ok=True)
    lease.write_text(str(time.time() - 3600 * hours))
    os.utime(lease, (time.time() - 3600 * silent_hours,) * 2)
    return lease


def test_what_a_living_process_used_is_not_removed_and_what_a_dead_one_used_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    before, after = aged(store, "weights", 0, hours=3), aged(store, "weights", 1, hours=1)
    store.release()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        lease = lease_of(store, of_process(other.pid), hours=2)
        store.prune(0)
        assert (before.exists(), after.exists()) == (False, True)
        other.kill()
    store.prune(0)
    assert not after.exists() and not lease.exists()


def of_process(pid: int) -> Owner:
    started = owner.started_at(pid)
    assert started is not None
    return Owner(owner.machine_digest(), pid, started)


def test_a_damaged_entry_is_found_out_and_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = aged(store, "weights", 0)
    (folder / "data.bin").write_bytes(b"y" * 1000)  # as long as it was
    assert store.find("weights", {"number": 0}) is None
    assert store.make("weights", {"number": 0}, fill(1000)) == (folder, True)
    assert (folder / "data.bin").read_bytes() == b"x" * 1000


def counting_hashes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files, as they are hashed."""
    hashed: list[str] = []
    real = stores.sha256_of

    def counted(path: Path) -> str:
        hashed.append(path.name)
        return real(path)

    monkeypatch.setattr(stores, "sha256_of", counted)
    return hashed


def test_an_entry_is_hashed_once_a_process_and_again_when_it_was_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed, store = counting_hashes(monkeypatch), Store(tmp_path)
    folder, _ = store.make("weights", {"number": 0}, fill(1000))
    assert hashed == ["data.bin"]
    for _ in range(3):
        assert store.find("weights", {"number": 0}) == folder
    assert hashed == ["data.bin"], "what was hashed when it was made"
    stores.VERIFIED.clear()  # as in the next process
    for _ in range(3):
        assert store.find("weights", {"number": 0}) == folder
    assert hashed == ["data.bin"] * 2
    times = (folder / "data.bin").stat().st_mtime_ns
    (folder / "data.bin").write_bytes(b"y" * 1000)
    os.utime(folder / "data.bin", ns=(times, times))
    assert store.find("weights", {"number": 0}) is None, "as large as it was, and its time put back"


# --- scratch files ------------------------------------------------------------------------------------------


def begun(store: Store, stage: str, number: int, days: float = 0.0) -> Path:
    """The scratch file of an entry, last written `days` ago."""
    path = store.scratch(stage, {"number": number})
    path.write_bytes(b"x" * 1000)
    os.utime(path, (time.time() - 86400 * days,) * 2)
    return path


def test_a_scratch_file_is_its_entrys_own_and_stays_until_that_is_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ours, other, stage = (begun(store, *which) for which in (("weights", 0), ("weights", 1), ("teacher", 0)))
    assert len({ours, other, stage}) == 3

    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.make("weights", {"number": 0}, killed)
    assert ours.exists()
    store.make("weights", {"number": 0}, fill(10))
    assert [path.exists() for path in (ours, other, stage)] == [False, True, True]


def test_scratch_files_are_no_entries_but_count_and_go_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = aged(store, "weights", 0)
    before = store.entries()
    old, young = begun(store, "weights", 1, days=2), begun(store, "weights", 2, days=1)
    assert store.entries() == before
    size = old.stat().st_size
    store.prune(before[0].bytes + size)
    assert [path.exists() for path in (folder, old, young)] == [True, False, True]
    store.prune(before[0].bytes)
    assert folder.exists() and not young.exists()


def test_a_scratch_file_of_a_process_that_lives_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make("weights", {"number": 0}, fill(10))  # it uses the store from now on
    path = begun(store, "weights", 1)
    store.prune(0)
    assert path.exists()


def test_a_training_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ours, other = (begun(store, "weights", number) for number in (0, 1))
    store.drop_scratch("weights", {"number": 0})
    assert [path.exists() for path in (ours, other)] == [False, True]


@pytest.mark.parametrize("tidy", [Store.sweep, lambda store: store.prune(10**9)], ids=["sweep", "prune"])
def test_scratch_files_of_last_week_and_half_written_ones_go(tmp_path: Path, tidy: Callable[[Store], object]) -> None:
    store, week = Store(tmp_path), SCRATCH_S / 86400
    old, young = begun(store, "weights", 0, days=week + 0.1), begun(store, "weights", 1, days=week - 0.1)
    half, ours = (young.with_name(f".{young.name}.{number}") for number in (1, 2))
    for path, hours in ((half, 25), (ours, 23)):
        path.touch()
        os.utime(path, (time.time() - 3600 * hours,) * 2)
    tidy(store)
    assert [path.exists() for path in (old, young, half, ours)] == [False, True, False, True]


# --- the command --------------------------------------------------------------------------------------------


def test_the_command_shows_and_prunes(tmp_path: Path) -> None:
    store = Store(tmp_path / "mlruns" / "cache")
    for number in range(3):
        aged(store, "weights", number, size=2_000_000)
    result = command.search_anew("cache", cwd=tmp_path).succeeded()
    assert "weights          3 entries" in result.out and "0.01 GB" in result.out
    pruned = command.search("cache", "--max-gb", "0.0045", cwd=tmp_path).succeeded()
    assert "removed 1 entries" in pruned.out and "weights          2 entries" in pruned.out


@pytest.mark.parametrize("size", ["-1", "much", "nan", "inf"])
def test_a_limit_that_is_no_size_is_refused(tmp_path: Path, size: str) -> None:
    Store(tmp_path / "mlruns" / "cache").make("weights", {}, fill(10))
    refused = command.search("cache", f"--max-gb={size}", cwd=tmp_path)
    assert (refused.code, refused.err) == (2, f"error: --max-gb: must be a number of 0 or more, got {size}\n")


def test_without_a_cache_the_command_says_what_makes_one(tmp_path: Path) -> None:
    refused = command.search("cache", cwd=tmp_path)
    assert refused.code == 2 and "no cache in" in refused.err and len(refused.err.splitlines()) == 1
