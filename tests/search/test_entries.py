"""An entry of the stage cache: made once, whole in every file or made again, and kept while a lease names it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from search.store import owner
from search.store import store as stores
from search.store.owner import Owner
from search.store.store import LEASES, MANIFEST, Store

from .test_store import aged, fill, lease_of

KEY = {"number": 0}
#: Before and after the manifest in the order of names, and below a folder.
FILES = ("a.bin", "model.safetensors", "tokens/vocabulary.txt")


def fill_all(folder: Path) -> None:
    (folder / "tokens").mkdir()
    for name in FILES:
        (folder / name).write_bytes(name.encode())


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    store, built = Store(tmp_path), []
    folder, is_new = store.make("weights", KEY, built.append)
    assert is_new and len(built) == 1
    assert store.make("weights", KEY, built.append) == (folder, False) and len(built) == 1
    assert store.make("weights", {"number": 1}, built.append)[1] and store.make("teacher", KEY, built.append)[1]


def test_an_entry_made_by_other_code_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.make("weights", KEY, fill(10))
    monkeypatch.setitem(stores.CODE_VERSIONS, "weights", stores.CODE_VERSIONS["weights"] + 1)
    assert store.find("weights", KEY) is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [None, b"", b"longer than it was, by far", *(b"%d" % n for n in range(4))])
def test_an_entry_with_any_file_changed_is_removed(tmp_path: Path, name: str, content: bytes | None) -> None:
    store = Store(tmp_path)
    folder, _ = store.make("weights", KEY, fill_all)
    stores.VERIFIED.clear()  # as in the next process
    assert store.find("weights", KEY) == folder
    if content is None:
        (folder / name).unlink()
    else:  # as long as it was, where that can be
        (folder / name).write_bytes(content if len(content) != 1 else content * len(name))
    assert store.find("weights", KEY) is None and not folder.exists()


@pytest.mark.parametrize("text", [None, "{", "{}"], ids=["absent", "cut off", "without files"])
def test_an_entry_without_a_whole_manifest_is_removed(tmp_path: Path, text: str | None) -> None:
    store = Store(tmp_path)
    folder, _ = store.make("weights", KEY, fill(10))
    if text is None:
        (folder / MANIFEST).unlink()
    else:
        (folder / MANIFEST).write_text(text)
    assert store.find("weights", KEY) is None and not folder.exists()


def test_the_manifest_has_the_size_and_the_hash_of_every_file_but_itself(tmp_path: Path) -> None:
    folder, _ = Store(tmp_path).make("weights", KEY, fill_all)
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in FILES}
    written = json.loads((folder / MANIFEST).read_text())["files"]
    assert written == {name: [len(name), digest] for name, digest in hashes.items()}
    assert {name: stores.digest_in(folder, name) for name in FILES} == hashes


def test_a_second_process_notes_its_use_beside_the_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "cache")
    scratch = store.scratch("weights", KEY)  # before there is any folder
    assert scratch.parent.is_dir()
    other = lease_of(store, Owner(owner.machine_digest(), os.getppid(), 0), hours=2)
    folder = aged(store, "weights", 0)
    before = folder.stat().st_mtime
    assert {path.name for path in (store.root / LEASES).iterdir()} == {other.name, str(owner.this_process())}
    store.find("weights", KEY)
    assert folder.stat().st_mtime > before + 3000


def test_a_lease_of_unknown_form_counts_until_it_was_silent_for_long(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = aged(store, "weights", 0, hours=1)
    store.release()
    lease = store.root / LEASES / "unknown"
    lease.write_text(str(time.time() - 7200))
    store.prune(0)
    assert folder.exists() and lease.exists()
    os.utime(lease, (time.time() - 7200,) * 2)
    store.prune(0)
    assert not folder.exists() and not lease.exists()


def test_leases_of_ended_processes_hide_none_of_living_ones(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = aged(store, "weights", 0, hours=1)
    store.release()
    ended = [lease_of(store, Owner(owner.machine_digest(), os.getpid(), n), hours=3) for n in range(8)]
    living = lease_of(store, owner.this_process(), hours=2)
    store.prune(0)
    assert folder.exists() and living.exists() and not any(lease.exists() for lease in ended)
