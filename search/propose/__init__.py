"""Who says what to try next; the only place that imports optuna."""

from search.propose.accuracy import QualityModel
from search.propose.bounds import Bounds
from search.propose.known_latency import KnownLatency, weights_grid
from search.propose.ladder import Economy, Ladder
from search.propose.outlook import Aims, Knowledge, Outlook
from search.propose.proposer import Proposer
from search.propose.record import Record
from search.propose.samplers import SAMPLERS
from search.propose.study import open_study

__all__ = [
    "SAMPLERS",
    "Aims",
    "Bounds",
    "Economy",
    "Knowledge",
    "KnownLatency",
    "Ladder",
    "Outlook",
    "Proposer",
    "QualityModel",
    "Record",
    "open_study",
    "weights_grid",
]
