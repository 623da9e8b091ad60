"""Recipes: canonical text, digests, and round trips."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from models import subject

from spaces import build, registry
from spaces.knob import Value
from spaces.recipe import Recipe, Step, canonical, digest_of

WORDS = ("a", "tiny/bert", "übung", "two words", '"quoted"', "")


def drawn(rng: random.Random, params: dict[str, Value] | None = None) -> Recipe:
    """A recipe with settings from the axes' own grids."""
    shape = subject().statistics.shape
    knobs = [(f"{a.name}.{k.name}", k) for a in registry.axes() for k in a.knobs(shape)]
    chosen = {name: rng.choice([k.off, *k.values()]) for name, k in knobs if rng.random() < 0.7}
    return Recipe(
        base=rng.choice(WORDS),
        task="classification",
        teacher=digest_of(rng.random()),
        steps=build.steps_of(chosen if params is None else params, shape),
        recover=rng.choice(({}, {"epochs": 0.5, "rows": 100, "loss": "kl"})),
        runtime=Step(rng.choice([r.name for r in registry.runtimes()])),
    )


CASES = pytest.mark.parametrize("seed", range(8))


@CASES
def test_a_recipe_survives_json(seed: int) -> None:
    recipe = drawn(random.Random(seed))
    again = Recipe.from_json(json.loads(canonical(recipe.to_json())))
    assert again == recipe
    assert (again.digest, again.weights_digest) == (recipe.digest, recipe.weights_digest)
    assert len(recipe.digest) == 16 and int(recipe.digest, 16) >= 0


@CASES
def test_the_order_of_settings_does_not_matter(seed: int) -> None:
    recipe = drawn(random.Random(seed))
    steps = tuple(Step(s.name, dict(reversed(list(s.settings.items())))) for s in recipe.steps)
    other = replace(recipe, steps=steps, recover=dict(reversed(list(recipe.recover.items()))))
    assert other == recipe and other.digest == recipe.digest


@CASES
def test_the_order_of_parameters_does_not_matter(seed: int) -> None:
    rng = random.Random(seed)
    shape = subject().statistics.shape
    params = {f"{a.name}.{k.name}": rng.choice(k.values()) for a in registry.axes() for k in a.knobs(shape)}
    shuffled = dict(sorted(params.items(), key=lambda _: rng.random()))
    assert build.steps_of(params, shape) == build.steps_of(shuffled, shape)


@CASES
def test_any_difference_changes_the_digest(seed: int) -> None:
    recipe = drawn(random.Random(seed))
    others = [
        replace(recipe, base=recipe.base + "x"),
        replace(recipe, task="other"),
        replace(recipe, teacher="0" * 16),
        replace(recipe, steps=(*recipe.steps, Step("other", {"x": 1}))),
        replace(recipe, recover={**recipe.recover, "epochs": 7.0}),
        replace(recipe, runtime=Step("other")),
        replace(recipe, runtime=Step(recipe.runtime.name, {"threads": 1})),
    ]
    digests = {other.digest for other in others}
    assert len(digests) == len(others) and recipe.digest not in digests


def test_distinct_parameters_give_distinct_digests_and_off_ones_equal_ones() -> None:
    shape = subject().statistics.shape
    by_digest: dict[str, Any] = {}
    for axis in registry.axes():
        for knob in (k for k in axis.knobs(shape) if not k.method):
            for value in knob.values():
                recipe = drawn(random.Random(1), {f"{axis.name}.{knob.name}": value})
                by_digest.setdefault(recipe.digest, set()).add(
                    (axis.name, knob.name, value) if value != knob.off else "off"
                )
    assert all(len(names) == 1 for names in by_digest.values())
    assert {"off"} in by_digest.values()


def test_weights_do_not_depend_on_bits_or_runtime() -> None:
    recipe = drawn(random.Random(3), {"prune.heads": 0.5})
    int8 = drawn(random.Random(3), {"prune.heads": 0.5, "bits.precision": "int8"})
    assert int8.weights_digest == replace(recipe, runtime=Step("other")).weights_digest == recipe.weights_digest
    assert int8.digest != recipe.digest
    assert drawn(random.Random(3), {"prune.heads": 0.25}).weights_digest != recipe.weights_digest


def test_a_recipe_is_compressed_when_its_weights_differ_from_the_teachers() -> None:
    for params, expected in (({}, False), ({"bits.precision": "int8"}, False), ({"low_rank.rank": 0.5}, True)):
        assert drawn(random.Random(0), dict(params)).compressed is expected


def test_the_precision_plan_is_that_of_the_bits_step() -> None:
    assert build.precision_of(drawn(random.Random(0), {})) == {"precision": "fp32"}
    assert build.precision_of(drawn(random.Random(0), {"bits.precision": "int8"})) == {"precision": "int8"}


def test_parameters_are_named_axis_dot_knob() -> None:
    recipe = replace(
        drawn(random.Random(0), {"prune.heads": 0.5, "prune.criterion": "magnitude"}),
        runtime=Step("onnx", {"level": 2}),
    )
    assert recipe.params == {
        "prune.heads": 0.5,
        "prune.criterion": "magnitude",
        "runtime.name": "onnx",
        "runtime.level": 2,
    }
    assert recipe.step("prune") == recipe.steps[0] and recipe.step("bits") is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_have_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical({"x": value})


def test_equal_content_has_equal_text() -> None:
    assert canonical({"b": 1, "a": [1, {"d": "ü", "c": None}]}) == '{"a":[1,{"c":null,"d":"ü"}],"b":1}'
