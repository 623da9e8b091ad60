"""A user without a home folder, as in a container that runs under a number nobody has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from search.track.mlflow_store import with_a_home


def test_mlflow_finds_a_home_where_the_user_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: int) -> NoReturn:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(RuntimeError, match="home"):
        Path.home()
    with with_a_home():
        assert Path.home() == Path("/")
    assert "HOME" not in os.environ


def test_a_home_that_the_user_has_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with with_a_home():
        assert Path.home() == tmp_path
