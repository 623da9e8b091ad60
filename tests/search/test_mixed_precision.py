"""int4 with int8 blocks in a search: each number of blocks is a deployment, predicted and measured as one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from search.config.load import from_mapping, load_config
from search.config.schema import LimitsConfig
from search.errors import UserError
from search.propose.known_latency import weights_grid
from search.propose.surrogate.cost_model import SLACK
from search.propose.surrogate.latency_predictor import deployment_name
from search.space.choices import names
from search.space.deployments import Deployment, siblings
from search.space.space import Space, open_space
from spaces.runtime import Context
from spaces.shape import LayerShape, Shape

from . import factory
from .test_fixed_precision import (
    BITS,
    BLOCKS_MB,
    DEPLOYMENTS,
    FIXED,
    SHAPE,
    TABLE_MB,
    baselines,
    cost_model,
    names_asked_for,
    recipe_in,
)

#: Of SmolLM2-135M.
THIRTY = Shape(
    hidden=576, head_dim=64, group=3, layers=(LayerShape(3, 1536),) * 30, prunable_heads=True, prunable_hidden=True
)
NUMBERS = (0, 2, 4)
MIXED = replace(
    FIXED,
    knobs={**FIXED.knobs, "bits.int8_blocks": replace(BITS["int8_blocks"], high=4, step=2)},
    deployments=(*DEPLOYMENTS, *(Deployment("onnx", "int4", int8_blocks=number) for number in NUMBERS[1:])),
)


def opened(task: str, **bits: object) -> Space:
    mapping = load_config(None, [f"task={task}"], names()).to_mapping()
    mapping |= {"space": {"bits": bits, "cache": "off", "runtime": {"name": ["eager", "onnx"]}}}
    return open_space(from_mapping(mapping, names()), SHAPE, Context())


def test_each_number_of_blocks_is_a_deployment_of_int4() -> None:
    space = opened("causal-lm", precision=["fp32", "int8", "int4"], int8_blocks=[0, 3, 6])
    assert space.to_json()["deployments"] == [
        ["eager", "fp32"],
        ["onnx", "fp32", "kind static"],
        ["onnx", "int8", "kind static"],
        ["onnx", "int4", "kind static"],
        ["onnx", "int4", "int8_blocks 3", "kind static"],
        ["onnx", "int4", "int8_blocks 6", "kind static"],
    ]
    for one in space.deployments:
        settings = {**space.off, **one.settings}
        assert space.contains(settings) and Deployment.of(settings) == one
        assert Deployment.of(space.complete(settings)) == one
        bits = [step.settings.get("int8_blocks", 0) for step in space.steps(settings) if step.name == "bits"]
        assert bits == ([one.int8_blocks] if one.precision != "fp32" else [])
    drawn = {**space.off, "bits.precision": "int8", "bits.int8_blocks": 3, "runtime.name": "onnx"}
    assert Deployment.of(drawn).int8_blocks == 0 and space.canonical(drawn)["bits.int8_blocks"] == 0, "inactive"


def test_a_fixed_number_is_of_every_int4() -> None:
    space = opened("causal-lm", precision=["fp32", "int4"], int8_blocks=3)
    assert [one.int8_blocks for one in space.deployments if one.precision == "int4"] == [3]
    assert not [one for one in opened("causal-lm").deployments if one.int8_blocks], "only where it is named"


@pytest.mark.parametrize(
    ("task", "bits", "message"),
    [
        ("classification", {"int8_blocks": [0, 3]}, "must be left out unless the task is causal-lm, got the task"),
        ("causal-lm", {"int8_blocks": [0, 9]}, "must be between 0 and 6, got 9"),
        ("causal-lm", {"int8_blocks": 1.5}, "must be a whole number, got 1.5"),
        ("causal-lm", {"int8_blocks": -1}, "must be between 0 and 6, got -1"),
    ],
)
def test_numbers_that_cannot_be_searched_are_refused(task: str, bits: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=rf"space\.bits\.int8_blocks: {message}"):
        opened(task, **bits)


def test_siblings_have_the_blocks_of_their_deployment() -> None:
    bits = {"precision": "int4", "int8_blocks": 8, "head": "int8", "rounding": "gptq"}
    recipe = factory.recipe({"bits": bits}, "onnx")
    deployments = [
        Deployment("eager", "fp32"),
        Deployment("onnx", "int8"),
        *(Deployment("onnx", "int4", int8_blocks=number) for number in (0, 8, 16)),
    ]
    found = {Deployment.of(one.params): one.step("bits") for one in siblings(recipe, deployments)}
    assert set(found) == set(deployments) - {Deployment("onnx", "int4", int8_blocks=8)}, "its own is itself"
    others = {"precision": "int4", "head": "int8", "rounding": "gptq"}
    for number, settings in ((0, others), (16, {**others, "int8_blocks": 16})):
        step = found[Deployment("onnx", "int4", int8_blocks=number)]
        assert step is not None and step.settings == settings
    int8 = found[Deployment("onnx", "int8")]
    assert int8 is not None and int8.settings == {"precision": "int8", "head": "int8"}


def test_another_number_of_blocks_gives_other_outputs() -> None:
    few, many = (Deployment("onnx", "int4", int8_blocks=number) for number in (2, 4))
    assert few.gives_what(few) and not few.gives_what(many)


def test_weights_are_the_same_under_every_number_of_blocks() -> None:
    assert "bits.int8_blocks" in MIXED.searched and "bits.int8_blocks" not in weights_grid(MIXED).values
    digests = {recipe.weights_digest for recipe in baselines(MIXED)}
    assert len(digests) == 1


def test_predictions_are_of_the_deployments_that_are_measured() -> None:
    measured = {deployment_name(one.params) for one in baselines(MIXED)}
    int4 = {"onnx/int4 head int8", "onnx/int4 int8_blocks 2 head int8", "onnx/int4 int8_blocks 4 head int8"}
    assert measured == {"eager/fp32", "onnx/fp32"} | int4
    assert names_asked_for(MIXED, [{"distill.layers": 5}]) == measured
    drawn = {"distill.layers": 5, "bits.precision": "int4", "bits.int8_blocks": 2, "runtime.name": "onnx"}
    assert names_asked_for(MIXED, [drawn]) == measured
    assert deployment_name(recipe_in(MIXED, drawn).params) == "onnx/int4 int8_blocks 2"


def test_a_size_limit_counts_int8_blocks() -> None:
    for place, number in zip((2, 3, 4), NUMBERS, strict=True):
        size_mb = (0.5 + 0.5 * number / 6) * BLOCKS_MB + 5 * TABLE_MB
        for share, fits in ((1.01, True), (0.99, False)):
            model, _ = cost_model(MIXED, LimitsConfig(max_size_mb=share * size_mb / SLACK))
            costs, _ = model.costs([{"distill.layers": 6}])
            assert np.isfinite(costs[0, place]) == fits, number


def test_the_embedded_example_searches_some_numbers_of_blocks() -> None:
    config = load_config(None, ["task=causal-lm"], names())
    space = open_space(config, THIRTY, Context())
    numbers = space.knobs["bits.int8_blocks"].values()
    assert [one.int8_blocks for one in space.deployments if one.precision == "int4"] == numbers
    assert numbers[0] == 0 and 3 <= len(numbers) <= 5, "the uncompressed model is measured with each"
    assert len(space.deployments) <= config.budget.trials - 4
