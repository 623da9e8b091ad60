"""A BERT classifier made faster step by step: distilled, pruned, factorised, quantised, compiled; then all of it.

    python -m benchmarks.bert_case_study                the embedded default: a MiniLM of six BERT layers
    python -m benchmarks.bert_case_study --quick        a quarter of the recovery
    python -m benchmarks.bert_case_study --set model.name=./my-bert --set data.train=... (as in a search)

One axis at a time, each as the only change and with an epoch of recovery, then together with two: accuracy on the test
split, median latency at batch 1 and the test rows' own lengths, size on disk, and the peak memory of the process that
runs it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import header
from benchmarks.lab import EAGER, ONNX, ONNX_INT8, TEACHER, Deployment, Lab, Model
from objectives import memory

COLUMNS = ("what", "accuracy", "points lost", "ms", "x eager", "MB", "peak MB")
SMALLER = {"distill.layers": 4}
PRUNED = {"prune.heads": 0.5, "prune.neurons": 0.25}
FACTORED = {"low_rank.rank": 0.5}


def steps(epochs: float) -> list[tuple[Model, Deployment]]:
    """(model, runtime and precision), one axis after the other, then together."""
    distilled = Model("distilled to 4 of 6 layers", SMALLER, epochs)
    pruned = Model("pruned: half of heads, quarter of neurons", PRUNED, epochs)
    factored = Model("factored: half of the weights", FACTORED, epochs)
    together = Model("distilled and pruned", {**SMALLER, **PRUNED}, 2 * epochs)
    everything = Model("distilled, pruned, factored", {**SMALLER, **PRUNED, "low_rank.rank": 0.8}, 2 * epochs)
    return [
        (TEACHER, EAGER),
        (TEACHER, ("compiled", "fp32")),
        (TEACHER, ONNX),
        (TEACHER, ONNX_INT8),
        (distilled, EAGER),
        (pruned, EAGER),
        (factored, EAGER),
        (together, EAGER),
        (together, ONNX),
        (together, ONNX_INT8),
        (everything, ONNX_INT8),
    ]


def measured(lab: Lab, model: Model, deployment: Deployment, seconds: float) -> dict[str, Any]:
    seed = lab.seeds[0]
    recipe, folder, measurer = (
        lab.recipe(model, seed, deployment),
        lab.weights(model, seed),
        lab.evaluator(seed).measurer,
    )
    with measurer.opened(recipe, folder) as bench:
        bench.call("predict", [lab.setting(seed).split("test").encoded.batch(np.arange(1))])
        peak = memory.memory(bench)["peak_memory_mb"].value
    ratio, low, high, ms = lab.ratio(model, deployment, EAGER, 1, seconds)
    return {
        "what": f"{model.name}; {deployment[0]} {deployment[1]}",
        "accuracy": lab.accuracy(model, deployment, "test"),
        "loss": lab.loss(model, deployment, "test"),
        "ms": ms,
        "ratio": (ratio, low, high),
        "size_mb": lab.size_mb(model, deployment),
        "peak_mb": peak,
    }


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--mlruns", type=Path, default=Path("mlruns"))
    parser.add_argument("--seconds", type=float, default=6.0, help="of blocks in one timing (default: 6)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in python -m search run")
    arguments = parser.parse_args()
    about = header.hardware()
    lab = Lab(arguments.mlruns.absolute(), [0], overrides=arguments.set)
    name = lab.setting(0).config.model.name
    print(
        f"{header.heading(about)}\n{name}, a teacher of two epochs, batch 1, the test rows' own lengths\n", flush=True
    )
    figures = [measured(lab, *step, arguments.seconds) for step in steps(0.25 if arguments.quick else 1.0)]
    rows = [
        (s["what"], f"{s['accuracy']:.2%}", str(s["loss"]), f"{s['ms']:.2f}", f"{s['ratio'][0]:.2f}x",
         f"{s['size_mb']:.1f}", f"{s['peak_mb']:.0f}")
        for s in figures
    ]  # fmt: skip
    print(header.table(COLUMNS, rows))
    return header.finish(arguments, about, figures, [])


if __name__ == "__main__":
    sys.exit(main())
