"""int4 of SmolLM2-135M with its most sensitive blocks in int8 (`bits.int8_blocks`): perplexity and time a token.

    python -m benchmarks.int8_blocks
    python -m benchmarks.int8_blocks --blocks 0 8 16 24 --rounding nearest --json int8_blocks.json

Each deployment, under ONNX Runtime with an int8 head, has a process of its own; they take turns in random order, batch
1, after a prompt of 128 tokens. Perplexity is over windows of 512 tokens, its loss in % of fp32's. The order of blocks
is measured on 2,048 tokens of other texts of Brown, and error feedback (gptq) fitted on 4,096 of them, as in a search.
The package's weights were 4-bit before. About 15 minutes on two cores, half of them for the integers; --quick takes 9.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import generating, header, language_models
from benchmarks.generating import Deployment
from objectives.process import Remote
from spaces import build, calibration, sensitivity
from spaces.axes.bits import ROUNDINGS
from spaces.knob import Plan
from spaces.losses import likelihood_certainty
from spaces.runtime import Context
from spaces.runtimes import onnx

DEPTH = 30  # blocks of the model
BLOCKS = (0, 4, 8, 12, 15, 20, 30)
RANKED_BY = 4  # calibration windows
PROMPT, STEPS = 128, 12
LOST, FASTER = 5.0, 2.5  # % of perplexity, and times fp32, that the embedded example promises together
COLUMNS = ("deployment", "TPOT ms", "x fp32", "perplexity", "% lost", "weights MB", "seconds to make")


def deployments_of(blocks: Sequence[int], rounding: str) -> list[Deployment]:
    """fp32, int8, and int4 with each of these numbers of int8 blocks."""
    int8, int4 = language_models.INT8, language_models.INT4
    found = [
        Deployment("fp32", "onnx", {"precision": "fp32"}, "static", 4, 4),
        Deployment("int8", "onnx", {"precision": "int8"}, "static", int8, int8),
    ]
    for count in blocks:
        plan: Plan = {"precision": "int4", "head": "int8"}
        plan |= {"int8_blocks": count} if count else {}
        plan |= {"rounding": rounding} if rounding != ROUNDINGS[0] else {}
        body = int4 + (int8 - int4) * count / DEPTH
        found.append(Deployment(f"int4, {count} int8 blocks", "onnx", plan, "static", body, int8))
    return found


def rank_blocks(folder: Path) -> list[str]:
    """The blocks, the most sensitive first; also written beside the weights, as a search does."""
    rows = calibration.read(folder)[:RANKED_BY]
    batches = [{name: torch.from_numpy(array) for name, array in row.items()} for row in rows]
    model = build.load_model(folder)
    scores = sensitivity.measure_sensitivity(model, batches, likelihood_certainty, sensitivity.by_group)
    sensitivity.write(folder, scores)
    return sensitivity.read(folder)


def make_graph(folder: Path, deployment: Deployment) -> float:
    """The seconds that its graph takes to make, in this process, which is not one that is measured."""
    began = time.perf_counter()
    onnx.Onnx().open(folder, deployment.plan, Context())
    return time.perf_counter() - began


def measure(
    folder: Path, deployments: Sequence[Deployment], windows: np.ndarray, turns: int, threads: int
) -> dict[str, dict[str, Any]]:
    """Figures by deployment. All are open at once, and those that are not asked wait."""
    rng, text = np.random.default_rng(0), windows.reshape(1, -1)
    figures: dict[str, dict[str, Any]] = {deployment.name: {"tpot": []} for deployment in deployments}
    with contextlib.ExitStack() as stack:
        opened = {}
        for deployment in deployments:
            making = functools.partial(generating.open_generating, folder, deployment, threads)
            opened[deployment.name] = stack.enter_context(contextlib.closing(Remote(making, timeout_s=300)))
        for turn in range(turns + 1):
            prompt = text[:, turn * 16 : turn * 16 + PROMPT]
            for name in rng.permutation(list(opened)):
                opened[name].call("ttft", prompt)
                times = opened[name].call("tpot", PROMPT, STEPS)
                figures[name]["tpot"] += times if turn else []  # the first turn warms up
        for name, bench in opened.items():
            figures[name] |= {"weights_mb": bench.call("files"), "perplexity": bench.call("perplexity", windows)}
    fp32 = figures["fp32"]
    for measures in figures.values():
        measures["tpot_ms"] = float(np.median(measures["tpot"]))
        measures["faster"] = float(np.median(fp32["tpot"])) / measures["tpot_ms"]
        measures["lost"] = 100 * (measures["perplexity"] / fp32["perplexity"] - 1)
    return figures


def promises(figures: dict[str, dict[str, Any]]) -> list[header.Promise]:
    within = [measures["faster"] for measures in figures.values() if measures["lost"] <= LOST]
    return [header.Promise(f"the fastest within {LOST:g} % of perplexity, over fp32", max(within), low=FASTER)]


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--blocks", type=int, nargs="+", default=BLOCKS, metavar="N", help="numbers of int8 blocks")
    parser.add_argument("--rounding", choices=ROUNDINGS, default="gptq", help="how the integers of 4 bits are made")
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    arguments = parser.parse_args()
    if wrong := [count for count in arguments.blocks if not 0 <= count <= DEPTH]:
        parser.error(f"--blocks must be between 0 and {DEPTH}, got {wrong[0]}")
    logging.disable(logging.WARNING)
    about = header.hardware()
    print(header.heading(about), flush=True)
    deployments = deployments_of(list(dict.fromkeys(arguments.blocks)), arguments.rounding)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        tokens = 4096 if arguments.quick else 8192
        windows = language_models.write_model(folder, language_models.BROWN / "test.parquet", tokens)
        language_models.calibrate(folder)
        order = [path.rpartition(".")[2] for path in rank_blocks(folder)]
        print(f"blocks, the most sensitive first: {', '.join(order)}\n", flush=True)
        made_s = {}
        for deployment in deployments:
            made_s[deployment.name] = make_graph(folder, deployment)
            print(f"{deployment.name}: its graph took {made_s[deployment.name]:.0f} s to make", flush=True)
        figures = measure(folder, deployments, windows, 5 if arguments.quick else 12, arguments.threads)
    rows = [
        (name, f"{f['tpot_ms']:.2f}", f"{f['faster']:.2f}", f"{f['perplexity']:.2f}", f"{f['lost']:.1f}",
         f"{f['weights_mb']:.0f}", f"{made_s[name]:.0f}")
        for name, f in figures.items()
    ]  # fmt: skip
    print("\n" + header.table(COLUMNS, rows))
    return header.finish(arguments, about, {"order": order, "figures": figures}, promises(figures))


if __name__ == "__main__":
    sys.exit(main())
