"""The tables of a run: one JSON file and one text file, written again after every row, so that a cut-off loses none."""

from __future__ import annotations

import importlib.util
import json
import runpy
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import header
from objectives import clock
from search.store import atomic

#: Letters of a cell in the text; the JSON has all of it.
WIDEST = 90
JSON, TEXT, FAILURES = "tables.json", "tables.txt", "failures.txt"


def hardware(device: str) -> dict[str, Any]:
    """The benchmarks' header, with the CUDA that torch was built for."""
    about = header.hardware(device)
    spec = importlib.util.find_spec("torch")
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    built = runpy.run_path(str(Path(places[0], "version.py"))) if places else {}  # torch itself takes seconds to import
    return {**about, "cuda": built.get("cuda") or "none"}


def heading(about: dict[str, Any]) -> str:
    """Lines for a person; the GPU's clocks and power cap are on a line of their own."""
    lines = [header.heading(about)]
    for gpu in about["gpu"]:
        clocks = f"SM clock {gpu['clocks.sm']} of {gpu['clocks.max.sm']}"
        lines.append(
            f"{gpu['name']}: {clocks}, power cap {gpu['power.limit']}, {gpu['memory.total']}, driver "
            f"{gpu['driver_version']}, torch built for CUDA {about['cuda']}"
        )
    if not about["gpu"]:
        lines.append(f"no GPU; torch built for CUDA {about['cuda']}")
    return "\n".join(lines)


class Tables:
    """All tables of a run in one folder. One process at a time writes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, about: dict[str, Any], again: Sequence[str]) -> None:
        """A run of the stages `again`; tables that this same machine made of others stay."""
        self._folder.mkdir(parents=True, exist_ok=True)
        stages: dict[str, Any] = {}
        if (self._folder / JSON).exists():
            before = self.read()
            if not clock.machine_difference(*(_lasting(hardware) for hardware in (before["hardware"], about))):
                stages = {name: stage for name, stage in before["stages"].items() if name not in again}
        if not stages:
            (self._folder / FAILURES).unlink(missing_ok=True)
        self._write({"hardware": about, "stages": stages})

    def read(self) -> dict[str, Any]:
        table: dict[str, Any] = json.loads((self._folder / JSON).read_text(encoding="utf-8"))
        return table

    def change(self, stage: str, **values: Any) -> None:
        """Set values of a stage; what it does not have yet is empty."""
        data = self.read()
        empty = {"title": stage, "state": "", "columns": [], "rows": [], "notes": [], "goals": []}
        data["stages"][stage] = {**empty, **data["stages"].get(stage, {}), **values}
        self._write(data)

    def failed(self, stage: str, text: str) -> None:
        """Keep what a failed stage said, in the file of failures."""
        path = self._folder / FAILURES
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        atomic.write_text(path, f"{before}=== {stage}\n{text.strip()}\n\n")

    def _write(self, data: dict[str, Any]) -> None:
        atomic.write_text(self._folder / JSON, json.dumps(data, indent=1, default=str) + "\n")
        atomic.write_text(self._folder / TEXT, text_of(data))


def _lasting(about: dict[str, Any]) -> dict[str, Any]:
    """The hardware without what belongs to one run, as JSON gives it back."""
    facts: dict[str, Any] = json.loads(json.dumps(about, default=str))
    return {name: value for name, value in facts.items() if name not in ("date", "command", "load")}


def text_of(data: dict[str, Any]) -> str:
    parts = [heading(data["hardware"])]
    for name, stage in data["stages"].items():
        lines = [f"--- {name}: {stage['title']}  [{stage['state']}]"]
        if stage["rows"]:
            cells = [[_cell(row.get(column)) for column in stage["columns"]] for row in stage["rows"]]
            lines += ["", header.table(stage["columns"], cells)]
        if stage["goals"]:
            rows = [(g["verdict"], g["what"], g["rule"], f"{g['value']:.4g}") for g in stage["goals"]]
            lines += ["", header.table(("goal", "what", "rule", "measured"), rows)]
        if stage["notes"]:
            lines += ["", *stage["notes"]]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 4]} ..."


class Report:
    """The table of one stage. Every change is on disk when the call returns."""

    def __init__(self, tables: Tables, stage: str) -> None:
        self._tables, self._stage = tables, stage
        self.rows: list[dict[str, Any]] = []
        self._notes: list[str] = []
        self._began = time.monotonic()

    def begin(self, title: str, columns: Sequence[str]) -> None:
        self._tables.change(self._stage, title=title, columns=list(columns))

    def add(self, **cells: Any) -> dict[str, Any]:
        """A new row; columns that are not in the title's are in the JSON alone."""
        row = {**cells, "at_s": round(time.monotonic() - self._began, 1)}
        self.rows.append(row)
        self._tables.change(self._stage, rows=self.rows)
        return row

    def fill(self, row: dict[str, Any], **cells: Any) -> None:
        """More cells of a row that `add` gave."""
        row.update(cells)
        self._tables.change(self._stage, rows=self.rows)

    def failure(self, text: str) -> None:
        """What went wrong on the way, in the file of failures; the stage goes on."""
        self._tables.failed(self._stage, text)

    def note(self, line: str) -> None:
        self._notes.append(line)
        self._tables.change(self._stage, notes=self._notes)

    def goals(self, promises: Sequence[header.Promise]) -> None:
        """The goals as they stand now, each met or missed, in the place of what was said before."""
        rows = [{**asdict(p), "rule": p.rule, "verdict": "met" if p.met else "missed"} for p in promises]
        self._tables.change(self._stage, goals=rows)
