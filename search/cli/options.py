"""Options that several commands have, and the values that options can have."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer


@dataclass
class GlobalOptions:
    """Values of options that any command takes, which they hand to `main`; the `obj` of typer's context."""

    debug: bool = False


def _store_debug(context: typer.Context, value: bool) -> bool:
    if isinstance(context.obj, GlobalOptions):  # nothing is around a command whose words a shell completes
        context.obj.debug = value
    return value


Debug = Annotated[
    bool,
    typer.Option("--debug", callback=_store_debug, is_eager=True, help="show the traceback of an error"),
]
Mlruns = Annotated[Path | None, typer.Option("--mlruns", metavar="DIR", help="where results are (default: mlruns)")]
Study = Annotated[str, typer.Argument(metavar="STUDY", help="name of the study")]

ConfigFile = Annotated[
    Path | None,
    typer.Argument(metavar="config", help="a YAML file; none: the embedded default"),
]
TaskName = Annotated[
    str | None, typer.Option("--task", metavar="NAME", help="the task; without a file, its embedded example is run")
]
Trials = Annotated[str | None, typer.Option("--trials", metavar="N", help="the study's total number of trials")]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="SECONDS", help="for the whole run, export included")]
StudyOption = Annotated[
    str | None, typer.Option("--study", metavar="NAME", help="name of the study; an existing one is resumed")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="override any key of the file"),
]


#: The most that an option may be: no clock can wait for, and no integer hold, what is far beyond it.
LARGEST_OPTION = 1e9


def number_option(least: float = -math.inf) -> Callable[[str], float]:
    """The parser of an option whose value is a finite number, from `least` to `LARGEST_OPTION`."""
    rule = "a number" if math.isinf(least) else f"a number of {least:g} or more"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < least:
            raise typer.BadParameter(f"must be {rule}, got {text}")
        if value > LARGEST_OPTION:
            raise typer.BadParameter(f"must be at most {LARGEST_OPTION:g}, got {text}")
        return value

    return read


def whole_option(least: int, most: int | None = None) -> Callable[[str | int], int]:
    """The parser of an option whose value is a whole number from `least` to `most`."""
    rule = f"a whole number of {least} or more" if most is None else f"a whole number from {least} to {most}"

    def read(text: str | int) -> int:
        digits = str(text)
        # Eighteen digits are more than any option needs, and no number of more of them costs time.
        value = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 18 else None
        if value is None or value < least or (most is not None and value > most):
            raise typer.BadParameter(f"must be {rule}, got {text}")
        return value

    return read


def one_of(*names: str) -> Callable[[str], str]:
    """The parser of an option that is one of these names."""

    def read(text: str) -> str:
        if text not in names:
            raise typer.BadParameter(f"must be {' or '.join(names)}, got {text}")
        return text

    return read


#: The parser of a port's number.
port = whole_option(1, 2**16 - 1)


def results(mlruns: Path | None) -> Path:
    """The results folder, absolute. Raises UserError for a path with characters that are special in a database URL."""
    from search.config.load import results_path

    return results_path(mlruns or Path("mlruns"), "--mlruns")
