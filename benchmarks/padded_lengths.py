"""What padding to few lengths saves where a runtime prepares itself for each new shape: texts of many lengths in turn.

    python -m benchmarks.padded_lengths            a minute and a half
    python -m benchmarks.padded_lengths --quick    half of the calls

A model of MiniLM's shape under OpenVINO, at batch 1. Lengths come from the questions with their contexts of the
embedded example (search/quickstart/question_answering). "first" are the first calls on as many texts, "again" the same
calls once more, when every length has been met. Memory is the growth of the process over both.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks import header
from benchmarks.served import questions
from benchmarks.timed_models import CONFIG, fed, write_model
from objectives.bench import Batch
from search.serve.windows import WindowSettings
from spaces.base import read_config
from spaces.runtime import Context, Predict
from spaces.runtimes import onnx
from spaces.runtimes.openvino import OpenVinoPredict, compile_options

TEXTS = 600
PRECISIONS = ("fp32", "bf16")
CPU = Context()


def measured(folder: Path, precision: str, padded: bool, lengths: list[int]) -> dict[str, float]:
    """Both passes over rows of these lengths by a model that is opened for them."""
    base = read_config(folder)[0] if padded else None
    predict = OpenVinoPredict(onnx.graph(folder, {"precision": "fp32"}), compile_options(CPU, precision), base)
    batches = [fed(1, length)[0] for length in lengths]
    predict(batches[0])
    before = psutil.Process().memory_info().rss
    first, again = (in_turn(predict, batches) for _ in range(2))
    return {
        "first, ms": float(np.mean(first)),
        "first p99, ms": float(np.quantile(first, 0.99)),
        "again, ms": float(np.mean(again)),
        "memory, MB": (psutil.Process().memory_info().rss - before) / 1e6,
    }


def in_turn(predict: Predict, batches: list[Batch]) -> list[float]:
    """Milliseconds of a call on each."""
    times = []
    for batch in batches:
        began = time.perf_counter()
        predict(batch)
        times.append((time.perf_counter() - began) * 1e3)
    return times


def main() -> int:
    arguments = header.options(__doc__ or "").parse_args()
    about = header.hardware()
    print(header.heading(about), flush=True)
    windows = WindowSettings(384)
    asked = questions()[: TEXTS // 2 if arguments.quick else TEXTS]
    lengths = [windows.length(one.question, one.context) for one in asked]
    print(f"{len(lengths)} texts of {len(set(lengths))} lengths, {min(lengths)} to {max(lengths)} tokens")
    rows, figures = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_model(Path(scratch), CONFIG)
        for precision in PRECISIONS:
            for padded in (False, True):
                found = measured(folder, precision, padded, lengths)
                way = "padded to few lengths" if padded else "as long as they are"
                rows.append((f"openvino {precision}", way, *(f"{value:.1f}" for value in found.values())))
                figures.append({"deployment": f"openvino {precision}", "padded": padded, **found})
    print(header.table(("deployment", "rows", *list(figures[0])[2:]), rows))
    return header.finish(arguments, about, figures, [])


if __name__ == "__main__":
    sys.exit(main())
