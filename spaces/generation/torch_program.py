"""Generation by a transformers model in torch, over any of the caches."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spaces.errors import Infeasible
from spaces.generation.caches.dynamic import DynamicCache
from spaces.generation.caches.quantised import QuantisedCache
from spaces.generation.caches.sliding import SlidingCache
from spaces.generation.caches.static import Buffers, StaticCache
from spaces.generation.caches.torch_cache import TorchCache
from spaces.generation.padding import left_padding
from spaces.generation.program import CacheFullError, CacheSettings, KeysAndValues

#: Tokens of a row that are scored in one call: the logits of each take the vocabulary's size.
SCORED_PER_ROW = 32

NewCache = Callable[[Tensor], TorchCache]


class TorchCausalModel:
    """A transformers causal language model called with positions, masks and a cache of this program."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._cache_name = cache_name(model)
        config: Any = model.config
        self.dtype: torch.dtype = next(model.parameters()).dtype
        kinds = getattr(config, "layer_types", None)
        self._by_layer = kinds is not None and "sliding_attention" in kinds
        windowed = self._by_layer if kinds is not None else True
        self._window: int | None = getattr(config, "sliding_window", None) if windowed else None
        #: Positions that the model has a table of; None: rotary ones, of any number.
        self.positions = table_of_positions(model)

    def __call__(self, input_ids: Tensor, first: Tensor | int, starts: Tensor, slots: Tensor, cache: Any) -> Tensor:
        """Logits (B, V) float32 after input_ids (B, N), which are tokens number `first` and on.

        `starts` (B,): the number of each row's first token that is not padding. `slots` (1 or B, T): the numbers of the
        tokens whose keys the cache gives.
        """
        return self.every(input_ids, first, starts, slots, cache, 1)[:, -1]

    def every(
        self, input_ids: Tensor, first: Tensor | int, starts: Tensor, slots: Tensor, cache: Any, last: int
    ) -> Tensor:
        """Logits (B, last, V) float32 after each of the last tokens."""
        numbers = torch.arange(input_ids.shape[1], device=input_ids.device) + first  # (N,)
        output = self._model(
            input_ids=input_ids,
            attention_mask=self._masks(numbers, starts, slots),
            position_ids=(numbers[None] - starts[:, None]).clamp(min=0),
            use_cache=True,
            logits_to_keep=last,
            **{self._cache_name: cache},
        )
        return output.logits.float()  # type: ignore[no-any-return]

    def _masks(self, numbers: Tensor, starts: Tensor, slots: Tensor) -> Any:
        """The masks that are added to attention scores, (B, 1, N, T); by kind of layer where these differ."""
        keys, queries = slots[:, None, :], numbers[None, :, None]
        full = (keys <= queries) & (keys >= starts[:, None, None])
        if self._window is None:
            return self._added(full)
        near = self._added(full & (keys > queries - self._window))
        return {"full_attention": self._added(full), "sliding_attention": near} if self._by_layer else near

    def _added(self, visible: Tensor) -> Tensor:
        # The lowest finite number: a row of padding sees nothing, and a softmax over minus infinities is NaN.
        hidden = torch.finfo(self.dtype).min
        return torch.zeros(visible.shape, dtype=self.dtype, device=visible.device).masked_fill(~visible, hidden)[
            :, None
        ]


def cache_name(model: nn.Module) -> str:
    """The name of a transformers model's cache argument: `cache` in 5.24, `past_key_values` in 5.17."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


class TorchProgram:
    """A causal language model run operator by operator."""

    def __init__(self, model: nn.Module, settings: CacheSettings, device: str) -> None:
        self._model, self._device = TorchCausalModel(model), device
        self.new_cache = cache_maker(model, settings)
        self.rewinds = settings.kind in ("dynamic", "static")

    def prefill(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> tuple[np.ndarray, TorchCache]:
        cache = self.new_cache(torch.from_numpy(left_padding(attention_mask)).to(self._device))
        return self.read(input_ids, cache)[:, -1], cache

    def decode(self, tokens: np.ndarray, cache: TorchCache) -> np.ndarray:
        return self.read(tokens[:, None], cache)[:, -1]

    def extend(self, tokens: np.ndarray, cache: TorchCache) -> np.ndarray:
        """See `spaces.generation.program.RewindingProgram`; operator by operator, whatever runs a single step."""
        return self.read(tokens, cache, tokens.shape[1])

    def truncate(self, cache: TorchCache, length: int) -> None:
        assert isinstance(cache, DynamicCache | StaticCache)
        cache.crop(length)

    def scores(self, input_ids: np.ndarray) -> np.ndarray:
        """See `spaces.generation.program.ScoringProgram`: several tokens a call, if outputs stay the same."""
        rows, length = input_ids.shape
        likelihoods = np.zeros((rows, length), np.float32)
        cache = self.new_cache(torch.zeros(rows, dtype=torch.int64, device=self._device))
        begin = 0
        while begin < length - 1:
            end = min(length - 1, begin + min(SCORED_PER_ROW, cache.together() or SCORED_PER_ROW))
            logits = torch.from_numpy(self.read(input_ids[:, begin:end], cache, end - begin))
            following = torch.from_numpy(input_ids[:, begin + 1 : end + 1, None])
            likelihoods[:, begin + 1 : end + 1] = logits.log_softmax(-1).gather(-1, following)[..., 0].numpy()
            begin = end
        return likelihoods

    def stored(self, cache: TorchCache) -> KeysAndValues:
        """See `spaces.generation.program.ResumingProgram`."""
        assert isinstance(cache, DynamicCache | StaticCache)
        return cache.layers()

    def resume(self, layers: KeysAndValues, prefix_length: int, input_ids: np.ndarray) -> tuple[np.ndarray, TorchCache]:
        """See `spaces.generation.program.ResumingProgram`."""
        cache = self.new_cache(torch.zeros(1, dtype=torch.int64, device=self._device))
        self._require(cache, input_ids.shape[1])
        with torch.inference_mode():
            for layer, (keys, values) in layers.items():
                cache.update(keys[:, :, :prefix_length], values[:, :, :prefix_length], layer)
            cache.advance(prefix_length)
        return self.read(input_ids[:, prefix_length:], cache)[:, -1], cache

    def _require(self, cache: TorchCache, new: int) -> None:
        """Raise CacheFullError where the cache has no room, or the model no positions, for `new` more tokens."""
        cache.require(new)
        table = self._model.positions
        if table is not None and cache.length + new > table:
            longest = cache.length + new - int(cache.starts.min())
            if longest > table:
                raise CacheFullError(f"the model has positions for {table} tokens, got {longest}")

    def read(self, tokens: np.ndarray, cache: TorchCache, last: int = 1) -> np.ndarray:
        """Read tokens (B, N) into the cache; logits (B, last, V) float32 after each of the last `last` ones."""
        new = tokens.shape[1]
        self._require(cache, new)
        with torch.inference_mode():
            ids = torch.from_numpy(tokens).to(self._device)
            try:
                logits = self._model.every(ids, cache.length, cache.starts, cache.slots(new), cache, last)
            except AttributeError as error:
                if isinstance(error.obj, TorchCache):
                    raise Infeasible(f"this family asks its cache for {error.name}, which no cache here has") from error
                raise
            cache.advance(new)
        return logits.cpu().numpy()


def cache_maker(model: nn.Module, settings: CacheSettings) -> NewCache:
    """A function from `starts` (B,) to a new cache. Raises Infeasible where the model does not support this kind."""
    if settings.kind == "static":
        buffers = Buffers(settings.capacity)
        return lambda starts: StaticCache(starts, buffers)
    if settings.kind in ("int8", "int4"):
        bits = int(settings.kind.removeprefix("int"))
        return lambda starts: QuantisedCache(starts, bits, settings.recent)
    if settings.kind == "sliding":
        frequencies = rotary_frequencies(model)
        return lambda starts: SlidingCache(starts, settings.sinks, settings.window, frequencies)
    return DynamicCache


def table_of_positions(model: nn.Module) -> int | None:
    """The number of positions of a model that has a table of them, as GPT-2; None where they are computed."""
    if getattr(model.base_model, "rotary_emb", None) is not None:
        return None
    return getattr(model.config, "max_position_embeddings", None)


def rotary_frequencies(model: nn.Module) -> Tensor:
    """Radians per position (R / 2,) of a model's rotary embedding. Raises Infeasible unless they are fixed."""
    rotary = getattr(model.base_model, "rotary_emb", None)
    frequencies = getattr(rotary, "inv_freq", None)
    kind = getattr(rotary, "rope_type", None)
    if not isinstance(frequencies, Tensor) or kind in ("dynamic", "longrope"):
        what = "embeddings of absolute positions" if frequencies is None else f"rotary embeddings of kind {kind}"
        raise Infeasible(f"a sliding cache needs rotary embeddings of fixed frequencies; this model has {what}")
    return frequencies.float()
