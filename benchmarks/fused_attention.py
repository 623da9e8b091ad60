"""What attention as one operator saves of a call, beside the same graph with its many operators.

    python -m benchmarks.fused_attention            two models, two lengths, three runtimes: a minute and a half
    python -m benchmarks.fused_attention --quick    a third of the calls

A model of MiniLM's shape and one with a quarter of its neurons, at batch 1. The two graphs of a row are called in turns
in one process.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import header
from benchmarks.timed_models import CONFIG, fed, write_model
from objectives.bench import Batch
from spaces import registry
from spaces.runtime import Context, Predict
from spaces.runtimes import onnx
from spaces.runtimes.openvino import OpenVinoPredict, compile_options

MODELS = {"MiniLM": CONFIG, "a quarter of its neurons": {**CONFIG, "intermediate_size": 384}}
LENGTHS = (32, 128)
#: Calls of a turn before it is timed, and timed ones.
WARM, TIMED = 5, 30
CPU = Context()


def opened(folder: Path, runtime: str, precision: str, fused: bool) -> Predict:
    graph = onnx.graph(folder, {"precision": precision}, fused)
    if runtime == "openvino":
        return OpenVinoPredict(graph, compile_options(CPU))
    return onnx.OnnxPredict(graph, CPU, onnx.CPU)


def in_turns(graphs: dict[bool, Predict], batch: Batch, turns: int) -> dict[bool, float]:
    """Median milliseconds of a call of each."""
    times: dict[bool, list[float]] = {fused: [] for fused in graphs}
    for _ in range(turns):
        for fused, predict in graphs.items():
            for call in range(WARM + TIMED):
                began = time.perf_counter()
                predict(batch)
                if call >= WARM:
                    times[fused].append((time.perf_counter() - began) * 1e3)
    return {fused: float(np.median(of_graph)) for fused, of_graph in times.items()}


def main() -> int:
    arguments = header.options(__doc__ or "").parse_args()
    about = header.hardware()
    print(header.heading(about), flush=True)
    deployments = [("onnx", "fp32"), ("onnx", "int8")]
    if registry.runtime_named("openvino").missing(CPU) is None:
        deployments.append(("openvino", "fp32"))
    rows, figures = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, config) in enumerate(MODELS.items()):
            folder = write_model(Path(scratch) / str(number), config)
            for runtime, precision in deployments:
                graphs = {fused: opened(folder, runtime, precision, fused) for fused in (False, True)}
                for length in LENGTHS:
                    ms = in_turns(graphs, fed(1, length)[0], 2 if arguments.quick else 6)
                    what = (name, f"{runtime} {precision}", length)
                    rows.append((*what, f"{ms[False]:.2f}", f"{ms[True]:.2f}", f"{ms[False] / ms[True]:.2f}x"))
                    figures.append({"what": what, "ms": {"unfused": ms[False], "fused": ms[True]}})
    print(header.table(("model", "deployment", "tokens", "unfused, ms", "fused, ms", "as fast"), rows))
    return header.finish(arguments, about, figures, [])


if __name__ == "__main__":
    sys.exit(main())
