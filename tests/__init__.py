"""The tests, and what benchmarks use of them: worlds to search, tiny models, and the configuration of a quick search."""
