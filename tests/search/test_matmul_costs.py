"""Costs of products in a search: measured where they are asked for, kept, and carried by its recipes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import command
import numpy as np
import pytest

from search.config.schema import WorkloadConfig
from search.front.formatting import describe
from search.prepare import matmul_costs, runner
from search.prepare.prepared import Prepared
from search.space.configured import configured
from spaces import build
from spaces.matmul_cost_model import Costs
from spaces.recipe import Recipe, canonical
from spaces.shape import LayerShape, Shape
from spaces.statistics import Statistics

MINILM = Shape(384, 32, 1, (LayerShape(12, 1536),) * 6, prunable_heads=True, prunable_hidden=True)
OFF = {"distill": "off", "prune": "off", "bits": {"precision": "fp32"}, "runtime": {"name": ["eager"]}}


def prepare_with(folder: Path, model: Path, data: Path, low_rank: Mapping[str, Any], **changes: Any) -> Prepared:
    plain = {"model": {"name": str(model)}, "teacher": {"epochs": 0.1}, "recover": {"epochs": 0}}
    path = command.write_config(data / "products.yaml", **plain, space={**OFF, "low_rank": low_rank}, **changes)
    config = configured(path, 1, None, "products", folder / "mlruns", [])
    Path(config.mlruns).mkdir(parents=True, exist_ok=True)
    return runner.prepare(config, lambda stage, done: None)


@pytest.fixture(scope="module")
def without_costs(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, tiny_data: Path) -> Prepared:
    """A search whose configuration does not name the knob."""
    return prepare_with(tmp_path_factory.mktemp("without_costs"), tiny_bert, tiny_data, {})


def measured(prepared: Prepared) -> list[Path]:
    return list(prepared.store.root.glob(f"products/*/{matmul_costs.MATMUL_COSTS_FILE}"))


def test_nothing_is_measured_where_the_knob_is_not_opened(without_costs: Prepared) -> None:
    assert without_costs.costs is None and not measured(without_costs)
    assert "low_rank.where" not in without_costs.space.to_json()["knobs"]
    step = without_costs.recipe({"low_rank.rank": 0.5}).step("low_rank")
    assert step is not None and step.settings == {"rank": 0.5}


def test_a_search_measures_once_and_its_recipes_hold_what_was_measured(
    tmp_path: Path, tiny_bert: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul_costs, "MATMUL_SECONDS", 0.3)
    opened = {"where": ["smaller", "faster"]}
    prepared = prepare_with(tmp_path, tiny_bert, tiny_data, opened)
    assert prepared.costs is not None and Costs.parse(prepared.costs).text() == prepared.costs
    (file,) = measured(prepared)
    written = file.stat().st_mtime_ns
    again = prepare_with(tmp_path, tiny_bert, tiny_data, opened)
    assert again.costs == prepared.costs and [p.stat().st_mtime_ns for p in measured(again)] == [written]
    params = {"low_rank.rank": 0.5, "low_rank.where": "faster"}
    recipe, plain = prepared.recipe(params), prepared.recipe({**params, "low_rank.where": "smaller"})
    assert recipe.params["low_rank.costs"] == prepared.costs
    assert "low_rank.costs" not in plain.params and plain.digest != recipe.digest
    assert not prepared.recipe({**params, "low_rank.rank": 1.0}).steps, "it alone switches nothing on"
    assert "where faster" in describe(recipe) and "costs" not in describe(recipe)
    # Elsewhere the plan is made from the recipe alone.
    statistics = Statistics.load(prepared.statistics / "statistics.safetensors")
    carried = Recipe.from_json(json.loads(canonical(recipe.to_json())))
    here, there = (build.decide(one.steps, statistics)["low_rank"]["ranks"] for one in (recipe, carried))
    assert here == there
    assert here.items() <= build.decide(plain.steps, statistics)["low_rank"]["ranks"].items()


def test_a_search_over_the_knob_runs_to_its_end(tmp_path: Path, tiny_bert: Path, tiny_data: Path) -> None:
    space = {**OFF, "low_rank": {"rank": [0.3, 0.5], "where": "faster"}}
    plain = {"model": {"name": str(tiny_bert)}, "teacher": {"epochs": 4}, "recover": {"epochs": 0}}
    path = command.write_config(tiny_data / "faster.yaml", **plain, space=space)
    command.search("run", path, "--trials", "3", "--study", "faster", cwd=tmp_path).succeeded()
    from search.propose.study import read_outcomes

    outcomes = read_outcomes(tmp_path / "mlruns", "faster")[1]
    cut = [o.recipe.params for o in outcomes if o.recipe.compressed]
    assert cut and all(params["low_rank.where"] == "faster" and "low_rank.costs" in params for params in cut)
    assert {o.status for o in outcomes} == {"complete"}, [(o.status, o.reason) for o in outcomes]


def test_the_fit_of_measured_times_says_which_factors_pay(tmp_path: Path) -> None:
    """Of a block of 384 by 1536 and 256 tokens, a tenth of the weights is faster and nine tenths are hardly."""
    sizes = matmul_costs.matrix_sizes(MINILM)
    matmul_costs.make_products(tmp_path, sizes, 256, "cpu", 1, 1.0, lambda stage, done: None)
    about = json.loads((tmp_path / matmul_costs.MATMUL_COSTS_FILE).read_text())
    off = [abs(np.log(one["fitted_us"] / one["us"])) for one in about["measured"]]
    assert [(one["in"], one["out"]) for one in about["measured"]] == sizes
    assert np.median(off) < 0.4, about
    assert Costs.parse(about["costs"]).factors_are_faster((1536, 384), 30), about


def test_the_sizes_are_those_of_the_blocks_and_of_their_factors() -> None:
    sizes = matmul_costs.matrix_sizes(MINILM)
    assert sizes[:3] == [(384, 384), (384, 1536), (1536, 384)]
    assert len(set(sizes)) == len(sizes) and all(min(size) <= 384 for size in sizes)
    thin = [size for size in sizes[3:] if min(size) < 0.8 * 384 * 1536 / (384 + 1536)]
    assert len(thin) == len(sizes) - 3 and min(min(size) for size in thin) <= 19


def test_the_tokens_are_those_of_a_call(without_costs: Prepared) -> None:
    lengths = without_costs.split("validation").encoded.lengths
    for batch, length, tokens in ((1, 16, 16), (4, 32, 128), (2, "data", 2 * round(float(np.median(lengths))))):
        config = replace(without_costs.config, workload=WorkloadConfig(batch=batch, length=length))
        assert matmul_costs.tokens_per_call(config, without_costs.data) == tokens
