"""The axis of key-value caches of language models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spaces.axis import Phase
from spaces.cache_settings import CACHE_KINDS, LOSSY, QUANTISED_CACHES, SPECULATION, TOKEN_GROUP, CacheSettings
from spaces.knob import Knob, Plan, Settings

if TYPE_CHECKING:  # torch takes seconds to import, and the names of caches are asked for before it is
    from torch import nn

    from spaces.shape import Shape
    from spaces.statistics import Statistics

#: Searched only where they are named. Few bits save memory, but in torch on a CPU each step takes longer (measured by
#: `benchmarks/caches.py`); a window drops tokens, so outputs for long texts differ.
OPT_IN_KINDS = (*QUANTISED_CACHES, "sliding")
#: Those that rejected tokens can be taken out of.
EXACT_KINDS = tuple(kind for kind in CACHE_KINDS if kind not in LOSSY)
_OWN = CacheSettings()


class CacheKind:
    """Chooses a cache; `GeneratingRuntime.cache_kinds` lists those of a runtime."""

    name = "cache"
    phase = Phase.RUNTIME
    source = "Liu et al. 2024, arXiv 2402.02750 (KIVI); Xiao et al. 2023, arXiv 2309.17453 (StreamingLLM)"

    def knobs(self, shape: Shape) -> tuple[Knob, ...]:
        kinds = "how keys and values are kept: int8 and int4 by channel and by token, sliding forgets old tokens"
        return (
            Knob("kind", off=_OWN.kind, choices=CACHE_KINDS, help=kinds),
            Knob(
                "recent",
                off=_OWN.recent,
                low=0,
                high=1024,
                step=TOKEN_GROUP,
                method=True,
                opt_in=True,
                needs=("kind", QUANTISED_CACHES),
                help="newest tokens that an int8 or int4 cache keeps in full precision",
            ),
            Knob(
                "window",
                off=_OWN.window,
                low=32,
                high=8192,
                step=32,
                method=True,
                opt_in=True,
                needs=("kind", ("sliding",)),
                help="newest tokens that a sliding cache keeps",
            ),
            Knob(
                "sinks",
                off=_OWN.sinks,
                low=0,
                high=32,
                step=1,
                method=True,
                opt_in=True,
                needs=("kind", ("sliding",)),
                help="first tokens that a sliding cache keeps",
            ),
            Knob(
                "speculation",
                off=_OWN.speculation,
                choices=SPECULATION,
                opt_in=True,
                needs=("kind", EXACT_KINDS),
                help="prompt_lookup proposes what followed the last tokens before (onnx in fp32, batches of one)",
            ),
        )

    def decide(self, statistics: Statistics, settings: Settings) -> Plan:
        return {"kind": cache_settings(settings).kind}

    def carry(self, statistics: Statistics, plan: Plan) -> Statistics:
        return statistics

    def reshape(self, model: nn.Module, plan: Plan) -> None:
        """Nothing: the runtime does it."""

    def fill(self, model: nn.Module, source: nn.Module, plan: Plan, statistics: Statistics) -> None:
        """Nothing: the runtime does it."""


def cache_settings(settings: Settings) -> CacheSettings:
    """The cache of these settings of the axis; settings that its kind does not have take their defaults."""
    kind = str(settings.get("kind", _OWN.kind))
    given = {name: int(settings.get(name, getattr(_OWN, name))) for name in ("recent", "window", "sinks")}
    if kind in QUANTISED_CACHES:
        return CacheSettings(kind, recent=given["recent"])
    if kind == "sliding":
        return CacheSettings(kind, window=given["window"], sinks=given["sinks"])
    return CacheSettings(kind, speculation=str(settings.get("speculation", _OWN.speculation)))


def settings_of(chosen: CacheSettings) -> Settings:
    """All settings of the axis that give this cache."""
    names = ("kind", "recent", "window", "sinks", "speculation")
    return {name: getattr(chosen, name) for name in names}
