"""Causal language models under OpenVINO: generation with a cache in the state of a request, and scores of texts."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spaces.generation.onnx_program import GraphScores
from spaces.generation.openvino_graph import stateful_model
from spaces.generation.openvino_operators import MASK
from spaces.generation.openvino_translation import BEAM
from spaces.generation.padding import left_padding
from spaces.generation.program import CacheFullError, KeysAndValues

OPENVINO_CACHES = ("dynamic",)
#: Added to the score of a key that a query does not see. A finite number: padding sees no key, and the mean of all
#: values harms nothing, where a softmax over minus infinities would be NaN.
HIDDEN = np.float32(-1e9)
#: Activations are rounded to 8 bits for products with integer weights, with a scale for every so many of a token's; 0:
#: they are not.
ACTIVATION_GROUP = 32


class StatefulModel:
    """A graph with one output, compiled for the CPU: float32 for everything but integer weights."""

    def __init__(self, path: Path, output: str, config: dict[str, Any]) -> None:
        import openvino

        model, self.facts = stateful_model(path, output)
        exact = {"KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(ACTIVATION_GROUP)}
        self.compiled = openvino.Core().compile_model(model, "CPU", config | exact)
        self._inputs = {name for value in self.compiled.inputs for name in value.get_names()}

    def request(self) -> Any:
        """An inference request, which has a state of its own."""
        return self.compiled.create_infer_request()

    def run(
        self, request: Any, ids: np.ndarray, starts: np.ndarray, cache_length: int, **inputs: np.ndarray
    ) -> np.ndarray:
        """The output after tokens (B, L) that follow the `cache_length` ones in the request's state.

        `starts` (B,): the number of each row's first token that is not padding.
        """
        rows, new = ids.shape
        numbers = np.arange(cache_length, cache_length + new)
        positions = np.maximum(numbers - starts[:, None], 0)
        cos, sin = self.facts.rotary(positions)
        fed = {
            "input_ids": ids.astype(np.int64),
            "positions": positions,
            "cos": np.tile(cos, 2)[:, None],
            "sin": np.tile(sin, 2)[:, None],
            BEAM: np.arange(rows, dtype=np.int32),
            **inputs,
        }
        feed = {name: array for name, array in fed.items() if name in self._inputs}
        for name in self._inputs:
            if name.startswith(MASK):
                feed[name] = added_mask(numbers, starts, int(name.partition(".")[2] or 0))
        output: np.ndarray = request.infer(feed, share_inputs=True, share_outputs=True)[0]
        return np.array(output)  # a copy: the request gives the same memory each time


def added_mask(numbers: np.ndarray, starts: np.ndarray, window: int) -> np.ndarray:
    """What is added to the scores (B, 1, L, T) of the queries of tokens number `numbers` (L,) with all keys so far.

    `window`: how many tokens a token sees, itself included; 0: all.
    """
    keys, queries = np.arange(numbers[-1] + 1), numbers[:, None]
    mask = (keys <= queries) & (keys >= starts[:, None, None])
    if window:
        mask &= keys > queries - window
    return np.where(mask, np.float32(0), HIDDEN)[:, None]


class StatefulCache:
    """Keys and values in the state of an inference request of its own, which grows with each token."""

    def __init__(self, request: Any, starts: np.ndarray, bytes_a_token: int) -> None:
        self.request, self.starts, self._bytes_a_token = request, starts, bytes_a_token
        self.length = 0

    @property
    def nbytes(self) -> int:
        return len(self.starts) * self.length * self._bytes_a_token


class OpenVinoProgram:
    """Generation over the state of a request: a step appends its keys and values to it in place."""

    rewinds = True

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.model = StatefulModel(path, "logits", config)
        facts = self.model.facts
        self._bytes_a_token = 2 * sum(facts.keys) * facts.head_dim * np.dtype(np.float32).itemsize

    def prefill(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> tuple[np.ndarray, StatefulCache]:
        """As `spaces.generation.program.Program` says."""
        cache = StatefulCache(self.model.request(), left_padding(attention_mask), self._bytes_a_token)
        return self._read(input_ids, cache), cache

    def decode(self, tokens: np.ndarray, cache: StatefulCache) -> np.ndarray:
        """As `spaces.generation.program.Program` says."""
        return self._read(tokens[:, None], cache)

    def extend(self, tokens: np.ndarray, cache: StatefulCache) -> np.ndarray:
        """As `spaces.generation.program.RewindingProgram` says."""
        return self._read(tokens, cache, np.arange(tokens.shape[1]))[None]

    def truncate(self, cache: StatefulCache, length: int) -> None:
        """As `spaces.generation.program.RewindingProgram` says; the state is read and written."""
        self._begin(cache, self.stored(cache), length)

    def stored(self, cache: StatefulCache) -> KeysAndValues:
        """As `spaces.generation.program.ResumingProgram` says."""
        states = {state.name: state for state in cache.request.query_state()}
        return {
            index: (np.array(_of(states, index, "key").state.data), np.array(_of(states, index, "value").state.data))
            for index in range(len(self.model.facts.keys))
        }

    def resume(
        self, layers: KeysAndValues, prefix_length: int, input_ids: np.ndarray
    ) -> tuple[np.ndarray, StatefulCache]:
        """As `spaces.generation.program.ResumingProgram` says."""
        cache = StatefulCache(self.model.request(), np.zeros(1, np.int64), self._bytes_a_token)
        self._begin(cache, layers, prefix_length)
        return self._read(input_ids[:, prefix_length:], cache), cache

    def _begin(self, cache: StatefulCache, layers: KeysAndValues, length: int) -> None:
        """Make the first `length` tokens of these keys and values all that the cache holds."""
        import openvino

        states = {state.name: state for state in cache.request.query_state()}
        for index, pair in layers.items():
            for part, array in zip(("key", "value"), pair, strict=True):
                _of(states, index, part).state = openvino.Tensor(np.ascontiguousarray(array[:, :, :length]))
        cache.length = length

    def _read(self, ids: np.ndarray, cache: StatefulCache, wanted: np.ndarray | None = None) -> np.ndarray:
        """Logits (B, V) after the last of these tokens (B, L); (R, V) after those `wanted` (R,) of the only row."""
        rows, new = ids.shape
        table = self.model.facts.positions
        if table is not None and cache.length + new - int(cache.starts.min()) > table:
            raise CacheFullError(
                f"the model has positions for {table} tokens, got {cache.length + new - int(cache.starts.min())}"
            )
        places = np.arange(1, rows + 1) * new - 1 if wanted is None else wanted
        logits = self.model.run(cache.request, ids, cache.starts, cache.length, rows=places)
        cache.length += new
        return logits


def _of(states: Mapping[str, Any], index: int, part: str) -> Any:
    """The state of the keys ("key") or the values ("value") of a block."""
    return next(state for name, state in states.items() if name.startswith(f"past.{index}.{part}"))


class OpenVinoScores(GraphScores):
    """Scores of texts by the same weights. Threads take turns, as there is one request."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.model = StatefulModel(path, "log_likelihood", config)
        self._request, self._alone = self.model.request(), threading.Lock()

    def likelihoods(self, ids: np.ndarray, lengths: np.ndarray, rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
        starts = np.zeros(len(ids), np.int64)
        with self._alone:
            self._request.reset_state()
            return self.model.run(self._request, ids, starts, 0, rows=rows, targets=targets)
