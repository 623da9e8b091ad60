"""Decoding over a static cache by a step of fixed shapes, which a runtime compiles or captures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spaces.generation.caches.static import StaticCache, WholeBuffers, slots_of
from spaces.generation.program import CacheSettings
from spaces.generation.torch_program import TorchCausalModel, TorchProgram

#: (tokens (B, 1), number of the token (1,), starts (B,), keys and values by layer) -> logits (B, V) float32.
DecodeStep = Callable[[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]], Tensor]

#: (call, its inputs) -> (what runs it again over the same inputs, its output).
Record = Callable[[Any, dict[str, Tensor]], tuple[Callable[[], Any], Tensor]]


class StaticProgram(TorchProgram):
    """Prompts are read operator by operator; each later token by `step_of(step)`.

    The step always attends to the whole cache, whose empty slots a mask hides, so its shapes depend only on the number
    of rows and the capacity.
    """

    def __init__(
        self, model: nn.Module, settings: CacheSettings, device: str, step_of: Callable[[DecodeStep], DecodeStep]
    ) -> None:
        super().__init__(model, replace(settings, kind="static"), device)
        self._step = step_of(step_over(self._model))

    def decode(self, tokens: np.ndarray, cache: Any) -> np.ndarray:
        assert isinstance(cache, StaticCache)
        self._require(cache, 1)
        with torch.inference_mode():
            ids = torch.from_numpy(tokens[:, None]).to(self._device)
            number = torch.tensor([cache.length], device=self._device)
            logits = self._step(ids, number, cache.starts, cache.keys, cache.values)
            cache.advance(1)
        # A copy: a captured step gives the same memory each time.
        return np.array(logits.cpu().numpy())


def step_over(model: TorchCausalModel) -> DecodeStep:
    """A decoding step of `model` over whole buffers."""

    def step(ids: Tensor, number: Tensor, starts: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        return model(ids, number, starts, slots_of(keys[0]), WholeBuffers(keys, values, number))

    return step


class Captured:
    """A step recorded as a CUDA graph, one for each number of rows, and replayed over its own inputs.

    Warm-up runs before a recording write the same keys to the same place, so they change nothing. The buffers of keys
    and values belong to the program. Their addresses change with a larger batch, whose first step drops the graphs
    over the earlier ones.
    """

    def __init__(
        self, step: DecodeStep, record: Callable[[Any, dict[str, Tensor]], tuple[Callable[[], None], Tensor]]
    ) -> None:
        self._step, self._record = step, record
        self._graphs: dict[int, tuple[dict[str, Tensor], Callable[[], Any], Tensor]] = {}
        self._buffers: list[Tensor] = []  # that the graphs are over; held, so that no others have their addresses
        self._alone = threading.Lock()

    def __call__(self, ids: Tensor, number: Tensor, starts: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        inputs = {"ids": ids, "number": number, "starts": starts}
        with self._alone:
            if not self._buffers or keys[0].data_ptr() != self._buffers[0].data_ptr():
                self._graphs.clear()
                self._buffers = [*keys, *values]
            if len(ids) not in self._graphs:
                static = {name: tensor.clone() for name, tensor in inputs.items()}

                def call(ids: Tensor, number: Tensor, starts: Tensor) -> Tensor:
                    return self._step(ids, number, starts, keys, values)

                self._graphs[len(ids)] = (static, *self._record(call, static))
            static, replay, output = self._graphs[len(ids)]
            for name, tensor in inputs.items():
                static[name].copy_(tensor)
            replay()
            return output.clone()
