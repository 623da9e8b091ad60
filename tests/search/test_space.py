"""The space a configuration opens on this machine."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from search.config.load import from_mapping, load
from search.errors import UserError
from search.space.choices import names
from search.space.space import Space, open_space
from spaces import registry
from spaces.axes.bits import OPT_IN_PRECISIONS
from spaces.runtime import Context
from spaces.runtimes import float8
from spaces.shape import LayerShape, Shape

SHAPE = Shape(
    hidden=64, head_dim=16, group=1, layers=(LayerShape(4, 64),) * 2, prunable_heads=True, prunable_hidden=True
)


def opened(space: dict[str, object], device: str = "cpu", shape: Shape = SHAPE) -> Space:
    mapping = {**load(None, [], names()).to_mapping(), "space": space}
    return open_space(from_mapping(mapping, names()), shape, Context(device))


def test_a_runtime_that_takes_minutes_to_open_is_measured_only_where_it_is_named() -> None:
    assert registry.OPT_IN_RUNTIMES and set(registry.OPT_IN_RUNTIMES) <= {r.name for r in registry.runtimes()}
    for name in registry.OPT_IN_RUNTIMES:
        left_open = opened({})
        assert name not in {runtime for runtime, _ in left_open.deployments} and name not in left_open.missing
        assert "eager" in left_open.knobs["runtime.name"].choices
        named = opened({"runtime": {"name": ["eager", name]}})
        assert name in {runtime for runtime, _ in named.deployments} or name in named.missing


def test_knobs_that_are_closed_are_searched_only_where_they_are_named() -> None:
    opt_in = {f"{a.name}.{k.name}" for a in registry.axes() for k in a.knobs(SHAPE) if k.opt_in or k.method}
    assert {"prune.flops", "low_rank.embeddings", "bits.fp32_blocks"} <= opt_in
    assert not opt_in & set(opened({}).searched)
    assert "prune.flops" in opened({"prune": {"flops": [0.5, 1.0]}}).searched


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
        assert named.deployments == (("eager", "fp32"), ("eager", opt_in))


def test_a_precision_that_is_named_and_has_no_kernel_here_is_noted() -> None:
    space = opened({"bits": {"precision": ["fp32", "fp8"]}})
    assert space.knobs["bits.precision"].choices == ("fp32",)
    assert [note for note in space.notes if "bits.precision: fp8 needs a CUDA device" in note]


def test_a_space_compresses_where_a_knob_of_the_weights_is_not_off() -> None:
    whole = {"distill": "off", "prune": "off", "low_rank": "off"}
    assert not opened(whole).compresses
    assert opened({**whole, "low_rank": {"rank": 0.5}}).compresses, "though nothing of the weights is searched"
    assert opened({**whole, "sparse": {"weights": [0.5, 1.0]}}).compresses
