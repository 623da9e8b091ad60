"""What takes the place of a process in tests of benchmarks."""

from __future__ import annotations

import functools
from typing import Any


class Here:
    """A `Remote` without a process, which takes time to start."""

    def __init__(self, factory: functools.partial[Any], **_: Any) -> None:
        self._held = factory()

    def call(self, method: str, *arguments: Any, **_: Any) -> Any:
        return getattr(self._held, method)(*arguments)

    def close(self) -> None: ...
