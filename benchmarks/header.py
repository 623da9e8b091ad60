"""What every benchmark shares: the hardware it ran on, its options, its table, and the promises it holds figures to."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from objectives import clock

ROOT = Path(__file__).parents[1]

#: Exit status when a promised figure is missed under --check.
MISSED = 1


@dataclass(frozen=True)
class Promise:
    """A figure this project promises, and its measured value."""

    what: str
    value: float
    low: float | None = None
    high: float | None = None
    stretch: bool = False  # hoped for; shown, and never a reason to fail

    @property
    def met(self) -> bool:
        return (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)

    @property
    def rule(self) -> str:
        if self.low is None or self.high is None:
            return f">= {self.low:g}" if self.low is not None else f"<= {self.high:g}"
        return f"{self.low:g} to {self.high:g}"


def options(description: str) -> argparse.ArgumentParser:
    """The options all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: under ten minutes on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--check", action="store_true", help="exit 1 where a promised figure is missed")
    return parser


def command_line() -> str:
    """The command that runs this program: of a module where it was started as one."""
    spec = sys.modules["__main__"].__spec__
    started = sys.argv[:1] if spec is None else ["-m", spec.name]
    return " ".join(["python", *started, *sys.argv[1:]])


def hardware(device: str = "cpu") -> dict[str, Any]:
    """Fingerprint, date, command and load: what a figure means nothing without."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command_line(),
        "load": round(os.getloadavg()[0], 2),
        **clock.fingerprint(device),
    }


def heading(about: dict[str, Any]) -> str:
    """Four lines for a person."""
    gpus = ", ".join(f"{g['name']} (driver {g['driver_version']}, {g['power.limit']})" for g in about["gpu"])
    libraries = ", ".join(f"{name} {version}" for name, version in about["libraries"].items())
    return "\n".join([
        f"{about['command']}   {about['date']}",
        f"{about['cpu']}, {about['cpus']} of {about['cores']} cores, {', '.join(about['instructions'])}, "
        f"{about['memory_gb']} GB{f'; {gpus}' if gpus else ''}",
        f"python {about['python']}, {libraries}",
        f"load average before: {about['load']}",
    ])  # fmt: skip


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as what is in them; the first to the left, the others to the right."""
    text = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[i]) for row in text) for i in range(len(columns))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in text
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def plain(value: Any) -> Any:
    """A value that JSON has no form for, as one that it has."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def _verdict(promise: Promise) -> str:
    if promise.stretch:
        return "reached" if promise.met else "not yet"
    return "met" if promise.met else "MISSED"


def finish(arguments: argparse.Namespace, about: dict[str, Any], rows: Any, promises: Sequence[Promise]) -> int:
    """Say which promises are met, write the file that was asked for; the exit status."""
    if promises:
        verdicts = [(_verdict(p), p.what, p.rule, f"{p.value:.4g}") for p in promises]
        print("\n" + table(("promise", "what", "rule", "measured"), verdicts))
    if arguments.json is not None:
        answers = [{**asdict(p), "met": p.met} for p in promises]
        text = json.dumps({"hardware": about, "figures": rows, "promises": answers}, indent=1, default=plain)
        partial = arguments.json.with_name(f".{arguments.json.name}.partial")
        partial.write_text(text + "\n")
        partial.replace(arguments.json)
    missed = [p for p in promises if not p.met and not p.stretch]
    if arguments.check and missed:
        for p in missed:
            print(f"missed: {p.what}: promised {p.rule}, measured {p.value:.4g}", file=sys.stderr)
        return MISSED
    return 0
