"""Deployments: the runtimes and precisions under which one set of weights runs without further training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from spaces.axes import cache as caches
from spaces.axes.bits import INTEGER, WITH_A_HEAD
from spaces.generation.program import CacheSettings
from spaces.knob import Knob, Settings, Value
from spaces.recipe import DEPLOYED, Recipe, Step

RUNTIME = "runtime.name"
PRECISION = "bits.precision"
CACHE = "cache.kind"


class Deployment(NamedTuple):
    """A runtime, a precision that it runs, and for a model that generates a cache that it has."""

    runtime: str
    precision: str
    cache: CacheSettings = CacheSettings()

    @classmethod
    def of(cls, params: Mapping[str, Value]) -> Deployment:
        """The deployment of settings by `<axis>.<knob>`; absent ones are off."""
        own = {name.partition(".")[2]: value for name, value in params.items() if name.startswith("cache.")}
        return cls(str(params[RUNTIME]), str(params.get(PRECISION, "fp32")), caches.cache_settings(own))

    @property
    def settings(self) -> dict[str, Value]:
        """By `<axis>.<knob>`, those of the cache whether there is one or not."""
        cache = {f"cache.{name}": value for name, value in caches.settings_of(self.cache).items()}
        return {RUNTIME: self.runtime, PRECISION: self.precision, **cache}

    @property
    def possible(self) -> bool:
        """Whether tokens that are proposed change no output: other kernels round them otherwise than one by one."""
        return not self.cache.speculates or (self.runtime, self.precision) == ("onnx", "fp32")

    def to_json(self) -> list[str]:
        """Names alone; the cache only where it is not the default one."""
        step = _cache_step(self.cache)
        return [self.runtime, self.precision, *(f"{name} {value}" for name, value in step.items())]

    def gives_what(self, other: Deployment) -> bool:
        """Whether the same weights give the same outputs under both, but for rounding."""
        alike = self.precision == "fp32" or self.runtime == other.runtime
        return alike and self.precision == other.precision and not (self.cache.lossy or other.cache.lossy)


def is_of_deployment(name: str) -> bool:
    """Whether the knob `<axis>.<knob>` is a part of the deployment: the runtime, the precision or the cache.

    Finer settings of the precision, such as `bits.head`, are not: `siblings` adds them to each deployment.
    """
    return name in (RUNTIME, PRECISION) or name.startswith("cache.")


def fixed_precision(knobs: Mapping[str, Knob]) -> dict[str, Value]:
    """Finer settings of a precision (such as `bits.head`) that the space fixes at a value other than off.

    By `<axis>.<knob>`. Every deployment with a precision that they apply to has them, also the uncompressed model's.
    """
    return {
        name: knob.single
        for name, knob in knobs.items()
        if name.startswith("bits.") and knob.needs and knob.single is not None and knob.single != knob.off
    }


def siblings(
    recipe: Recipe, deployments: Sequence[Deployment], fixed: Settings = MappingProxyType({})
) -> tuple[Recipe, ...]:
    """The recipes of the same weights under each of `deployments`, without this recipe's own.

    Its fp32 blocks stay fp32 under every integer precision. Its embeddings and its head keep their precision under its
    own runtime only, because another runtime may have no kernel for it. `fixed` is of all
    (`fixed_precision`).
    """
    own = recipe.step("bits")
    recipes = []
    for runtime, precision, cache in deployments:
        settings: dict[str, Value] = {} if precision == "fp32" else {"precision": precision}
        own_runtime = runtime == recipe.runtime.name
        applies = {
            "fp32_blocks": precision in INTEGER,
            "embeddings": own_runtime,
            "head": own_runtime and precision in WITH_A_HEAD,
            "rounding": own_runtime and precision == "int4",
        }
        needed = {"bits.fp32_blocks": INTEGER, "bits.head": WITH_A_HEAD, "bits.rounding": ("int4",)}
        of_precision = [name for name in fixed if precision in needed.get(name, ())]
        settings |= {name.removeprefix("bits."): fixed[name] for name in of_precision}
        settings |= {name: value for name, value in (own.settings if own else {}).items() if applies.get(name)}
        deployed = (Step("bits", settings), Step("cache", _cache_step(cache)))
        weights = tuple(step for step in recipe.steps if step.name not in DEPLOYED)
        other = replace(recipe, steps=(*weights, *(step for step in deployed if step.settings)), runtime=Step(runtime))
        if other.digest != recipe.digest:
            recipes.append(other)
    return tuple(recipes)


def _cache_step(cache: CacheSettings) -> dict[str, Value]:
    """What differs from the default cache."""
    off = caches.settings_of(CacheSettings())
    return {name: value for name, value in caches.settings_of(cache).items() if value != off[name]}
