"""Deployments: the runtimes and precisions under which one set of weights runs without further training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from spaces.axes import cache as caches
from spaces.axes.bits import INTEGER, WITH_A_HEAD, WITH_INT8_BLOCKS
from spaces.generation.program import CacheSettings
from spaces.knob import Knob, Settings, Value
from spaces.recipe import DEPLOYED, Recipe, Step

RUNTIME = "runtime.name"
PRECISION = "bits.precision"
INT8_BLOCKS = "bits.int8_blocks"
CACHE = "cache.kind"


class Deployment(NamedTuple):
    """A runtime, a precision that it runs, and for a model that generates a cache that it has.

    `int8_blocks`: of int4, the number of blocks whose weights are int8.
    """

    runtime: str
    precision: str
    cache: CacheSettings = CacheSettings()
    int8_blocks: int = 0

    @classmethod
    def of(cls, params: Mapping[str, Value]) -> Deployment:
        """The deployment of settings by `<axis>.<knob>`; absent ones are off."""
        own = {name.partition(".")[2]: value for name, value in params.items() if name.startswith("cache.")}
        precision = str(params.get(PRECISION, "fp32"))
        blocks = int(params.get(INT8_BLOCKS, 0)) if precision in WITH_INT8_BLOCKS else 0
        return cls(str(params[RUNTIME]), precision, caches.cache_settings(own), blocks)

    @property
    def settings(self) -> dict[str, Value]:
        """By `<axis>.<knob>`, those of the cache and of blocks whether there are any or not."""
        cache = {f"cache.{name}": value for name, value in caches.settings_of(self.cache).items()}
        return {RUNTIME: self.runtime, PRECISION: self.precision, INT8_BLOCKS: self.int8_blocks, **cache}

    @property
    def possible(self) -> bool:
        """Whether tokens that are proposed change no output: other kernels round them otherwise than one by one."""
        return not self.cache.speculates or (self.runtime, self.precision) == ("onnx", "fp32")

    def to_json(self) -> list[str]:
        """Names alone; blocks and the cache only where they are not the default ones."""
        blocks = [f"int8_blocks {self.int8_blocks}"] if self.int8_blocks else []
        return [self.runtime, self.precision, *blocks, *self.cache_parts]

    @property
    def cache_parts(self) -> list[str]:
        """What differs from the default cache: ["kind static"]."""
        return [f"{name} {value}" for name, value in _cache_step(self.cache).items()]

    def gives_what(self, other: Deployment) -> bool:
        """Whether the same weights give the same outputs under both, but for rounding."""
        alike = self.precision == "fp32" or self.runtime == other.runtime
        same = (self.precision, self.int8_blocks) == (other.precision, other.int8_blocks)
        return alike and same and not (self.cache.lossy or other.cache.lossy)


def is_of_deployment(name: str) -> bool:
    """Whether the knob `<axis>.<knob>` is a part of the deployment: runtime, precision, int8 blocks or cache.

    Other finer settings of the precision, such as `bits.head`, are not: `siblings` adds them to each deployment.
    """
    return name in (RUNTIME, PRECISION, INT8_BLOCKS) or name.startswith("cache.")


def fixed_precision(knobs: Mapping[str, Knob]) -> dict[str, Value]:
    """Finer settings of a precision (such as `bits.head`) that the space fixes at a value other than off.

    By `<axis>.<knob>`. Every deployment with a precision that they apply to has them, also the uncompressed model's.
    """
    return {
        name: knob.single
        for name, knob in knobs.items()
        if name.startswith("bits.") and not is_of_deployment(name)
        if knob.needs and knob.single is not None and knob.single != knob.off
    }


def siblings(
    recipe: Recipe, deployments: Sequence[Deployment], fixed: Settings = MappingProxyType({})
) -> tuple[Recipe, ...]:
    """The recipes of the same weights under each of `deployments`, without this recipe's own.

    Its fp32 blocks stay fp32 under every integer precision. Its embeddings and its head keep their precision under its
    own runtime only, because another runtime may have no kernel for it. Its int8 blocks are the deployment's. `fixed`
    is of all (`fixed_precision`).
    """
    own = recipe.step("bits")
    recipes = []
    for deployment in deployments:
        precision = deployment.precision
        settings: dict[str, Value] = {} if precision == "fp32" else {"precision": precision}
        own_runtime = deployment.runtime == recipe.runtime.name
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
        if deployment.int8_blocks:
            settings["int8_blocks"] = deployment.int8_blocks
        deployed = (Step("bits", settings), Step("cache", _cache_step(deployment.cache)))
        weights = tuple(step for step in recipe.steps if step.name not in DEPLOYED)
        steps = (*weights, *(step for step in deployed if step.settings))
        other = replace(recipe, steps=steps, runtime=Step(deployment.runtime))
        if other.digest != recipe.digest:
            recipes.append(other)
    return tuple(recipes)


def _cache_step(cache: CacheSettings) -> dict[str, Value]:
    """What differs from the default cache."""
    off = caches.settings_of(CacheSettings())
    return {name: value for name, value in caches.settings_of(cache).items() if value != off[name]}
