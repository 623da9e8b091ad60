"""Results of a benchmark that is run stage by stage: each is kept in a file, and all of them are shown together.

results = join(Path("serving.json"), "soak", about, StageResult({"seconds": 600}, "soak: ...", promises))
print(table(results))
promises(results)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks import header

#: A result of each stage, as it is in the file.
Results = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class StageResult:
    """The figures of one stage, what is printed of them, and what they are held to."""

    figures: Any
    text: str
    promises: list[header.Promise]


def read(path: Path) -> Results:
    """The results in a file; none where it does not exist.

    Raises:
        SystemExit: the file holds something else.
    """
    if not path.exists():
        return {}
    try:
        stages = json.loads(path.read_text())["stages"]
        return {str(name): dict(result) for name, result in stages.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(f"--join: {path} holds no results of stages ({type(error).__name__}: {error})") from None


def join(path: Path, name: str, about: Mapping[str, Any], result: StageResult) -> Results:
    """Write the result of one stage beside those of the others, in place of an earlier one; returns them all."""
    promised = [asdict(promise) for promise in result.promises]
    entry = {"hardware": dict(about), "figures": result.figures, "text": result.text, "promises": promised}
    plain = json.loads(json.dumps(entry, default=header.plain))
    results = {**read(path), name: plain}
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps({"stages": results}, indent=1) + "\n")
    partial.replace(path)
    return results


def table(results: Results) -> str:
    """When and how each stage was run."""
    rows = [
        (name, str(one["hardware"]["date"]), str(one["hardware"]["load"]), str(one["hardware"]["command"]))
        for name, one in results.items()
    ]
    return header.table(("stage", "date", "load before", "command"), rows)


def promises(results: Results) -> list[header.Promise]:
    """The promises of all stages."""
    names = [field.name for field in fields(header.Promise)]
    return [
        header.Promise(**{name: promise[name] for name in names})
        for one in results.values()
        for promise in one["promises"]
    ]
