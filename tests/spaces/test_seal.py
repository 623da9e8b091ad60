"""Seals: only what this user made, unchanged and for these conditions, passes for his own."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from spaces.runtimes import seal

OWN, OTHER = "own", "other"


def cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sealed file."""
    cache(monkeypatch, tmp_path / OWN)
    path = tmp_path / "code"
    path.write_bytes(b"made here")
    seal.seal(path, "these conditions")
    return path


def test_what_was_sealed_passes_also_in_another_process(code: Path) -> None:
    assert seal.sealed(code, "these conditions")
    seal.key_in.cache_clear()  # as a new process has it
    assert seal.sealed(code, "these conditions")


def test_nothing_passes_without_a_seal_of_its_own(code: Path) -> None:
    planted = code.with_name("planted")
    planted.write_bytes(code.read_bytes())
    assert not seal.sealed(planted, "these conditions")
    assert not seal.sealed(code.with_name("absent"), "these conditions")


@pytest.mark.parametrize("change", [b"made herE", b"", b"made here "])
def test_changed_content_breaks_the_seal(code: Path, change: bytes) -> None:
    code.write_bytes(change)
    assert not seal.sealed(code, "these conditions")


def test_other_conditions_break_the_seal(code: Path) -> None:
    assert not seal.sealed(code, "these conditions, and others")


@pytest.mark.parametrize("forged", ["", "0" * 64, "é" * 8])
def test_a_forged_seal_does_not_pass(code: Path, forged: str) -> None:
    code.with_name("code.seal").write_text(forged)
    assert not seal.sealed(code, "these conditions")


def test_another_user_has_another_key(code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = seal.private_name("engines")
    cache(monkeypatch, tmp_path / OTHER)
    assert not seal.sealed(code, "these conditions")
    assert seal.private_name("engines") != name
    cache(monkeypatch, tmp_path / OWN)
    assert seal.private_name("engines") == name != seal.private_name("other engines")


def test_the_key_is_made_once_and_only_its_owner_reads_it(code: Path, tmp_path: Path) -> None:
    (key,) = [p for p in (tmp_path / OWN).rglob("*") if p.is_file()]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    seal.key_in.cache_clear()
    seal.seal(code, "these conditions")
    assert key.read_bytes() == before and len(before) == seal.KEY_BYTES


def test_where_no_key_can_be_kept_seals_last_as_long_as_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    cache(monkeypatch, tmp_path / "file")  # no folder can be made in a file
    path = tmp_path / "code"
    path.write_bytes(b"made here")
    seal.seal(path, "")
    assert seal.sealed(path, "")
    seal.key_in.cache_clear()
    assert not seal.sealed(path, "")


def test_a_user_without_a_home_keeps_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is run under a number without a name: `~` stays `~`, and is no folder."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "code"
    path.write_bytes(b"made here")
    seal.seal(path, "")
    assert seal.sealed(path, "")
    assert {one.name for one in tmp_path.iterdir()} == {"code", "code.seal"}
