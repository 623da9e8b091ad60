"""The tables of a machine with a GPU: `run.sh`, or `python -m benchmarks.gpu.run --help`."""
