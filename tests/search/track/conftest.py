"""Fixtures of tracking: an MLflow store of a file's own, and a front that is quickly logged."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.front.front import Front

from .. import factory


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlruns")


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Front:
    return factory.stored(factory.front(trials=14), tmp_path_factory.mktemp("cache"))
