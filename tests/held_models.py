"""What worker processes of tests hold: models that answer at once, wait, or say that a row is wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.serve.generator import Piece


class Extractor:
    """The first word of the context, with the process that says so."""

    def __init__(self, seconds: float, stop: Any) -> None:
        self._seconds = seconds

    def answer(self, rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
        if any("refuse" in row["question"] for row in rows):
            raise ValueError("this question is refused")
        time.sleep(self._seconds)
        words = [row["context"].split()[0] for row in rows]
        return [{"answer": word, "score": 0.5, "start": 0, "end": len(word), "pid": os.getpid()} for word in words]


class Writer:
    """Counts, a number each `seconds`."""

    progress: Any = None

    def __init__(self, seconds: float, stop: Any) -> None:
        self._seconds, self._stop = seconds, stop
        self._written = 0

    def generate(self, call: int, prompt: str, options: Mapping[str, Any]) -> None:
        if len(prompt) > 100:
            raise ValueError("a prompt must have at most 100 tokens")
        most = options["max_new_tokens"]
        for number in range(1, most + 1):
            time.sleep(self._seconds)
            if self._stop.value == call:
                return
            self._written += 1
            self.progress("piece", Piece(f"{number} ", len(prompt), number))
        self.progress("piece", Piece("", len(prompt), most, "length"))

    def written(self) -> int:
        return self._written


class Absent:
    """A model that cannot be loaded."""

    def __init__(self, stop: Any) -> None:
        from search.errors import UserError

        raise UserError("no such model")


class Dead:
    """A process that ends when it is started."""

    def __init__(self, stop: Any) -> None:
        os._exit(3)


class Slow:
    """Answers with the rows. Its first start is quick, each later one takes `seconds`; `file` has all processes."""

    def __init__(self, file: Path, seconds: float, stop: Any) -> None:
        first = not file.exists()
        with file.open("a") as out:
            out.write(f"{os.getpid()}\n")
        if not first:
            time.sleep(seconds)

    def answer(self, rows: Sequence[Any]) -> list[Any]:
        return list(rows)


class HangsWhenTimed:
    """A model of which no call before the service serves ends; `file` has its process."""

    def __init__(self, file: Path, device: str, prefix_mb: float, stop: Any) -> None:
        file.write_text(str(os.getpid()))

    def timed(self, variant: Any) -> None:
        time.sleep(600)

    def pace(self) -> None:
        time.sleep(600)


class DiesWhenTimed(HangsWhenTimed):
    """A model whose process ends in its first call."""

    def timed(self, variant: Any) -> None:
        os._exit(1)

    def pace(self) -> None:
        os._exit(1)
