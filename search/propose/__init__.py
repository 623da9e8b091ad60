"""Who says what to try next; the only place that imports optuna.

What is imported from here comes from its module when it is first asked for: optuna takes long to import, and the names
of the samplers are asked for before anything else.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.propose.known_latency import KnownLatency, weights_grid
    from search.propose.ladder import Economy, Ladder
    from search.propose.proposer import Proposer
    from search.propose.samplers import SAMPLERS
    from search.propose.study import open_study
    from search.propose.surrogate.bounds import Bounds
    from search.propose.surrogate.outlook import Aims, CostModel, Outlook
    from search.propose.surrogate.quality import QualityModel
    from search.propose.surrogate.record import Record

_MODULES = {
    "SAMPLERS": "samplers",
    "Aims": "surrogate.outlook",
    "Bounds": "surrogate.bounds",
    "Economy": "ladder",
    "CostModel": "surrogate.outlook",
    "KnownLatency": "known_latency",
    "Ladder": "ladder",
    "Outlook": "surrogate.outlook",
    "Proposer": "proposer",
    "QualityModel": "surrogate.quality",
    "Record": "surrogate.record",
    "open_study": "study",
    "weights_grid": "known_latency",
}

__all__ = [
    "SAMPLERS",
    "Aims",
    "Bounds",
    "CostModel",
    "Economy",
    "KnownLatency",
    "Ladder",
    "Outlook",
    "Proposer",
    "QualityModel",
    "Record",
    "open_study",
    "weights_grid",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
