"""Settings of a precision that a space fixes: every deployment that needs them has them, and is looked up by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import optuna
import pytest

from objectives.passes import Passes
from objectives.shapes import Shapes
from search.config.schema import LimitsConfig
from search.front.outcome import LATENCY, Outcome, Target
from search.propose.deployment_choice import DeploymentSelector
from search.propose.proposer import Proposer
from search.propose.surrogate.cost_model import SLACK, TableCostModel
from search.propose.surrogate.latency_predictor import deployment_name
from search.space.deployments import Deployment
from search.space.sizes import Outline, shapes_of
from search.space.space import Params, Space
from spaces.axes.bits import Bits
from spaces.knob import Knob
from spaces.recipe import Recipe, Step
from spaces.shape import LayerShape, Shape

SHAPE = Shape(
    hidden=64, head_dim=16, group=1, layers=(LayerShape(4, 64),) * 6, prunable_heads=True, prunable_hidden=True
)
BITS = {knob.name: knob for knob in Bits().knobs(SHAPE)}
OUTLINE = Outline(tables=((1000, 64),), row_matrices=((64, 1000),), tied=True)
DEPLOYMENTS = tuple(Deployment(*pair) for pair in (("eager", "fp32"), ("onnx", "fp32"), ("onnx", "int4")))
TARGETS = (Target("perplexity", "lower"), Target(LATENCY, "lower"))
NO_LIMITS = LimitsConfig()


def space(**bits: Knob) -> Space:
    """A space of depths and of three deployments, with these finer settings of int4."""
    knobs = {
        "distill.layers": Knob("layers", off=6, low=5, high=6, step=1, help=""),
        "bits.precision": replace(BITS["precision"], choices=("fp32", "int4")),
        "runtime.name": Knob("name", off="eager", choices=("eager", "onnx"), help=""),
    }
    return Space({**knobs, **{f"bits.{name}": knob for name, knob in bits.items()}}, SHAPE, DEPLOYMENTS)


FIXED = space(head=BITS["head"].fixed("int8"), rounding=BITS["rounding"].fixed("gptq"))
BLOCKS = space(fp32_blocks=BITS["fp32_blocks"].fixed(2))
SEARCHED = space(head=replace(BITS["head"], choices=("body", "int8")))


def recipe_in(searched: Space, params: Params) -> Recipe:
    return Recipe("m", "causal-lm", "t", searched.steps(params), {}, Step(str(params["runtime.name"])))


def proposer(searched: Space) -> Proposer:
    study = optuna.create_study(directions=["minimize", "minimize"])
    recipe = partial(recipe_in, searched)
    return Proposer(study, searched, TARGETS, 9, recipe, DeploymentSelector(searched), lambda outcome: {}, 0)


def baselines(searched: Space) -> list[Recipe]:
    job = next(iter(proposer(searched)))
    assert job.baseline
    return [job.recipe, *job.siblings]


def cost_model(searched: Space, limits: LimitsConfig = NO_LIMITS) -> tuple[TableCostModel, set[str]]:
    """A cost model of a model with a tied token table, and the deployments whose times it has asked the table for."""
    asked: set[str] = set()

    class Predictor:
        passes = Passes(1, 8.0)

        def shapes(self, pool: Sequence[Params]) -> Shapes:
            return shapes_of(searched, pool, OUTLINE)

        def predict(self, pool: Sequence[Params], shapes: Shapes) -> tuple[np.ndarray, np.ndarray]:
            asked.update(map(deployment_name, pool))
            return np.zeros(len(shapes)), np.zeros(len(shapes))

    task = SimpleNamespace(generates=True)
    prepared = SimpleNamespace(space=searched, task=task, config=SimpleNamespace(limits=limits))
    return TableCostModel(cast(Any, prepared), cast(Any, Predictor()), DeploymentSelector(searched)), asked


def names_asked_for(searched: Space, pool: Sequence[Params]) -> set[str]:
    model, asked = cost_model(searched)
    model.costs(pool)
    return asked


def test_the_uncompressed_model_has_what_the_space_fixes_of_its_precision() -> None:
    eager, graph, int4 = baselines(FIXED)
    assert eager.params == {"runtime.name": "eager"} and graph.params == {"runtime.name": "onnx"}
    assert eager.exact and graph.exact and not int4.exact
    assert int4.step("bits") == Step("bits", {"precision": "int4", "head": "int8", "rounding": "gptq"})
    of_blocks = baselines(BLOCKS)[-1].step("bits")
    assert of_blocks == Step("bits", {"precision": "int4", "fp32_blocks": 2})


def test_a_study_whose_baselines_had_it_not_measures_the_one_that_is_missing() -> None:
    ours, recipes = proposer(FIXED), baselines(FIXED)
    plain = replace(recipes[-1], steps=(Step("bits", {"precision": "int4"}),))
    for recipe in (*recipes[:-1], plain):
        ours.tell(Outcome(-1, recipe, "infeasible", "planted", baseline=True))
    job = next(iter(ours))
    assert job.baseline and (job.recipe, *job.siblings) == (recipes[-1],)


@pytest.mark.parametrize("searched", [FIXED, BLOCKS], ids=["head", "blocks"])
def test_the_same_deployments_are_measured_of_every_set_of_weights(searched: Space) -> None:
    cut = recipe_in(searched, {"distill.layers": 5, "runtime.name": "eager"})
    others = [cut, *DeploymentSelector(searched)(cut)]
    assert [one.step("bits") for one in others] == [one.step("bits") for one in baselines(searched)]


@pytest.mark.parametrize("searched", [FIXED, BLOCKS], ids=["head", "blocks"])
def test_predictions_are_of_the_deployments_that_are_measured(searched: Space) -> None:
    measured = {deployment_name(one.params) for one in baselines(searched)}
    assert names_asked_for(searched, [{"distill.layers": 5}]) == measured
    as_recorded = {**searched.off, "distill.layers": 5}
    assert names_asked_for(searched, [as_recorded]) == measured


def test_a_searched_head_is_of_the_precisions_that_have_one() -> None:
    cut = {"distill.layers": 5, "bits.head": "int8"}
    recipe = recipe_in(SEARCHED, {**cut, "bits.precision": "int4", "runtime.name": "onnx"})
    measured = {deployment_name(one.params) for one in (recipe, *DeploymentSelector(SEARCHED)(recipe))}
    assert measured == {"eager/fp32", "onnx/fp32", "onnx/int4 head int8"}
    assert names_asked_for(SEARCHED, [cut]) == measured


#: MB of 6 blocks of 24,576 weights, and of a table of 64,000 numbers, in one byte each.
BLOCKS_MB, TABLE_MB = 6 * 24576 / 1e6, 64000 / 1e6


@pytest.mark.parametrize(
    ("bits", "chosen", "int4_mb"),
    [
        ({}, {}, 0.5 * BLOCKS_MB + 4.5 * TABLE_MB),
        ({"embeddings": BITS["embeddings"]}, {"bits.embeddings": "int8"}, 0.5 * BLOCKS_MB + 1.5 * TABLE_MB),
        ({"embeddings": BITS["embeddings"].fixed("int8")}, {}, 0.5 * BLOCKS_MB + 1.5 * TABLE_MB),
        ({"head": BITS["head"].fixed("int8")}, {}, 0.5 * BLOCKS_MB + 5 * TABLE_MB),
        ({"head": BITS["head"].fixed("fp32")}, {}, 0.5 * BLOCKS_MB + 4 * TABLE_MB),  # it is the table itself
        ({"fp32_blocks": BITS["fp32_blocks"]}, {"bits.fp32_blocks": 3}, 2.25 * BLOCKS_MB + 4.5 * TABLE_MB),
    ],
    ids=["as-is", "embeddings", "fixed embeddings", "head", "fp32 head", "blocks"],
)
def test_a_size_limit_counts_each_part_in_its_own_precision(
    bits: dict[str, Knob], chosen: Params, int4_mb: float
) -> None:
    searched, fp32_mb = space(**bits), 4 * (BLOCKS_MB + TABLE_MB)
    # With a table of integers the head is no longer the table.
    graph_mb = 4 * BLOCKS_MB + 5 * TABLE_MB if "embeddings" in bits else fp32_mb
    for place, size_mb in enumerate((fp32_mb, graph_mb, int4_mb)):
        for share, fits in ((1.01, True), (0.99, False)):
            model, _ = cost_model(searched, LimitsConfig(max_size_mb=share * size_mb / SLACK))
            costs, _ = model.costs([{"distill.layers": 6, **chosen}])
            assert np.isfinite(costs[0, place]) == fits, (DEPLOYMENTS[place], size_mb)
