"""CUDA graphs: all kernel launches of a forward pass replayed as one, over padded lengths."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spaces.base import Base, read_config
from spaces.generation.program import CacheSettings
from spaces.generation.static_program import Captured, StaticProgram
from spaces.knob import Plan
from spaces.runtime import Context, Predict
from spaces.runtimes import int4
from spaces.runtimes.from_weights import FromWeights
from spaces.runtimes.padding import lengths_of, padded_length, padding_token
from spaces.runtimes.requirements import require
from spaces.runtimes.torch_predict import TorchPredict, causal_for, kernels_for, load_for, torch_precisions


class CudaGraph(FromWeights):
    """One graph for each (batch, padded length), captured on first use; its buffers are allocated once and reused.

    At batch 1 a small transformer spends most of its time launching kernels; a replay launches once
    (PyTorch, "CUDA graphs").
    """

    name = "cuda_graph"
    source = "PyTorch CUDA graphs"
    install = "a CUDA device and a CUDA build of torch"

    def missing(self, context: Context) -> str | None:
        return None if context.device == "cuda" else "CUDA graphs need a CUDA device"

    def precisions(self, context: Context) -> tuple[str, ...]:
        return torch_precisions(context)

    def open(self, folder: Path, plan: Plan, context: Context) -> Predict:
        require(self, plan, context, precisions=kernels_for(self, folder, context))
        model = load_for(folder, plan, context, self.name)
        base = read_config(folder)[0]
        return GraphPredict(model, base, context.device, lengths_of(base), padding_token(base), record=capture)

    def generating_precisions(self, context: Context) -> tuple[str, ...]:
        return (*self.precisions(context), *int4.int4_precisions(context))

    def cache_kinds(self, context: Context) -> tuple[str, ...]:
        return ("static",)

    def open_program(self, folder: Path, plan: Plan, settings: CacheSettings, context: Context) -> StaticProgram:
        """The decoding step is captured at its first token, once for each number of rows."""
        require(self, plan, context, precisions=self.generating_precisions(context))
        model = causal_for(folder, plan, context, self.name)
        return StaticProgram(model, settings, context.device, lambda step: Captured(step, capture))


def capture(call: Any, static: Mapping[str, Tensor]) -> tuple[Any, Tensor]:
    """(replay, output) of `call` over the static buffers, after three warm-up calls on a side stream."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call(**static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call(**static)
    return graph.replay, output


class GraphPredict(TorchPredict):
    """Pads a batch to one of few lengths, copies it into the graph's buffers, replays, and reads the output.

    Padding has attention mask 0 and the token id `pad`, so it changes no real position. The buffers are shared, so
    calls from several threads run one after the other.
    """

    def __init__(self, call: Any, base: Base, device: str, lengths: tuple[int, ...], pad: int, record: Any) -> None:
        super().__init__(call, base, device)
        self._per_token = base.per_token
        self.lengths, self._pad, self._record = lengths, pad, record
        self._graphs: dict[tuple[int, int], tuple[dict[str, Tensor], Any, Tensor]] = {}
        self._alone = threading.Lock()

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows, length = batch["input_ids"].shape
        padded = padded_length(length, self.lengths)
        with self._alone, torch.inference_mode():
            static, replay, output = self._graph(rows, padded)
            for name, buffer in static.items():
                buffer[:, length:] = self._pad if name == "input_ids" else 0
                buffer[:, :length].copy_(torch.from_numpy(batch[name]))
            replay()
            # A copy: a float32 output on the CPU would otherwise be the buffer that the next call overwrites.
            values = output.float().cpu().numpy().copy()
        return {self._output: values[:, :length] if self._per_token else values}

    def _graph(self, rows: int, padded: int) -> tuple[dict[str, Tensor], Any, Tensor]:
        key = (rows, padded)
        if key not in self._graphs:
            static = {n: torch.zeros(rows, padded, dtype=torch.int64, device=self._device) for n in self._inputs}
            static["attention_mask"][:, 0] = 1
            replay, output = self._record(self._call, static)
            self._graphs[key] = (static, replay, output)
        return self._graphs[key]
