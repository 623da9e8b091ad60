"""Worlds to search without training anything, for tests and benchmarks of the search itself."""

from worlds.searching import Trace, TrueCosts, search
from worlds.truth import World, synthetic

__all__ = ["Trace", "TrueCosts", "World", "search", "synthetic"]
