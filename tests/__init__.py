"""The tests, and what benchmarks use of them: worlds to search, tiny models, the settings of a quick search."""
