"""Causal language models under ONNX Runtime: generation with a cache, and scores of texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from spaces.generation.graph_facts import GraphFacts
from spaces.generation.program import CacheFullError, CacheSettings, KeysAndValues

ONNX_CACHES = ("static",)
#: Tokens that are scored in one call, unless a text is longer: each needs logits over the whole vocabulary.
SCORED_PER_CALL = 512


class DecoderSession:
    """One session over a graph of `spaces.generation.onnx_decoder`."""

    def __init__(self, session: Any) -> None:
        import onnxruntime

        self.session = session
        self.facts = GraphFacts.of(session.get_modelmeta().custom_metadata_map)
        self.inputs = {value.name for value in session.get_inputs()}
        self.options = onnxruntime.RunOptions()
        self.options.only_execute_path_to_fetches = True

    def angles(self, positions: int) -> dict[str, np.ndarray]:
        """Inputs of rotary positions, (positions, head_dim / 2) each."""
        return dict(zip(("cos", "sin"), self.facts.rotary(np.arange(positions)), strict=True))

    def buffers(self, rows: int, capacity: int) -> dict[str, np.ndarray]:
        """Keys and values (rows, keys, capacity, head_dim) by block, uninitialised beyond a row's length."""
        return {
            f"{index}.{part}": np.empty((rows, keys, capacity, self.facts.head_dim), np.float32)
            for index, keys in enumerate(self.facts.keys)
            for part in ("key", "value")
        }


class OnnxStaticCache:
    """Keys and values of a fixed capacity. Padding is not stored, so each row has a length of its own."""

    def __init__(self, decoder: DecoderSession, capacity: int, lengths: np.ndarray, padded: int) -> None:
        rows = len(lengths)
        self.length, self.lengths = padded, lengths.astype(np.int32)
        self.buffers = decoder.buffers(rows, capacity)
        self.logits = np.empty((rows, decoder.facts.vocabulary), np.float32)
        self.step: dict[str, np.ndarray] = {
            "input_ids": np.zeros((rows, 1), np.int64),
            "lengths": self.lengths - 1,
            "total": np.array(lengths.max(), np.int32),
            "rows": np.arange(rows),
            "targets": np.zeros((rows, 1), np.int64),
            "positions": np.zeros((rows, 1), np.int64),
        }
        self.binding: Any = None

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers.values())


class OnnxProgram:
    """Generation with past and present in one buffer per block: a step writes only its own token's keys and values."""

    rewinds = True

    def __init__(self, session: Any, settings: CacheSettings) -> None:
        self._decoder = DecoderSession(session)
        table = self._decoder.facts.positions
        self.capacity = settings.capacity if table is None else min(settings.capacity, table)
        self._angles = self._decoder.angles(self.capacity)

    def prefill(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> tuple[np.ndarray, OnnxStaticCache]:
        """As `spaces.generation.program.Program` says."""
        rows, padded = input_ids.shape
        if padded > self.capacity:
            raise CacheFullError(f"a prompt must fit into the cache's {self.capacity} tokens, got {padded}")
        lengths = attention_mask.astype(np.int64).sum(1)
        if not lengths.all() or not np.array_equal(attention_mask != 0, np.arange(padded) >= padded - lengths[:, None]):
            raise ValueError("prompts must have at least one token each, and be padded on the left alone")
        # Padding goes to the right, where the operator wants it: later steps overwrite what is kept of it.
        longest = int(lengths.max())
        positions = np.arange(longest)
        moved = np.minimum(positions + (padded - lengths)[:, None], padded - 1)
        cache = OnnxStaticCache(self._decoder, self.capacity, lengths, padded)
        fed = {
            "input_ids": np.take_along_axis(input_ids, moved, 1).astype(np.int64),
            "lengths": (lengths - 1).astype(np.int32),
            "total": np.array(longest, np.int32),
            "rows": np.arange(rows) * longest + lengths - 1,
            "targets": np.zeros((rows, 1), np.int64),
            "positions": np.repeat(positions[None], rows, 0),
        }
        self._run(self._bound(cache, fed, cache.logits))  # reads the memory of `fed`, which is held until here
        return cache.logits.copy(), cache

    def decode(self, tokens: np.ndarray, cache: OnnxStaticCache) -> np.ndarray:
        """As `spaces.generation.program.Program` says."""
        if cache.length >= self.capacity:
            raise CacheFullError(f"the cache holds {self.capacity} tokens a row, and is full")
        step = cache.step
        step["input_ids"][:, 0] = tokens
        step["lengths"][:] = cache.lengths
        step["positions"][:, 0] = cache.lengths
        cache.lengths += 1
        cache.length += 1
        step["total"][...] = cache.lengths.max()
        if cache.binding is None:
            cache.binding = self._bound(cache, step, cache.logits)
        self._run(cache.binding)
        return cache.logits.copy()

    def extend(self, tokens: np.ndarray, cache: OnnxStaticCache) -> np.ndarray:
        """As `spaces.generation.program.RewindingProgram` says."""
        rows, new = tokens.shape
        if rows != 1:
            raise ValueError(f"GroupQueryAttention extends a cache by several tokens in one row alone, got {rows} rows")
        return self._read(tokens, cache, np.arange(new))[None]

    def truncate(self, cache: OnnxStaticCache, length: int) -> None:
        cache.lengths -= cache.length - length
        cache.length = length

    def stored(self, cache: OnnxStaticCache) -> KeysAndValues:
        """As `spaces.generation.program.ResumingProgram` says."""
        keys, values = (
            [cache.buffers[f"{i}.{part}"][:, :, : cache.length].copy() for i in range(len(self._decoder.facts.keys))]
            for part in ("key", "value")
        )
        return dict(enumerate(zip(keys, values, strict=True)))

    def resume(
        self, layers: KeysAndValues, prefix_length: int, input_ids: np.ndarray
    ) -> tuple[np.ndarray, OnnxStaticCache]:
        """As `spaces.generation.program.ResumingProgram` says."""
        cache = OnnxStaticCache(self._decoder, self.capacity, np.array([prefix_length]), prefix_length)
        for index, pair in layers.items():
            for part, array in zip(("key", "value"), pair, strict=True):
                cache.buffers[f"{index}.{part}"][:, :, :prefix_length] = array[:, :, :prefix_length]
        last = np.array([input_ids.shape[1] - prefix_length - 1])
        return self._read(input_ids[:, prefix_length:], cache, last), cache

    def _read(self, tokens: np.ndarray, cache: OnnxStaticCache, wanted: np.ndarray) -> np.ndarray:
        """Read tokens (1, N) behind those of the cache; logits (R, V) after the tokens at the places `wanted` (R,)."""
        new = tokens.shape[1]
        if cache.length + new > self.capacity:
            raise CacheFullError(f"the cache holds {self.capacity} tokens a row, got {cache.length + new}")
        places = np.arange(new)
        total = int(cache.lengths[0]) + new
        fed = {
            "input_ids": np.ascontiguousarray(tokens, np.int64),
            "lengths": np.array([total - 1], np.int32),
            "total": np.array(total, np.int32),
            "rows": wanted,
            "targets": np.zeros((len(wanted), 1), np.int64),
            "positions": (total - new + places)[None],
        }
        logits = np.empty((len(wanted), self._decoder.facts.vocabulary), np.float32)
        self._run(self._bound(cache, fed, logits))
        cache.lengths += new
        cache.length += new
        return logits

    def _run(self, binding: Any) -> None:
        self._decoder.session.run_with_iobinding(binding, self._decoder.options)

    def _bound(self, cache: OnnxStaticCache, fed: Mapping[str, np.ndarray], logits: np.ndarray) -> Any:
        """A call whose inputs and outputs are in the memory of these arrays and of the cache, which outlive it."""
        binding = self._decoder.session.io_binding()
        for name, array in {**fed, **self._angles}.items():
            if name in self._decoder.inputs:
                _bind(binding.bind_input, name, array)
        for name, array in cache.buffers.items():
            _bind(binding.bind_input, f"past.{name}", array)
            _bind(binding.bind_output, f"present.{name}", array)
        _bind(binding.bind_output, "logits", logits)
        return binding


def _bind(bind: Any, name: str, array: np.ndarray) -> None:
    assert array.flags.c_contiguous, name
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


class GraphScores(ABC):
    """input_ids, attention_mask (B, L), padded at the right -> log_likelihood (B, L) of each token after the others."""

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        at_once = max(1, SCORED_PER_CALL // ids.shape[1])
        parts = [self._scored(ids[i : i + at_once], mask[i : i + at_once]) for i in range(0, len(ids), at_once)]
        return {"log_likelihood": np.concatenate(parts)}

    def _scored(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        scores = np.zeros(ids.shape, np.float32)
        row, place = np.nonzero(mask[:, 1:])  # of the token before each that has one
        if len(row):
            targets = ids[row, place + 1].astype(np.int64)[:, None]
            lengths = mask.astype(np.int64).sum(1)
            scores[row, place + 1] = self.likelihoods(ids, lengths, row * ids.shape[1] + place, targets)
        return scores

    @abstractmethod
    def likelihoods(self, ids: np.ndarray, lengths: np.ndarray, rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """The log-likelihood (R,) of `targets` (R, 1) after the tokens at `rows` (R,) of a batch (B, L).

        `rows` count the tokens of the batch from its first to its last; each of its rows has a length.
        """


class OnnxScores(GraphScores):
    """Scores by the graph that generates, with an empty cache."""

    def __init__(self, session: Any) -> None:
        self._decoder = DecoderSession(session)

    def likelihoods(self, ids: np.ndarray, lengths: np.ndarray, rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
        (count, length), decoder = ids.shape, self._decoder
        fed = {
            "input_ids": ids.astype(np.int64),
            "lengths": np.maximum(lengths - 1, 0).astype(np.int32),
            "total": np.array(length, np.int32),
            "rows": rows,
            "targets": targets,
            "positions": np.repeat(np.arange(length)[None], count, 0),
            **decoder.angles(length),
            **{f"past.{name}": empty for name, empty in decoder.buffers(count, 0).items()},
        }
        inputs = {name: array for name, array in fed.items() if name in decoder.inputs}
        (scored,) = decoder.session.run(["log_likelihood"], inputs, decoder.options)
        return scored  # type: ignore[no-any-return]
