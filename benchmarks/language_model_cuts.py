"""Cuts of SmolLM2-135M-Instruct: what they cost in perplexity before and after a short training, and what a step saves.

    python -m benchmarks.language_model_cuts --models DIR --json cuts.json      about half an hour on two idle cores
    python -m benchmarks.language_model_cuts --models DIR --losses cuts.json    the times alone, with losses of before

Depth, neurons, and heads by key-value groups are cut. Each cut is made
by the search's own statistics and repaired by least squares as in a search; then it is trained on `TOKENS` tokens of
Brown's train split with the uncompressed model's 64 likeliest tokens, at every rate of `RATES`, and the best is kept.
Perplexity is over windows of 512 tokens of its test split. A step is timed at batch 1 after a prompt of 128 tokens
under ONNX Runtime, each copy in a process of its own, in turns of random order. The weights were 4-bit before.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from benchmarks import generating, header, language_models
from benchmarks.generating import Deployment
from objectives.process import Remote
from spaces import base, build, calibration
from spaces.base import TaskModel
from spaces.distillation import Distillation, LossWeights, TeacherOutputs, capturing
from spaces.losses import likelihood_divergence, likelihood_loss, likelihood_soft_loss
from spaces.runtime import Context
from spaces.runtimes import causal_onnx, onnx
from spaces.statistics_pass import collect
from spaces.training import Training, train

WHOLE = "whole"
#: Name of a cut -> settings of the search space.
CUTS: dict[str, dict[str, Any]] = {
    "29 of 30 blocks": {"distill.layers": 29},
    "27 of 30 blocks": {"distill.layers": 27},
    "15/16 of the neurons": {"prune.neurons": 0.9375},
    "7/8 of the neurons": {"prune.neurons": 0.875},
    "2 of 3 groups of heads": {"prune.heads": 2 / 3},
}
PRECISIONS = ("fp32", "int8")
STATISTICS_ROWS, IMPORTANCE_ROWS = 8, 2  # windows of 512 tokens, and those that blocks are ranked by
TOKENS, LENGTH, BATCH, LIKELIEST = 8_192, 256, 4, 64
RATES = (1e-4,)


def perplexity(model: TaskModel, windows: np.ndarray) -> float:
    """Over all tokens of the windows (N, L) but each one's first."""
    total = 0.0
    with torch.no_grad():
        for window in torch.from_numpy(windows):
            ids = window[None]
            total += float(model(input_ids=ids, attention_mask=torch.ones_like(ids))[:, 1:].sum())
    return float(np.exp(-total / (len(windows) * (windows.shape[1] - 1))))


def statistics_of(folder: Path) -> Any:
    rows = [{name: torch.from_numpy(values) for name, values in row.items()} for row in calibration.read(folder)]
    batches = [(row, torch.zeros(1, dtype=torch.long)) for row in rows]
    return collect(
        build.load_model(folder), batches, likelihood_loss, likelihood_divergence, importance_rows=IMPORTANCE_ROWS
    )


def cut(folder: Path, statistics: Any, settings: Mapping[str, Any]) -> tuple[TaskModel, build.Plans]:
    """The whole model of `folder` with this cut, repaired by least squares."""
    plans = build.decide(build.steps_of(settings, statistics.shape), statistics)
    return build.build(build.load_model(folder), plans, statistics), plans


def trained(model: TaskModel, teacher: TaskModel, tokens: np.ndarray, rate: float) -> TaskModel:
    """A copy of `model`, trained on these windows (N, `LENGTH`) once."""
    student = copy.deepcopy(model)
    teacher.eval().requires_grad_(False)

    def taught(_: Tensor, inputs: Mapping[str, Tensor]) -> TeacherOutputs:
        with torch.no_grad(), capturing(teacher, likeliest=True) as activations:
            output = teacher(**inputs)
        return TeacherOutputs(output, likeliest=activations.likeliest(LIKELIEST))

    rows = torch.arange(len(tokens))
    weights = LossWeights(task=0.3, soft=1.0, hidden=0.0)
    loss = Distillation(
        torch.zeros(len(tokens), dtype=torch.long), taught, likelihood_loss, likelihood_soft_loss, 1.0, weights,
        likeliest=True,
    )  # fmt: skip
    ids = torch.from_numpy(tokens)
    batches = [
        ({"input_ids": ids[part], "attention_mask": torch.ones_like(ids[part])}, part) for part in rows.split(BATCH)
    ]
    train(student, lambda _: batches, loss, Training(1.0, BATCH, rate, rate, dropout=False), "cpu")
    return student.eval()


def losses_of(models: Path, windows: np.ndarray, train_tokens: np.ndarray) -> dict[str, dict[str, Any]]:
    """Perplexities by cut, and numbers of weights; the copies are written into folders of `models`."""
    teacher, statistics = build.load_model(models / WHOLE), statistics_of(models / WHOLE)
    about, _ = base.read_config(models / WHOLE)
    whole = sum(p.numel() for p in teacher.parameters())
    figures: dict[str, dict[str, Any]] = {WHOLE: {"weights": whole, "repaired": perplexity(teacher, windows)}}
    for name, settings in CUTS.items():
        began = time.perf_counter()
        model, plans = cut(models / WHOLE, statistics, settings)
        folder = models / name.replace("/", " of ").replace(" ", "-")
        if not folder.exists():
            base.write_folder(folder, model, about, plans)
        row = {"weights": sum(p.numel() for p in model.parameters()), "folder": folder.name}
        row |= {"repaired": perplexity(model, windows)}
        row["by_rate"] = {rate: perplexity(trained(model, teacher, train_tokens, rate), windows) for rate in RATES}
        row["trained"] = min(row["by_rate"].values())
        row["seconds"] = time.perf_counter() - began
        figures[name] = row
        print(f"{name}: {row['repaired']:.2f}, trained {row['trained']:.2f}, {row['seconds']:.0f} s", flush=True)
    return figures


def add_times(models: Path, figures: dict[str, dict[str, Any]], quick: bool, threads: int) -> None:
    """ms of a step by copy and precision, the median over the turns, into `figures`."""
    rounds, steps = (3, 6) if quick else (9, 12)
    rng, length = np.random.default_rng(0), language_models.PROMPT
    vocabulary = base.read_config(models / WHOLE)[0].config["vocab_size"]
    with contextlib.ExitStack() as stack:
        opened = {}
        for name, row in figures.items():
            folder = models / row.get("folder", WHOLE)
            for precision in PRECISIONS:
                deployment = Deployment(name, "onnx", {"precision": precision}, "static", 0, 0)
                causal_onnx.causal_graph(folder, deployment.plan, folder / onnx.file_of(deployment.plan), Context())
                making = functools.partial(generating.open_generating, folder, deployment, threads)
                opened[name, precision] = stack.enter_context(contextlib.closing(Remote(making, timeout_s=300)))
        taken: dict[tuple[str, str], list[float]] = {key: [] for key in opened}
        for turn in range(rounds + 1):
            prompt = rng.integers(vocabulary, size=(1, length))
            for index in rng.permutation(len(opened)):
                key = list(opened)[index]
                opened[key].call("ttft", prompt)
                ms = opened[key].call("tpot", length, steps)
                taken[key] += ms if turn else []
    for (name, precision), ms in taken.items():
        figures[name][f"tpot_{precision}_ms"] = float(np.median(ms))


def rows_of(figures: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of the table; adds what is lost and saved, in %, to `figures`."""
    whole, rows = figures[WHOLE], []
    for name, row in figures.items():
        cells = [name, f"{row['weights'] / 1e6:.1f}"]
        if name != WHOLE:
            row["removed"] = 100 * (1 - row["weights"] / whole["weights"])
            row |= {f"lost_{k}": 100 * (row[k] / whole["repaired"] - 1) for k in ("repaired", "trained")}
        for precision in PRECISIONS:
            key = f"tpot_{precision}_ms"
            if key in row:
                row[f"saved_{precision}"] = 100 * (1 - row[key] / whole[key])
        for key, form in (
            *(("removed", ".1f"), ("repaired", ".2f"), ("lost_repaired", ".1f"), ("trained", ".2f")),
            *(("lost_trained", ".1f"), ("tpot_fp32_ms", ".2f"), ("saved_fp32", ".1f"), ("tpot_int8_ms", ".2f")),
            ("saved_int8", ".1f"),
        ):
            cells.append(format(row[key], form) if key in row else "-")
        rows.append(tuple(cells))
    return rows


COLUMNS = (
    *("cut", "M weights", "% removed", "perplexity", "% lost", "trained", "% lost", "ms fp32", "% saved", "ms int8"),
    "% saved",
)


def main() -> int:
    parser = header.options(__doc__ or "")
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="where the copies are; 7 GB")
    parser.add_argument("--losses", type=Path, metavar="FILE", help="the --json of an earlier run: no training")
    parser.add_argument("--no-times", action="store_true", help="perplexities alone, which need no idle machine")
    _, arguments, threads = language_models.asked(__doc__ or "", parser)
    torch.set_num_threads(threads)
    about = header.hardware()
    print(f"{header.heading(about)}\nSmolLM2-135M-Instruct, weights 4-bit before; {threads} threads\n", flush=True)
    arguments.models.mkdir(parents=True, exist_ok=True)
    if arguments.losses is None:
        windows = language_models.write_model(arguments.models / WHOLE, arguments.text, 8192)
        language_models.calibrate(arguments.models / WHOLE, STATISTICS_ROWS)
        figures = losses_of(arguments.models, windows, training_windows(4096 if arguments.quick else TOKENS))
    else:
        figures = json.loads(arguments.losses.read_text())["figures"]
        figures.pop("order", None)  # of that run's cuts: no cut itself
    if not arguments.no_times:
        add_times(arguments.models, figures, arguments.quick, threads)
    print("\n" + header.table(COLUMNS, rows_of(figures)))
    cuts = [row for name, row in figures.items() if name != WHOLE]
    before, after = ([row[key] for row in cuts] for key in ("repaired", "trained"))
    figures["order"] = {"kendall": float(stats.kendalltau(before, after).statistic)}
    print(f"\nOrder of the cuts before and after training: Kendall's tau {figures['order']['kendall']:.2f}.")
    return header.finish(arguments, about, figures, [])


def training_windows(tokens: int) -> np.ndarray:
    """Windows (N, `LENGTH`) of Brown's train split, spread over it."""
    import pandas
    from transformers import AutoTokenizer

    source, file = language_models.package_folder(), language_models.FILE
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file, trust_remote_code=False)
    texts = "\n\n".join(pandas.read_parquet(language_models.BROWN / "train.parquet")["text"])
    ids = np.array(tokenizer(texts)["input_ids"], np.int64)
    windows = ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)
    chosen: np.ndarray = windows[np.random.default_rng(1).permutation(len(windows))[: tokens // LENGTH]]
    return chosen


if __name__ == "__main__":
    sys.exit(main())
