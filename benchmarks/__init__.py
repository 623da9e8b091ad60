"""Programs that print one table each: `python -m benchmarks.NAME --help`, from the repository's folder."""
