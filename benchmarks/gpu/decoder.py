"""A causal language model with random weights, opened for decoding in a process of its own, and timed there."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from objectives.ceilings import BYTES, Meter

#: A model of the 1B class: 16 blocks, 8 key-value groups of 4 heads, 1.04e9 weights.
WHOLE: Mapping[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
TOY: Mapping[str, Any] = {
    **WHOLE,
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}
#: What runs the steps. The last is no runtime of `spaces`: it shows what the other two would bring together.
EAGER, COMPILED, CUDA_GRAPH, COMPILED_GRAPH = "eager", "compiled", "cuda_graph", "compiled + cuda_graph"
#: Bytes of a number in the cache, which is bf16 beside fp8 and int4 weights too.
CACHED = BYTES["bf16"]


@dataclass(frozen=True)
class Deployment:
    """A way to decode: what runs the steps, its kind of cache, and the precision of the weights."""

    runtime: str
    cache: str
    precision: str

    @property
    def offered(self) -> bool:
        """Whether it is one of `spaces`, which a search can choose."""
        return self.runtime != COMPILED_GRAPH

    @property
    def name(self) -> str:
        return f"{self.runtime}, {self.cache} cache, {self.precision}"


@dataclass(frozen=True)
class Calls:
    """The calls that are timed: one row, `prompt` tokens, then `new_tokens` greedy ones."""

    prompt: int
    new_tokens: int
    seconds: float  # of them all together
    fewest: int = 3

    @property
    def capacity(self) -> int:
        return self.prompt + self.new_tokens


class Decoder:
    """The opened model. Its weights are made on the device from one seed, so they are the same in every deployment."""

    def __init__(self, deployment: Deployment, shape: Mapping[str, Any], calls: Calls, device: str) -> None:
        self._shape, self._calls, self._device = shape, calls, device
        self._draws = np.random.default_rng(0)
        began = time.perf_counter()
        model = random_model(shape, device)
        self.weights = sum(parameter.numel() for parameter in model.parameters())  # a tied table counts once
        self._program = program_of(deployment, model, calls.capacity, device)
        self._generate()  # compiles or captures
        self._opened_s = time.perf_counter() - began

    def about(self) -> dict[str, Any]:
        """What holds for every step: the number of weights and of numbers in the cache, and how long opening took."""
        heads, groups = self._shape["num_attention_heads"], self._shape["num_key_value_heads"]
        per_token = 2 * self._shape["num_hidden_layers"] * groups * (self._shape["hidden_size"] // heads)
        tokens = self._calls.prompt + self._calls.new_tokens // 2  # half-way through an answer
        return {"weights": self.weights, "cached": per_token * tokens, "open_s": self._opened_s}

    def logits(self) -> np.ndarray:
        """Logits (5, V) after a prompt and after each of 4 tokens, which are the same in every deployment."""
        draws = np.random.default_rng(1)
        ids, tokens = self._tokens(draws, self._calls.prompt), self._tokens(draws, 4)
        first, cache = self._program.prefill(ids, np.ones_like(ids))
        return np.concatenate([first, *(self._program.decode(tokens[:, i], cache) for i in range(4))])

    def times(self) -> np.ndarray:
        """(calls, T) ms from the start of each call to each of its tokens, after a call that is not timed."""
        self._generate()
        until = time.perf_counter() + self._calls.seconds
        rows: list[list[float]] = []
        while len(rows) < self._calls.fewest or time.perf_counter() < until:
            rows.append(self._generate())
        return np.array(rows)

    def peak_mb(self) -> float:
        """The most that torch's allocator handed out; on a CPU the peak of the process's resident memory."""
        import torch

        if self._device == "cuda":
            return torch.cuda.max_memory_allocated() / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6

    def _generate(self) -> list[float]:
        from spaces.generation.program import greedy

        ids = self._tokens(self._draws, self._calls.prompt)
        began, times = time.perf_counter(), []
        for _ in greedy(self._program, ids, np.ones_like(ids), self._calls.new_tokens):
            times.append((time.perf_counter() - began) * 1e3)
        return times

    def _tokens(self, draws: np.random.Generator, count: int) -> np.ndarray:
        return draws.integers(3, self._shape["vocab_size"], (1, count))


class CopyMeter(Meter):
    """Measures the bandwidth of a copy, from the device's memory to itself."""

    def copied(self, size: int) -> float:
        """Bytes a second, read and written, of copying `size` bytes."""
        source = self._torch.ones(size, dtype=self._torch.uint8, device=self._device)
        target = self._torch.empty_like(source)
        return 2 * size / self.seconds_per_call(lambda: target.copy_(source))


def random_model(shape: Mapping[str, Any], device: str) -> Any:
    """A Llama model in bf16 whose weights are drawn on the device: they need no file, and no time on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    with torch.device(device):
        config = LlamaConfig(**shape)
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False).eval()


def check(deployment: Deployment, device: str) -> None:
    """Raises Infeasible where a runtime of `spaces` cannot run it here. Nothing is opened for it."""
    from spaces import registry
    from spaces.generation.program import GeneratingRuntime
    from spaces.runtime import Context
    from spaces.runtimes.requirements import require

    context = Context(device)
    for name in deployment.runtime.split(" + "):
        runtime = registry.runtime_named(name)
        assert isinstance(runtime, GeneratingRuntime)
        plan = {"precision": deployment.precision}
        require(runtime, plan, context, precisions=runtime.generating_precisions(context))


def program_of(deployment: Deployment, model: Any, capacity: int, device: str) -> Any:
    """The program that the runtime opens for a stored model, over this one."""
    from spaces.generation.program import CacheSettings
    from spaces.generation.static_program import Captured, StaticProgram
    from spaces.generation.torch_program import TorchProgram
    from spaces.runtimes import float8, int4
    from spaces.runtimes.compiled import Compiled
    from spaces.runtimes.cuda_graph import capture

    if deployment.precision == float8.FP8:
        float8.lower(model)
    if deployment.precision == int4.INT4:
        four_bits(model)
    settings = CacheSettings(deployment.cache, capacity=capacity)
    compiled = Compiled().compile_step
    if deployment.runtime == EAGER:
        return TorchProgram(model, settings, device)
    if deployment.runtime == COMPILED:
        return StaticProgram(model, settings, device, compiled)
    if deployment.runtime == CUDA_GRAPH:
        return StaticProgram(model, settings, device, lambda step: Captured(step, capture))
    return StaticProgram(model, settings, device, lambda step: Captured(compiled(step), capture))


def four_bits(model: Any) -> None:
    """The matrices of `model` in int4, rounded on the device.

    A runtime fits them to the weights on the CPU, which takes minutes for so many, and then runs the same kernels.
    """
    import torch

    from spaces.runtimes import int4

    for path, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            int4.replace_linear(model, path, rounded(module.weight.detach()))


def rounded(weight: Any) -> Any:
    """Groups of 32 of `weight` (out, in), as `spaces.runtimes.int4.GroupTensors`, rounded over their whole range."""
    import torch

    from spaces.weight_groups import WEIGHT_GROUP

    groups = weight.float().unflatten(-1, (-1, WEIGHT_GROUP))
    low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
    scales = ((high - low) / 15).clamp(min=1e-12)
    zeros = (-low / scales).round()
    numbers = (groups / scales + zeros).round().clamp(0, 15)
    return numbers.to(torch.uint8), scales[..., 0], zeros[..., 0].to(torch.uint8)


def bytes_read(about: Mapping[str, Any], precision: str) -> float:
    """Of a step: every weight once, and the keys and values that there are half-way through an answer.

    Scales, which add a quarter to int4, and weights that stay wider beside fp8 are not counted, so the share of the
    roofline may be low.
    """
    return float(BYTES[precision] * about["weights"] + CACHED * about["cached"])
