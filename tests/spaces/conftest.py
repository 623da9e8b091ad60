"""Keeps tiny tensors on one thread (a second one only costs time)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from opened_graphs import Opened
    from torch.utils.hooks import RemovableHandle


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The key that seals compiled code is made for the tests, not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a decoder whose head reads the last token."""
    import models

    return models.stored(tmp_path_factory.mktemp("models") / "decoder", "llama", "native")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored model, cut by every axis; graphs that runtimes make of it are shared by the tests."""
    import models

    return models.stored(tmp_path_factory.mktemp("models") / "cut")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Opened]:
    """Opens the causal language model of a name, with its graphs."""
    from opened_graphs import cases

    return cases(tmp_path_factory.mktemp)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[RemovableHandle]:
    """The handles of the forward hooks that are registered during the test."""
    from torch import nn

    handles: list[RemovableHandle] = []

    def noting(register: Callable[..., RemovableHandle]) -> Callable[..., RemovableHandle]:
        def note(*args: Any, **kwargs: Any) -> RemovableHandle:
            handles.append(register(*args, **kwargs))
            return handles[-1]

        return note

    for name in ("register_forward_hook", "register_forward_pre_hook"):
        monkeypatch.setattr(nn.Module, name, noting(getattr(nn.Module, name)))
    return handles
