"""Who says what to try next; the only place that imports optuna."""

from search.propose.proposer import Proposer
from search.propose.samplers import SAMPLERS
from search.propose.study import open_study

__all__ = ["SAMPLERS", "Proposer", "open_study"]
