"""Kinds of key-value caches, and their settings."""

from __future__ import annotations

from dataclasses import dataclass

#: Kinds of cache, the reference first (`CacheSettings.kind`).
CACHE_KINDS = ("dynamic", "static", "int8", "int4", "sliding")
#: Quantised kinds.
QUANTISED_CACHES = ("int8", "int4")
#: Lossy kinds, which change a model's outputs.
LOSSY = (*QUANTISED_CACHES, "sliding")
#: Kinds of speculation, the default first (`spaces.generation.speculation`).
SPECULATION = ("none", "prompt_lookup")
#: Tokens that a quantised cache quantises at a time, once they are no longer among its newest ones.
TOKEN_GROUP = 32


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """The settings of a program's key-value cache.

    "dynamic" grows with each token. "static" is allocated once for `capacity` tokens a row. "int8" and "int4" keep keys
    by channel and values by token in that many bits, and the newest `recent` tokens in full precision (Liu et al. 2024,
    KIVI, arXiv 2402.02750). "sliding" keeps the first `sinks` tokens and the newest `window` (Xiao et al. 2023,
    StreamingLLM, arXiv 2309.17453).

    With `speculation` "prompt_lookup" several tokens are read in one call, and the rejected ones are taken back.
    """

    kind: str = "dynamic"
    capacity: int = (
        2048  # tokens a row, of prompt and answer together; "dynamic" and "sliding" have no limit of their own
    )
    recent: int = 32
    window: int = 1024
    sinks: int = 4
    speculation: str = SPECULATION[0]

    def __post_init__(self) -> None:
        if self.kind not in CACHE_KINDS:
            raise ValueError(f"a cache must be one of {', '.join(CACHE_KINDS)}, got {self.kind}")
        if self.speculation not in SPECULATION:
            raise ValueError(f"speculation must be one of {', '.join(SPECULATION)}, got {self.speculation}")

    @property
    def speculates(self) -> bool:
        """Whether tokens are proposed before the model is asked."""
        return self.speculation != SPECULATION[0]

    @property
    def lossy(self) -> bool:
        """Whether its outputs differ from those of a forward pass over the whole text."""
        return self.kind in LOSSY

    @property
    def exact_tokens(self) -> int | None:
        """The number of first tokens of a text with exact outputs; None: all."""
        if self.kind in QUANTISED_CACHES:
            return self.recent + TOKEN_GROUP
        return self.sinks + self.window + 1 if self.kind == "sliding" else None
