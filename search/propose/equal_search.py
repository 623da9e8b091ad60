"""An equal search that this results folder holds: its trials are gone through again before new ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from objectives import clock
from search.front.outcome import Outcome
from search.prepare.prepared import Prepared
from search.propose.study import same_search


def equal_search(prepared: Prepared) -> Sequence[Outcome]:
    """Outcomes of the largest other study on this machine with an equal configuration, whatever its name and budget."""
    config = prepared.config
    if not config.measure.reuse:
        return ()
    mine = comparable(config.to_mapping())

    def alike(about: Any) -> bool:
        if about is None or clock.difference(about["hardware"], prepared.environment):
            return False
        return bool(comparable(about["config"]) == mine)

    return same_search(Path(config.mlruns), config.study, prepared.parts, alike)


def comparable(config: Mapping[str, Any]) -> Any:
    """Of a configuration what its study's parts do not say; of model and data they say the content."""
    left = {n: part for n, part in config.items() if n not in ("study", "mlruns", "budget", "model", "data")}
    return json.loads(json.dumps(left))
