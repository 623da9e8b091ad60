"""A deployment of a causal language model in a process of its own: what a benchmark asks it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from objectives import bench
from spaces import build, registry
from spaces.generation.program import CacheSettings, RewindingProgram, greedy, open_program
from spaces.generation.speculation import Speculation
from spaces.knob import Plan
from spaces.runtime import Context

CAPACITY = 2048 + 128  # tokens: the longest prompt, and all steps after it
WARM = 3  # first steps that are not timed
Prompt = np.ndarray  # (1, L) int64


@dataclass(frozen=True)
class Deployment:
    """A way to run one folder of weights."""

    name: str
    runtime: str
    plan: Plan
    cache: str
    body: float  # bytes of a weight in the blocks, its share of scales included
    head: float  # the same of the output matrix


@dataclass(frozen=True)
class Answer:
    """Tokens, and what those after the first took: ms and calls; with drafts, how many tokens they had."""

    tokens: list[int]
    ms: float
    calls: int
    proposed: int
    accepted: int


def open_generating(folder: Path, deployment: Deployment, threads: int) -> Generating:
    return Generating(folder, deployment, threads)


def open_generate(folder: Path, threads: int) -> Generate:
    return Generate(folder, threads)


class Generating:
    """The deployment, opened. Times are in ms."""

    def __init__(self, folder: Path, deployment: Deployment, threads: int) -> None:
        self._open = (folder, deployment, Context(threads=threads))
        settings = CacheSettings(deployment.cache, capacity=CAPACITY)
        self._program = open_program(folder, deployment.runtime, deployment.plan, settings, self._open[2])
        bench.reset_peak_memory()  # what only opening or making a graph took is not of a generation
        self._caches: dict[int, tuple[Any, np.ndarray]] = {}  # by length of the prompt: cache, last token

    def files(self) -> float:
        """MB of the files of the weights that it runs."""
        folder, deployment, _ = self._open
        names = registry.runtime_named(deployment.runtime).files(deployment.plan)
        return sum((folder / name).stat().st_size for name in names) / 1e6

    def ttft(self, prompt: Prompt) -> float:
        """Of a fresh prompt, whose cache is kept for `steps`."""
        began = time.perf_counter()
        logits, cache = self._program.prefill(prompt, np.ones_like(prompt))
        tokens = logits.argmax(-1)
        took = (time.perf_counter() - began) * 1e3
        self._caches[prompt.shape[1]] = (cache, tokens)
        return took

    def tpot(self, length: int, steps: int) -> list[float]:
        """Of `steps` more steps after the prompt of this length."""
        cache, tokens = self._caches[length]
        times = []
        for _ in range(WARM + steps):
            began = time.perf_counter()
            tokens = self._program.decode(tokens, cache).argmax(-1)
            times.append((time.perf_counter() - began) * 1e3)
        self._caches[length] = (cache, tokens)
        return times[WARM:]

    def answer(self, prompt: Prompt, most: int, ends: frozenset[int], speculate: bool) -> Answer:
        """Greedy, with prompt lookup or without, up to an end token."""
        speculation = Speculation(self._program) if speculate else None
        if speculation is None:
            steps = greedy(self._program, prompt, np.ones_like(prompt), most)
        else:
            steps = speculation(prompt, most)
        tokens, times = [], []
        for token in steps:
            tokens.append(int(token[0]))
            times.append(time.perf_counter())
            if tokens[-1] in ends:
                break
        took = (times[-1] - times[0]) * 1e3
        if speculation is None:
            return Answer(tokens, took, len(tokens) - 1, 0, 0)
        return Answer(tokens, took, speculation.calls, speculation.proposed, speculation.accepted)

    def agreements(self, prompt: Prompt, answer: Sequence[int]) -> str:
        """For each token of an answer after its first: 1 where it is the likeliest after those before it, or 0."""
        if len(answer) < 2:
            return ""
        assert isinstance(self._program, RewindingProgram)
        tokens = np.array([answer], np.int64)
        _, cache = self._program.prefill(prompt, np.ones_like(prompt))
        likeliest = self._program.extend(tokens[:, :-1], cache)[0].argmax(-1)
        return "".join(str(int(same)) for same in likeliest == tokens[0, 1:])

    def reading(self, length: int, count: int, repeats: int) -> list[float]:
        """Of reading `count` tokens in one call after the prompt of this length, which are then removed again."""
        assert isinstance(self._program, RewindingProgram)
        cache, tokens = self._caches[length]
        block, begin, times = np.repeat(tokens[None], count, 1), cache.length, []
        for _ in range(WARM + repeats):
            began = time.perf_counter()
            self._program.extend(block, cache).argmax(-1)
            self._program.truncate(cache, begin)
            times.append((time.perf_counter() - began) * 1e3)
        return times[WARM:]

    def cache_mb(self, length: int) -> float:
        return float(self._caches[length][0].nbytes / 1e6)

    def peak_mb(self) -> float:
        """The peak of this process's resident memory since opening, interpreter and libraries included."""
        return bench.peak_memory_mb()

    def perplexity(self, windows: np.ndarray) -> float:
        """Of windows (N, L), each by itself."""
        folder, deployment, context = self._open
        scores = build.open_predict(folder, deployment.runtime, deployment.plan, context)
        outputs = [scores({"input_ids": w[None], "attention_mask": np.ones_like(w[None])}) for w in windows]
        return perplexity([row["log_likelihood"] for row in outputs])


def perplexity(scores: Sequence[np.ndarray]) -> float:
    tokens = sum(score.size - len(score) for score in scores)
    return math.exp(-sum(float(score.sum(dtype=np.float64)) for score in scores) / tokens)


class Generate:
    """transformers' own generate over the same weights, in fp32."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._torch, self._model = torch, build.load_model(folder).model

    def ms(self, prompt: Prompt, new_tokens: int) -> float:
        ids = self._torch.from_numpy(prompt)
        began = time.perf_counter()
        with self._torch.inference_mode():
            self._model.generate(  # type: ignore[operator]
                ids,
                attention_mask=self._torch.ones_like(ids),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return (time.perf_counter() - began) * 1e3
