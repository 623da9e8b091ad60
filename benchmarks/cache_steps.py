"""One key-value cache of a causal language model in a process of its own: what `benchmarks/caches.py` asks it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.generating import Deployment, perplexity
from objectives import bench
from spaces.generation.onnx_program import OnnxProgram
from spaces.generation.program import CacheSettings, RewindingProgram, ScoringProgram, open_program
from spaces.generation.torch_program import TorchProgram
from spaces.runtime import Context

TOGETHER = 512  # tokens of one row that are scored in one call where the cache allows several


def open_steps(folder: Path, deployment: Deployment, capacity: int, threads: int) -> CacheSteps:
    return CacheSteps(folder, deployment, capacity, threads)


def save_layers(folder: Path, prompt: np.ndarray, file: Path) -> None:
    """The keys and values of a prompt (1, L) by block, as the model gives them."""
    import torch

    program = open_program(folder, "eager", {"precision": "fp32"}, CacheSettings(), Context())
    assert isinstance(program, TorchProgram)
    cache = program.new_cache(torch.zeros(1, dtype=torch.int64))
    for begin in range(0, prompt.shape[1], TOGETHER):  # attention to all tokens at once takes their square of memory
        program.read(prompt[:, begin : begin + TOGETHER], cache)
    layers = {}
    for index, (keys, values) in program.stored(cache).items():
        layers |= {f"{index}.key": keys.numpy(), f"{index}.value": values.numpy()}
    np.savez(file, **layers)


class CacheSteps:
    """The deployment, opened. Times are in ms."""

    def __init__(self, folder: Path, deployment: Deployment, capacity: int, threads: int) -> None:
        settings, context = CacheSettings(deployment.cache, capacity=capacity), Context(threads=threads)
        self._program = open_program(folder, deployment.runtime, deployment.plan, settings, context)
        self._cache: Any = None
        self._tokens = np.zeros(0, np.int64)

    def fill(self, file: Path, rows: int) -> float:
        """A cache whose rows all hold these keys and values (see `save_layers`); its MB. The process's peak restarts.

        Reading the prompt in every process and row would take most of a benchmark's time.
        """
        self._tokens = np.zeros(rows, np.int64)
        with np.load(file) as layers:
            fill = _fill_onnx if isinstance(self._program, OnnxProgram) else _fill_torch
            self._cache = fill(self._program, layers, rows)
        bench.reset_peak_memory()
        return float(self._cache.nbytes / 1e6)

    def steps(self, count: int, warm: int) -> list[float]:
        """Of `count` steps after `warm` others."""
        times = []
        for _ in range(warm + count):
            began = time.perf_counter()
            self._tokens = self._program.decode(self._tokens, self._cache).argmax(-1)
            times.append((time.perf_counter() - began) * 1e3)
        return times[warm:]

    def peak_mb(self) -> float:
        """Of the process's resident memory since `fill`: its weights, the cache, and what a step allocates."""
        return bench.peak_memory_mb()

    def perplexity(self, windows: np.ndarray, rows: int) -> float:
        """Of windows (N, L), each by itself, through the cache; `rows` of them together where the program can."""
        self._cache = None
        program: Any = self._program
        if isinstance(program, ScoringProgram):
            return perplexity([program.scores(windows[i : i + rows]) for i in range(0, len(windows), rows)])
        return perplexity([_scores(program, window[None]) for window in windows])


def _fill_torch(program: TorchProgram, layers: Any, rows: int) -> Any:
    import torch

    cache = program.new_cache(torch.zeros(rows, dtype=torch.int64))
    blocks = len(layers.files) // 2
    with torch.inference_mode():
        for index in range(blocks):
            keys, values = (torch.from_numpy(layers[f"{index}.{part}"]) for part in ("key", "value"))
            cache.update(keys.repeat(rows, 1, 1, 1), values.repeat(rows, 1, 1, 1), index)
        cache.advance(keys.shape[2])
    return cache


def _fill_onnx(program: OnnxProgram, layers: Any, rows: int) -> Any:
    one = np.zeros((rows, 1), np.int64)
    _, cache = program.prefill(one, np.ones_like(one))
    for name, buffer in cache.buffers.items():
        array = layers[name]
        buffer[:, :, : array.shape[2]] = array
    cache.lengths[:] = cache.length = array.shape[2]
    return cache


def _scores(program: RewindingProgram, ids: np.ndarray) -> np.ndarray:
    """Log probabilities (1, L) of one text's tokens after those before them; 0 for the first."""
    logits, cache = program.prefill(ids[:, :1], np.ones_like(ids[:, :1]))
    parts = [np.zeros(1, np.float32), _log_probabilities(logits, ids[0, 1:2])]
    last = ids.shape[1] - 1
    for begin in range(1, last, TOGETHER):
        end = min(begin + TOGETHER, last)
        logits = program.extend(ids[:, begin:end], cache)[0]
        parts.append(_log_probabilities(logits, ids[0, begin + 1 : end + 1]))
    return np.concatenate(parts)[None]


def _log_probabilities(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Of tokens (N,) under logits (N, V)."""
    highest = logits.max(-1, keepdims=True)
    total = np.log(np.exp(logits - highest).sum(-1)) + highest[:, 0]
    return np.asarray(logits[np.arange(len(tokens)), tokens] - total)
