"""The times of a generation's parts, predicted before a model is built, and searches that use them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from causal import stored

from objectives.passes import Passes
from search.config.schema import LimitsConfig
from search.front.outcome import LATENCY, Target
from search.prepare.prepared import Prepared
from search.propose import assembly
from search.propose.deployment_choice import DeploymentSelector
from search.propose.study import OUTCOME
from search.propose.surrogate import latency_predictor
from search.propose.surrogate.cost_model import TableCostModel
from search.propose.surrogate.step_reads import StepReads
from search.space.deployments import Deployment
from search.space.sizes import outline_of, shapes_of
from search.space.space import Params, Space
from spaces.cache_settings import CacheSettings
from spaces.runtime import Context
from spaces.shape import LayerShape, Shape
from tests import worlds
from tests.worlds import World, decoding

#: Of `causal.stored`: two heads of keys and values in the first block, one in the second.
TINY = Shape(
    hidden=32,
    head_dim=16,
    group=2,
    layers=(LayerShape(heads=2, neurons=48), LayerShape(heads=1, neurons=20)),
    prunable_heads=True,
    prunable_hidden=True,
)
#: Numbers in the matrices of its blocks (queries and outputs, keys and values, three of the feed-forward layer), and in
#: the head, which is the token table.
BLOCKS = 2 * 32 * (64 + 32) + 2 * 32 * (32 + 16) + 3 * 32 * (48 + 20)
HEAD = 97 * 32
#: Bytes of the keys and values of one token in fp32: of three heads of 16 numbers.
A_TOKEN = 4 * 2 * 3 * 16


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    ("settings", "matrices", "tokens"),
    [
        ({}, 4 * (BLOCKS + HEAD), 18),
        ({"bits.precision": "int8"}, BLOCKS + HEAD, 18),
        ({"bits.precision": "int8", "bits.fp32_blocks": 1}, 2.5 * BLOCKS + HEAD, 18),
        ({"bits.precision": "int4"}, 0.5 * (BLOCKS + HEAD), 18),
        ({"bits.precision": "int4", "bits.head": "int8"}, 0.5 * BLOCKS + HEAD, 18),
        ({"bits.precision": "int4", "bits.int8_blocks": 1, "bits.head": "int8"}, 0.75 * BLOCKS + HEAD, 18),
        ({"bits.precision": "int4", "bits.int8_blocks": 2}, BLOCKS + 0.5 * HEAD, 18),
        ({"bits.precision": "int8", "bits.int8_blocks": 1}, BLOCKS + HEAD, 18),  # inactive
        ({"cache.kind": "static"}, 4 * (BLOCKS + HEAD), 20),  # all that is allocated
        ({"cache.kind": "sliding", "cache.window": 8, "cache.sinks": 4}, 4 * (BLOCKS + HEAD), 12),
    ],
)
def test_a_step_reads_all_matrices_and_the_cache_at_its_mean_length(
    tiny: Path, settings: Params, matrices: float, tokens: int
) -> None:
    """Two prompts of 16 tokens are continued by 4 tokens: by steps that see 17, 18 and 19."""
    passes = Passes.of("tpot_ms", {"batch": 2, "length": 16, "new_tokens": 4})
    shapes = shapes_of(Space({}, TINY, ()), [{}], outline_of(tiny))
    read = StepReads(TINY, Context(cache_tokens=20)).added(shapes, settings, passes)
    assert read.step_bytes == pytest.approx([matrices])
    assert read.cache_bytes == pytest.approx([2 * tokens * A_TOKEN])


def test_numbers_of_16_bits_take_half_the_memory_in_the_cache_too(tiny: Path) -> None:
    passes = Passes.of("tpot_ms", {"batch": 1, "length": 16, "new_tokens": 4})
    shapes = shapes_of(Space({}, TINY, ()), [{}], outline_of(tiny))
    read = StepReads(TINY, Context()).added(shapes, {"bits.precision": "bf16"}, passes)
    assert read.step_bytes == pytest.approx([2 * (BLOCKS + HEAD)])
    assert read.cache_bytes == pytest.approx([18 * A_TOKEN / 2])


def test_the_first_token_reads_nothing_by_steps(tiny: Path) -> None:
    passes = Passes.of("ttft_ms", {"batch": 1, "length": 16, "new_tokens": 4})
    shapes = shapes_of(Space({}, TINY, ()), [{}], outline_of(tiny))
    assert StepReads(TINY, Context()).added(shapes, {}, passes) is shapes


@pytest.mark.parametrize(
    ("objectives", "time"),
    [
        (("perplexity", "tpot_ms"), "tpot_ms"),
        (("ttft_ms", "perplexity"), "ttft_ms"),
        (("perplexity", "generate_ms"), LATENCY),
        (("perplexity", LATENCY), LATENCY),
        (("perplexity", "tpot_ms", "ttft_ms"), None),
        (("perplexity", "tpot_ms/b8"), None),
        (("perplexity", "size_mb"), None),
        (("tpot_ms", "size_mb"), None),
    ],
)
def test_the_time_that_is_predicted_is_the_one_objective_beside_the_metric(
    objectives: tuple[str, ...], time: str | None
) -> None:
    searched = SimpleNamespace(targets=tuple(Target(name, "lower") for name in objectives), metric="perplexity")
    assert cast(Any, Prepared).time_objective.fget(searched) == time


@pytest.fixture(scope="module", params=["tpot_ms", "ttft_ms"])
def world(request: pytest.FixtureRequest) -> World:
    return decoding.decoding(request.param)


def cost_model_of(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch, limits: LimitsConfig | None = None
) -> TableCostModel:
    """As a search assembles it, without measured times."""
    memory = SimpleNamespace(bandwidth=lambda size: 15e9)
    monkeypatch.setattr(latency_predictor, "outline_of", lambda folder: decoding.OUTLINE)
    monkeypatch.setattr(latency_predictor, "ceilings", lambda device, threads: memory)
    prepared = SimpleNamespace(
        space=world.space,
        teacher=folder,
        context=decoding.CONTEXT,
        task=SimpleNamespace(generates=True),
        config=SimpleNamespace(mlruns=folder, limits=limits or LimitsConfig()),
        metric="accuracy",
        time_objective=world.time,
    )
    reference = SimpleNamespace(interval=(0.995, 1.005))
    times = SimpleNamespace(inputs=lambda mark: ([], decoding.CONDITIONS), reference=lambda mark: reference)
    measurer, selector = cast(Any, SimpleNamespace(times=times)), DeploymentSelector(world.space)
    model = assembly.cost_model_of(cast(Any, prepared), measurer, selector)
    assert model is not None, "nothing falls back to another sampler"
    return model


def searched(world: World, sampler: str, seed: int, weights: int, model: TableCostModel) -> worlds.Trace:
    return worlds.search(world, sampler, seed, weights, cost_model=model, observers=(model.observe,))


def settings_of(world: World) -> list[Params]:
    return [world.grid.settings(row) for row in world.rows]


def test_times_are_predicted_from_a_dozen_models(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = cost_model_of(world, tmp_path, monkeypatch)
    searched(world, "random", 0, 12, model)
    log_ms, _ = model.costs(settings_of(world))
    error = np.abs(log_ms - world.costs)
    assert np.median(error) < 0.05 and np.percentile(error, 95) < 0.15


def test_a_precision_that_nobody_has_measured_is_predicted_by_the_bytes_that_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = decoding.decoding("tpot_ms")
    model = cost_model_of(tokens, tmp_path, monkeypatch)

    def without_int4(outcome: Any, front: Any) -> None:
        if outcome.recipe.params.get("bits.precision") != "int4":
            model.observe(outcome, front)

    worlds.search(tokens, "random", 0, 10, cost_model=model, observers=(without_int4,))
    [log_ms], _ = model.costs([tokens.space.off])
    fp32, _, _, int4 = np.exp(log_ms)
    assert int4 < 0.6 * fp32


def test_a_limit_of_another_time_excludes_what_is_over_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "ttft_ms" if world.time == "tpot_ms" else "tpot_ms"
    ms = np.exp(world.other_times[other])
    limit = float(np.percentile(ms, 40))
    model = cost_model_of(world, tmp_path, monkeypatch, LimitsConfig(**cast(Any, {f"max_{other}": limit})))
    free = cost_model_of(world, tmp_path / "free", monkeypatch)
    for each in (model, free):
        searched(world, "random", 0, 12, each)
    allowed = np.isfinite(model.costs(settings_of(world))[0])
    assert not allowed[ms > 1.3 * limit].any() and allowed[ms < 0.9 * limit].all()
    assert np.isfinite(free.costs(settings_of(world))[0]).all()


def test_a_limit_of_later_tokens_excludes_no_deployment_that_proposes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many of them are right depends on what the model has learnt."""
    tokens = decoding.decoding("tpot_ms")
    caches = CacheSettings("static"), CacheSettings("static", speculation="prompt_lookup")
    space = replace(tokens.space, deployments=tuple(Deployment("onnx", "fp32", cache) for cache in caches))
    searched_world = cast(Any, SimpleNamespace(space=space, time=tokens.time))
    for limit, finite in (("max_tpot_ms", [False, True]), ("max_ttft_ms", [False, False])):
        limits = LimitsConfig(**cast(Any, {limit: 1e-6}))
        model = cost_model_of(searched_world, tmp_path / limit, monkeypatch, limits)
        [costs], _ = model.costs([space.off])
        assert np.isfinite(costs).tolist() == finite


def test_proposals_keep_the_limit_of_the_time_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three quarters of all weights are over it under every deployment, the most accurate ones among them."""
    tokens = decoding.decoding(LATENCY)
    fastest = np.exp(tokens.other_times["tpot_ms"]).min(axis=1)
    limit = float(np.percentile(fastest, 25))
    model = cost_model_of(tokens, tmp_path, monkeypatch, LimitsConfig(max_tpot_ms=limit))
    trace = searched(tokens, "known-latency", 0, 11, model)
    proposed = [t for t in cast(Any, trace.study).trials if OUTCOME in t.user_attrs and t.params]
    rows = list(dict.fromkeys(tokens.row_number(t.params) for t in proposed))
    assert (fastest[rows[-4:]] < 1.15 * limit).all()


def test_the_sampler_beats_chance_with_the_time_of_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean regret at 14 sets of weights. The sampler compares the whole grid, so its seed changes nothing."""
    world = decoding.decoding("tpot_ms")
    regrets: dict[str, list[float]] = {"known-latency": [], "random": []}
    for sampler, seed in (("known-latency", 0), ("random", 0), ("random", 1)):
        model = cost_model_of(world, tmp_path / f"{sampler} {seed}", monkeypatch)
        trace = searched(world, sampler, seed, 14, model)
        regrets[sampler].append(1 - trace.hypervolume[-1] / world.exhaustive)
    assert np.mean(regrets["known-latency"]) < 0.6 * np.mean(regrets["random"])
