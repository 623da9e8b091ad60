"""Finds an earlier equal search in the results folder; its trials are proposed first."""

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
    own = compared_part(config.to_mapping())

    def is_equal(about: Any) -> bool:
        if about is None or clock.machine_difference(about["hardware"], prepared.environment):
            return False
        return bool(compared_part(about["config"]) == own)

    return same_search(Path(config.mlruns), config.study, prepared.parts, is_equal)


def compared_part(config: Mapping[str, Any]) -> Any:
    """The part of a configuration that must be equal, as JSON; model and data are compared by content elsewhere."""
    rest = {n: part for n, part in config.items() if n not in ("study", "mlruns", "budget", "model", "data")}
    return json.loads(json.dumps(rest))
