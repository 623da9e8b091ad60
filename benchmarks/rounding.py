"""What int4 of SmolLM2-135M costs in perplexity: of the weights alone, and by error feedback (`bits.rounding: gptq`).

    python -m benchmarks.rounding --check --json rounding.json

The package's weights were 4-bit before (Q4_1 in groups of 32), and a fitted 4-bit grid finds that grid again. So the
model is measured a second time with its residual stream, its neurons and the numbers of its values in another order:
the same function, but a group of 32 has weights of several old groups. Perplexity is over windows of 512 tokens of
Brown, by ONNX Runtime as a search scores them; calibration rows are windows of other texts of Brown. The time of a step
does not depend on the rounding: the graphs differ in their numbers alone.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import header, language_models
from benchmarks.generating import perplexity
from spaces import base, build
from spaces.anatomy import anatomy_of
from spaces.base import TaskModel
from spaces.knob import Plan
from spaces.runtime import Context
from spaces.runtimes import onnx

PLANS: dict[str, Plan] = {
    "fp32": {"precision": "fp32"},
    "int8": {"precision": "int8"},
    "int4, head int8, nearest": {"precision": "int4", "head": "int8"},
    "int4, head int8, gptq": {"precision": "int4", "head": "int8", "rounding": "gptq"},
    "int4, nearest": {"precision": "int4"},
    "int4, gptq": {"precision": "int4", "rounding": "gptq"},
}
COLUMNS = ("int4 of", "weights", "perplexity", "% lost", "seconds to make")


@torch.no_grad()
def reorder(model: TaskModel, seed: int) -> None:
    """The same function with its hidden numbers, its neurons and the numbers of its values in another order."""
    rng = torch.Generator().manual_seed(seed)
    anatomy = anatomy_of(model.backbone)
    shape, norms = anatomy.shape, [anatomy.backbone.get_submodule(path) for path in anatomy.outer_norms]
    hidden = torch.randperm(shape.hidden, generator=rng)
    _take(anatomy.token_table, hidden, 1)
    for index, block in enumerate(anatomy.blocks):
        norms += [block.get_submodule(path) for path in anatomy.norms(index)]
        by_role = {role: anatomy.linear(index, role) for role in anatomy.roles()}
        ups = [linear for role, linear in by_role.items() if role.startswith("up")]
        for linear in (by_role["query"], by_role["key"], by_role["value"], *ups):
            _take(linear, hidden, 1)
        for linear in (by_role["output"], by_role["down"]):
            _take(linear, hidden, 0)
        neurons = torch.randperm(shape.layers[index].neurons, generator=rng)
        for linear in ups:
            _take(linear, neurons, 0)
        _take(by_role["down"], neurons, 1)
        keys = shape.layers[index].heads
        within = [torch.randperm(shape.head_dim, generator=rng) for _ in range(keys)]
        _take(by_role["value"], torch.cat([k * shape.head_dim + w for k, w in enumerate(within)]), 0)
        heads = range(keys * shape.group)
        _take(by_role["output"], torch.cat([h * shape.head_dim + within[h // shape.group] for h in heads]), 1)
    for norm in norms:
        _take(norm, hidden, 0)


def _take(module: nn.Module, order: Tensor, axis: int) -> None:
    weight = module.weight
    assert isinstance(weight, Tensor)
    weight.copy_(weight.index_select(axis, order))


def measure(folder: Path, windows: np.ndarray, threads: int) -> dict[str, dict[str, float]]:
    figures: dict[str, dict[str, float]] = {}
    for name, plan in PLANS.items():
        began = time.perf_counter()
        scores = onnx.Onnx().open(folder, plan, Context(threads=threads))
        made_s = time.perf_counter() - began
        rows = [scores({"input_ids": w[None], "attention_mask": np.ones_like(w[None])}) for w in windows]
        figures[name] = {"perplexity": perplexity([row["log_likelihood"] for row in rows]), "made_s": made_s}
        figures[name]["lost"] = 100 * (figures[name]["perplexity"] / figures["fp32"]["perplexity"] - 1)
        print(f"{folder.name}: {name}: {figures[name]['perplexity']:.2f}", flush=True)
    return figures


def promises(figures: dict[str, dict[str, dict[str, float]]]) -> list[header.Promise]:
    honest = figures["reordered"]
    lost = {name: honest[name]["lost"] for name in PLANS}
    share = lost["int4, head int8, gptq"] / lost["int4, head int8, nearest"]
    same = honest["fp32"]["perplexity"] / figures["packaged"]["fp32"]["perplexity"]
    return [
        header.Promise("reordered over packaged, perplexity in fp32", same, 0.999, 1.001),
        header.Promise("reordered, int4, head int8, gptq: % lost", lost["int4, head int8, gptq"], high=12.0),
        header.Promise("the same, share of what nearest loses", share, high=0.75),
        header.Promise("reordered, int4, gptq: % lost", lost["int4, gptq"], high=12.0),
    ]


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument(
        "--rows", type=int, default=language_models.CALIBRATION, help="calibration windows of 512 tokens"
    )
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    arguments = parser.parse_args()
    about = header.hardware()
    print(header.heading(about), flush=True)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        packaged, reordered = Path(temporary) / "packaged", Path(temporary) / "reordered"
        tokens = 4096 if arguments.quick else 8192
        windows = language_models.write_model(packaged, language_models.BROWN / "test.parquet", tokens)
        model = build.load_model(packaged)
        reorder(model, seed=0)
        base.write_folder(reordered, model, base.read_config(packaged)[0], {})
        for folder in (reordered, packaged):
            language_models.calibrate(folder, arguments.rows)
            figures[folder.name] = measure(folder, windows, arguments.threads)
    rows = [
        (name, weights, f"{f['perplexity']:.2f}", f"{f['lost']:.1f} %", f"{f['made_s']:.0f}")
        for weights in ("reordered", "packaged")
        for name, f in figures[weights].items()
    ]
    print("\n" + header.table(COLUMNS, rows))
    return header.finish(arguments, about, figures, promises(figures))


if __name__ == "__main__":
    sys.exit(main())
