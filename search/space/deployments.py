"""Deployments: the runtimes and precisions under which one set of weights runs without further training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from spaces.axes.bits import INTEGER
from spaces.knob import Settings, Value
from spaces.recipe import Recipe, Step


class Deployment(NamedTuple):
    """A runtime and a precision that it runs."""

    runtime: str
    precision: str


def siblings(
    recipe: Recipe, deployments: Sequence[tuple[str, str]], fixed: Settings = MappingProxyType({})
) -> tuple[Recipe, ...]:
    """The recipes of the same weights under each of `deployments`, without this recipe's own.

    Its fp32 blocks stay fp32 under every integer precision. Its embeddings and its head keep their precision under its
    own runtime only, because another runtime may have no kernel for it.
    """
    own = recipe.step("bits")
    recipes = []
    for runtime, precision in deployments:
        settings: dict[str, Value] = {} if precision == "fp32" else {"precision": precision}
        own_runtime = runtime == recipe.runtime.name
        applies = {
            "fp32_blocks": precision in INTEGER,
            "embeddings": own_runtime,
            "head": own_runtime and precision in ("int8", "int4"),
            "rounding": own_runtime and precision == "int4",
        }
        needed = {"head": ("int8", "int4"), "rounding": ("int4",)}
        settings |= {name: value for name, value in fixed.items() if precision in needed.get(name, ())}
        settings |= {name: value for name, value in (own.settings if own else {}).items() if applies.get(name)}
        steps = tuple(s for s in recipe.steps if s.name != "bits")
        if settings:
            steps = (*steps, Step("bits", settings))
        other = replace(recipe, steps=steps, runtime=Step(runtime))
        if other.digest != recipe.digest:
            recipes.append(other)
    return tuple(recipes)
