"""What the tests hold in processes of their own."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np


class UnsendableError(Exception):
    """Cannot be rebuilt from its pickle: that calls it with one argument."""

    def __init__(self, part: str, other: str) -> None:
        super().__init__(f"{part} and {other}")


class Held:
    def __init__(self) -> None:
        self.progress: Callable[[str, float], None] = lambda stage, done: None
        self.count = 0

    def add(self, amount: int) -> int:
        self.count += amount
        return self.count

    def divide(self, by: int) -> float:
        return 1 / by

    def refuse(self) -> None:
        raise UnsendableError("this", "that")

    def give_function(self) -> Callable[[], int]:
        return lambda: 1

    def imported(self, module: str) -> bool:
        return module in sys.modules

    def named(self, variable: str) -> str | None:
        return os.environ.get(variable)

    def sleep(self, seconds: float) -> str:
        time.sleep(seconds)
        return "rested"

    def work(self, steps: int) -> str:
        for step in range(steps):
            self.progress("work", (step + 1) / steps)
        return "done"

    def crash(self) -> None:
        """Below Python, after some words of Python's and of a library's."""
        print("about to crash")
        os.write(2, b"a library's last words\n")
        ctypes.string_at(0)

    def complain(self) -> None:
        print("something is odd")
        raise ValueError("odd")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(self, status: int) -> None:
        os._exit(status)


def fail_to_open() -> Held:
    raise ValueError("no such model")


def open_doubler(megabytes: int) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """A model that answers twice its input, and touches `megabytes` of memory on the way."""

    def predict(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        scratch = np.ones(megabytes * 125_000)
        return {"logits": (batch["input_ids"] * 2 * scratch[0]).astype(np.float32)}

    return predict
