"""A made-up world to search (benchmarks/worlds.py), for tests of who is proposed, promoted and rejected."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from search.propose.ladder import Economy

World = Any  # of benchmarks/worlds.py
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ECONOMY = Economy(shares=(0.0, 0.25, 1.0), halving=2, reject=True, audit=0.0)


def worlds() -> ModuleType:
    """The module, loaded once."""
    if "worlds" not in sys.modules:
        sys.path.append(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("worlds", BENCHMARKS / "worlds.py")
        assert spec is not None and spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        sys.modules["worlds"] = made  # a dataclass looks its module up
        spec.loader.exec_module(made)
    return sys.modules["worlds"]
