"""Makes `models` importable, and keeps tiny tensors on one thread (a second one only costs time)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # last: other folders have a conftest too


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored model, cut by every axis; graphs that runtimes make of it are shared by the tests."""
    import models

    return models.stored(tmp_path_factory.mktemp("models") / "cut")
