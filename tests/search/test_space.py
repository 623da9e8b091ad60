"""The space a configuration opens on this machine."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from search.config.load import from_mapping, load_config
from search.errors import UserError
from search.space.choices import names
from search.space.deployments import Deployment
from search.space.space import Space, open_space
from spaces import registry
from spaces.axes.bits import OPT_IN_PRECISIONS
from spaces.generation.program import CacheSettings
from spaces.runtime import Context
from spaces.runtimes import float8
from spaces.shape import LayerShape, Shape

SHAPE = Shape(
    hidden=64, head_dim=16, group=1, layers=(LayerShape(4, 64),) * 2, prunable_heads=True, prunable_hidden=True
)


def opened(space: dict[str, object], device: str = "cpu", shape: Shape = SHAPE) -> Space:
    mapping = {**load_config(None, [], names()).to_mapping(), "space": space}
    return open_space(from_mapping(mapping, names()), shape, Context(device))


def test_a_runtime_that_takes_minutes_to_open_is_measured_only_where_it_is_named() -> None:
    assert registry.OPT_IN_RUNTIMES and set(registry.OPT_IN_RUNTIMES) <= {r.name for r in registry.runtimes()}
    for name in registry.OPT_IN_RUNTIMES:
        left_open = opened({})
        assert (
            name not in {deployment.runtime for deployment in left_open.deployments} and name not in left_open.missing
        )
        assert "eager" in left_open.knobs["runtime.name"].choices
        named = opened({"runtime": {"name": ["eager", name]}})
        assert name in {one.runtime for one in named.deployments} or name in named.missing


def test_knobs_that_are_closed_are_searched_only_where_they_are_named() -> None:
    opt_in = {f"{a.name}.{k.name}" for a in registry.axes() for k in a.knobs(SHAPE) if k.opt_in or k.method}
    assert {"prune.flops", "low_rank.embeddings", "bits.fp32_blocks"} <= opt_in
    assert not opt_in & set(opened({}).searched)
    assert "prune.flops" in opened({"prune": {"flops": [0.5, 1.0]}}).searched


def test_a_knob_that_a_known_family_does_not_take_is_said_at_the_start() -> None:
    assert not any("is not searched" in note for note in opened({}).notes)
    whole = opened({}, shape=replace(SHAPE, prunable_heads=False))
    assert [note for note in whole.notes if note.endswith("; prune.heads is not searched")] and len(whole.notes) == 1
    assert "prune.heads" not in whole.knobs and "prune.neurons" in whole.searched
    assert opened({"prune": "off"}, shape=replace(SHAPE, prunable_heads=False)).notes == ()
    assert opened({"prune": {"heads": "off"}}, shape=replace(SHAPE, prunable_heads=False)).notes == ()
    projected = opened({}, shape=replace(SHAPE, prunable_hidden=False))
    assert [note for note in projected.notes if note.endswith("; distill.width is not searched")]
    with pytest.raises(UserError, match=r"space.prune.heads: this model does not have this knob"):
        opened({"prune": {"heads": [0.5, 1.0]}}, shape=replace(SHAPE, prunable_heads=False))


def test_the_size_of_an_embedding_is_searched_where_there_is_one() -> None:
    with pytest.raises(UserError, match=r"space\.embedding\.size: must be left out: this model and task have nothing"):
        opened({"embedding": {"size": [32, 64]}})
    assert not [name for name in opened({}).knobs if name.startswith("embedding.")]
    assert opened({"embedding": "off"}).knobs == opened({}).knobs
    wide = replace(SHAPE, embedding=384)
    assert opened({}, shape=wide).knobs["embedding.size"].single == 384, "left alone unless it is named"
    assert opened({"embedding": {"size": [64, 384]}}, shape=wide).searched["embedding.size"].values()[0] == 64


def test_knobs_that_came_later_and_stay_off_are_not_in_the_description_of_a_space() -> None:
    assert not [name for name in opened({}).to_json()["knobs"] if name.startswith("sparse.")]


def test_a_pattern_without_kernels_is_left_out_before_anything_is_trained_for_it() -> None:
    space = opened({"sparse": {"weights": 0.5, "pattern": ["any", "2-of-4"]}})
    assert space.knobs["sparse.pattern"].single == "any"
    assert [note for note in space.notes if "sparse.pattern: only any: 2:4 sparsity needs" in note]
    with pytest.raises(UserError, match=r"sparse\.pattern: 2:4 sparsity needs .* CUDA device"):
        opened({"sparse": {"weights": 0.5, "pattern": "2-of-4"}})


def test_a_pattern_with_kernels_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    space = opened({"sparse": {"weights": 0.5, "pattern": ["any", "2-of-4"]}}, "cuda")
    assert space.knobs["sparse.pattern"].choices == ("any", "2-of-4")


def test_a_precision_that_came_later_is_searched_only_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(float8, "missing", lambda context: None)
    for opt_in in OPT_IN_PRECISIONS:
        for space in ({}, {"bits": {"embeddings": "as-is"}}):
            assert (
                opt_in not in opened({**space, "runtime": {"name": ["eager"]}}, "cuda").knobs["bits.precision"].choices
            )
        named = opened({"bits": {"precision": ["fp32", opt_in]}, "runtime": {"name": ["eager"]}}, "cuda")
        assert named.deployments == (Deployment("eager", "fp32"), Deployment("eager", opt_in))


def test_a_precision_that_is_named_and_has_no_kernel_here_is_noted() -> None:
    space = opened({"bits": {"precision": ["fp32", "fp8"]}})
    assert space.knobs["bits.precision"].choices == ("fp32",)
    assert [note for note in space.notes if "bits.precision: fp8 needs a CUDA device" in note]


def test_a_space_compresses_where_a_knob_of_the_weights_is_not_off() -> None:
    whole = {"distill": "off", "prune": "off", "low_rank": "off"}
    assert not opened(whole).compresses
    assert opened({**whole, "low_rank": {"rank": 0.5}}).compresses, "though nothing of the weights is searched"
    assert opened({**whole, "sparse": {"weights": [0.5, 1.0]}}).compresses


# --- caches of language models ---------------------------------------------------------------------------------


def generating(space: dict[str, object], device: str = "cpu", **others: dict[str, object]) -> Space:
    mapping = {**load_config(None, ["task=causal-lm"], names()).to_mapping(), "space": space}
    mapping |= {name: {**mapping[name], **value} for name, value in others.items()}
    return open_space(from_mapping(mapping, names()), SHAPE, Context(device))


def test_caches_without_a_loss_are_deployments_where_a_runtime_has_them() -> None:
    space = generating({"runtime": {"name": ["eager", "onnx"]}, "bits": {"precision": "fp32"}})
    kinds = [(one.runtime, one.cache.kind) for one in space.deployments]
    assert kinds == [("eager", "dynamic"), ("eager", "static"), ("onnx", "static")]
    assert space.knobs["cache.kind"].choices == ("dynamic", "static")
    assert space.to_json()["deployments"] == [
        ["eager", "fp32"],
        ["eager", "fp32", "kind static"],
        ["onnx", "fp32", "kind static"],
    ]
    drawn = space.complete({**space.off, "runtime.name": "onnx", "cache.kind": "dynamic"})
    assert drawn["cache.kind"] == "static", "a cache that the runtime has"


@pytest.mark.parametrize(("capability", "there"), [((7, 5), False), ((8, 0), True)])
def test_language_models_have_int4_on_a_gpu_that_multiplies_bf16(
    capability: tuple[int, int], there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    runtimes = {"runtime": {"name": ["eager", "cuda_graph"]}}
    named: dict[str, object] = {**runtimes, "bits": {"precision": ["fp32", "int4"]}}
    for space in (generating(named, "cuda"), generating({**runtimes, "bits": {"embeddings": "as-is"}}, "cuda")):
        offered = {one.runtime for one in space.deployments if one.precision == "int4"}
        assert offered == ({"eager", "cuda_graph"} if there else set())
    noted = [note for note in generating(named, "cuda").notes if "bits.precision: int4 under PyTorch needs" in note]
    assert len(noted) == (not there) and all("this GPU has 7.5" in note for note in noted)
    assert not [note for note in generating(named).notes if "int4" in note], "on a CPU ONNX Runtime has it"
    assert "int4" not in {one.precision for one in opened(named, "cuda").deployments}, "of an encoder"


def test_a_cache_with_a_loss_is_searched_only_where_it_is_named() -> None:
    eager = {"runtime": {"name": "eager"}, "bits": {"precision": "fp32"}}
    space = generating({**eager, "cache": {"kind": ["dynamic", "int8", "sliding"], "window": 256, "recent": [32, 64]}})
    caches = [one.cache for one in space.deployments]
    assert caches == [
        CacheSettings("dynamic"),
        CacheSettings("int8", recent=32),
        CacheSettings("int8", recent=64),
        CacheSettings("sliding", window=256),
    ]
    for one in space.deployments:
        assert space.contains({**space.off, **one.settings}) and Deployment.of(one.settings) == one
    off = generating({"runtime": {"name": ["eager", "onnx"]}, "bits": {"precision": "fp32"}, "cache": "off"})
    assert [(one.runtime, one.cache.kind) for one in off.deployments] == [("eager", "dynamic"), ("onnx", "static")]
    assert all(off.contains({**off.off, **one.settings}) for one in off.deployments)
    alone = generating({"runtime": {"name": "onnx"}, "bits": {"precision": "fp32"}, "cache": "off"})
    assert alone.knobs["cache.kind"].choices == ("static",)
    only = generating({"runtime": {"name": ["eager", "onnx"]}, "cache": {"kind": ["int8"]}})
    assert only.missing == {"onnx": "it has no int8 cache; it has static"}
    assert {one.cache.kind for one in only.deployments} == {"int8"}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"kind": "int9"}, r"space\.cache\.kind: .*int9.*int8"),
        ({"kind": "sliding"}, r"data\.max_length: must be at least 1031 tokens for the loss of the sliding cache with"),
        (
            {"kind": "int4", "recent": 600},
            r"max_length: must be at least 634 tokens .* cache\.recent 600 .*got 512",
        ),
        ({"kind": "int4", "recent": 2000}, r"space\.cache\.recent: must be between 0 and 1024, got 2000"),
        ({"speculation": "medusa"}, r"space\.cache\.speculation: .*medusa.*none, prompt_lookup"),
    ],
)
def test_caches_that_are_not_there_or_cannot_be_measured_are_refused(space: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        generating({"cache": space})


def test_prompt_lookup_is_searched_where_it_is_named_and_changes_no_output() -> None:
    named = {"runtime": {"name": ["eager", "onnx"]}, "bits": {"precision": ["fp32", "int8"]}}
    assert not [one for one in generating(named).deployments if one.cache.speculates]
    space = generating({**named, "cache": {"speculation": ["none", "prompt_lookup"]}})
    [speculative] = [one for one in space.deployments if one.cache.speculates]
    assert speculative.to_json() == ["onnx", "fp32", "kind static", "speculation prompt_lookup"]
    assert len(space.deployments) == len(generating(named).deployments) + 1
    settings = space.complete({**space.off, **speculative.settings})
    assert Deployment.of(settings) == speculative and space.contains(settings)
    [step] = space.steps(settings)
    assert (step.name, step.settings) == ("cache", {"kind": "static", "speculation": "prompt_lookup"})
    elsewhere = space.complete({**settings, "runtime.name": "eager"})
    assert Deployment.of(elsewhere) in space.deployments, "eager has none"
    lossy = {"kind": ["dynamic", "int8"], "speculation": ["none", "prompt_lookup"]}
    assert not [one for one in generating({**named, "cache": lossy}).deployments if one.cache.speculates]


def test_prompt_lookup_is_refused_where_it_cannot_run() -> None:
    with pytest.raises(UserError, match=r"workload\.batch: must be 1 for space\.cache\.speculation, .* got 4"):
        generating({"cache": {"speculation": ["none", "prompt_lookup"]}}, workload={"batch": 4})
    with pytest.raises(UserError, match=r"workload\.prompt: must be at most data\.max_length \(512\) .* got 600"):
        generating({"cache": {"speculation": "prompt_lookup"}}, workload={"batch": 1, "prompt": 600, "length": 600})
    wanted = {"others": {"decode_roofline_fraction": 0.1}}
    with pytest.raises(UserError, match=r"limits.*must be no roofline with space\.cache\.speculation, got decode_roof"):
        generating({"cache": {"speculation": ["none", "prompt_lookup"]}}, limits=wanted)
    with pytest.raises(UserError, match=r"space\.runtime: none of eager can run here \(.*prompt_lookup"):
        generating({"runtime": {"name": "eager"}, "cache": {"speculation": "prompt_lookup"}})


def test_a_task_that_generates_nothing_has_no_cache() -> None:
    with pytest.raises(UserError, match=r"space\.cache\.kind: must be left out: this model and task have nothing"):
        opened({"cache": {"kind": "static"}})
    assert not [name for name in opened({"cache": "off"}).knobs if name.startswith("cache.")]
    assert {one.cache for one in opened({}).deployments} == {CacheSettings()}
