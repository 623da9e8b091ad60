"""What a training step costs in fp32 and in bf16, with and without dropout, and what the trained models are worth.

    python -m benchmarks.training --mlruns DIR               three seeds, about forty minutes on two idle cores
    python -m benchmarks.training --mlruns DIR --quick       the times of steps alone

Steps of a model of the embedded default's shape are timed in turns, at the batches and lengths of three examples. Then
the default's teacher is fine-tuned for one epoch in each way, and a cut model (four of six blocks, half of the neurons)
is recovered from one teacher for half an epoch in each way. Accuracies are of validation and test rows together.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import header
from benchmarks.lab import EAGER, TEACHER, Lab, Model
from benchmarks.timed_models import write_model
from spaces import build
from spaces.base import TaskModel
from spaces.training import Training, train

#: (bf16, dropout) by name; all ratios are over the first.
WAYS = {
    "fp32, dropout": (False, True),
    "fp32": (False, False),
    "bf16, dropout": (True, True),
    "bf16": (True, False),
}
#: (rows, tokens) of a step, by the example whose training has about such steps.
SHAPES = {"classification": (32, 32), "sentence similarity": (16, 128), "question answering": (16, 256)}
CUT = Model("four of six blocks, half of the neurons", {"distill.layers": 4, "prune.neurons": 0.5}, 0.5)
STEPS, TURNS = 3, 4  # of which the first of each turn is not counted


def step_s(model: TaskModel, rows: int, tokens: int, bf16: bool, dropout: bool) -> list[float]:
    """Seconds of each step of one turn but its first."""
    ids = torch.randint(1000, 20000, (rows, tokens))
    mask = torch.ones_like(ids)
    mask[::2, tokens - tokens // 4 :] = 0
    ends: list[float] = []

    def loss(trained: TaskModel, inputs: Mapping[str, Tensor], numbers: Tensor) -> Tensor:
        return functional.cross_entropy(trained(**inputs).float(), numbers % 2)

    def progress(_: float) -> None:
        ends.append(time.perf_counter())

    batch = ({"input_ids": ids, "attention_mask": mask}, torch.arange(rows))
    train(
        model, lambda _: [batch], loss, Training(STEPS, rows, 1e-5, 1e-5, dropout=dropout, bf16=bf16), "cpu", progress
    )
    return list(np.diff(ends))


def timed(folder: Path) -> list[dict[str, Any]]:
    model = build.load_model(folder)
    figures = []
    for example, (rows, tokens) in SHAPES.items():
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(TURNS):
            for name, (bf16, dropout) in WAYS.items():
                seconds[name] += step_s(model, rows, tokens, bf16, dropout)
        medians = {name: float(np.median(of_way)) for name, of_way in seconds.items()}
        figures.append({"example": example, "rows": rows, "tokens": tokens, "seconds": medians})
    return figures


def accuracy(lab: Lab, model: Model) -> float:
    """Over seeds, and over the rows of validation and test."""
    right = [lab.right(model, EAGER, split) for split in ("validation", "test")]
    return float(np.concatenate(right, axis=1).mean())


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--mlruns", type=Path, required=True, help="an empty folder, for models")
    arguments = parser.parse_args()
    about = header.hardware()
    print(header.heading(about), flush=True)
    seeds = range(3)
    steps = timed(write_model(arguments.mlruns / "minilm"))
    ways, first = list(WAYS), next(iter(WAYS))
    rows = [
        (
            f["example"],
            f"{f['rows']} x {f['tokens']}",
            f"{f['seconds'][first]:.3f}",
            *(f"{f['seconds'][first] / f['seconds'][way]:.2f}x" for way in ways[1:]),
        )
        for f in steps
    ]
    print(header.table(("a step of", "rows x tokens", f"{first}, s", *ways[1:]), rows), flush=True)
    if arguments.quick:
        return header.finish(arguments, about, {"steps": steps}, [])
    scores = []
    for name, (bf16, dropout) in WAYS.items():
        wanted = [f"bf16={str(bf16).lower()}", f"dropout={str(dropout).lower()}"]
        taught = Lab(arguments.mlruns, seeds, 1, [f"teacher.{one}" for one in wanted])
        recovered = Lab(arguments.mlruns, seeds, 1, [f"recover.{one}" for one in wanted])
        scores.append({"way": name, "teacher": accuracy(taught, TEACHER), "recovered": accuracy(recovered, CUT)})
    rows = [(s["way"], f"{100 * s['teacher']:.2f} %", f"{100 * s['recovered']:.2f} %") for s in scores]
    print(header.table((f"accuracy, {len(seeds)} seeds", "teacher, 1 epoch", CUT.name), rows))
    return header.finish(arguments, about, {"steps": steps, "scores": scores}, [])


if __name__ == "__main__":
    sys.exit(main())
