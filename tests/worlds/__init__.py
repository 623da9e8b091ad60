"""Worlds to search without training anything, for tests and benchmarks of the search itself."""

from tests.worlds.searching import Trace, TrueCosts, search
from tests.worlds.truth import World, synthetic

__all__ = ["Trace", "TrueCosts", "World", "search", "synthetic"]
