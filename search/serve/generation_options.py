"""The options of one answer of a language model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from search.serve.exported_model import check_whole
from spaces.cache_settings import SPECULATION


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How tokens are chosen and where an answer ends. Raises ValueError for an invalid value."""

    max_new_tokens: int
    temperature: float  # 0: always the most likely token
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    speculation: str = SPECULATION[0]

    def __post_init__(self) -> None:
        check_whole("max_new_tokens", self.max_new_tokens, 1)
        if self.seed is not None:
            check_whole("seed", self.seed, 0)
        if not (isinstance(self.temperature, int | float) and 0 <= self.temperature < math.inf):
            raise ValueError(f"temperature must be a finite number of 0 or more, got {self.temperature!r}")
        if not (isinstance(self.top_p, int | float) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p!r}")
        for one in self.stop:
            if not isinstance(one, str) or not one:
                raise ValueError(f"stop must be a string or several, none of them empty, got {one!r}")
        if self.speculation not in SPECULATION:
            raise ValueError(f"speculation must be one of {', '.join(SPECULATION)}, got {self.speculation!r}")
        if self.speculates and self.temperature:
            raise ValueError(f"speculation needs temperature 0, got a temperature of {self.temperature!r}")

    @property
    def speculates(self) -> bool:
        """Whether tokens are proposed before the model is asked."""
        return self.speculation != SPECULATION[0]
