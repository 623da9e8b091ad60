"""fp8: on which device it is offered, what is handed to the library, and the real products where there are some."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from models import arrays_of, subject
from torch import nn

from spaces import build, registry
from spaces.base import write_folder
from spaces.errors import Infeasible
from spaces.runtime import Context
from spaces.runtimes import float8

CPU, CUDA = Context(threads=1), Context("cuda", threads=1)
FP8 = {"precision": "fp8"}
WITH = ("eager", "compiled", "compiled-max-autotune")


class Library(ModuleType):
    """torchao.quantization, which notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__("torchao.quantization")
        self.asked: list[tuple[dict[str, Any], list[str]]] = []
        self.problem: Exception | None = None

    def PerRow(self) -> str:  # noqa: N802 - the library's names
        return "per row"

    def Float8DynamicActivationFloat8WeightConfig(self, **settings: Any) -> dict[str, Any]:  # noqa: N802
        return settings

    def quantize_(self, model: nn.Module, config: dict[str, Any], filter_fn: Callable[[nn.Module, str], bool]) -> None:
        if self.problem is not None:
            raise self.problem
        self.asked.append((config, [path for path, module in model.named_modules() if filter_fn(module, path)]))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    quantization, parent = Library(), ModuleType("torchao")
    parent.__spec__ = importlib.machinery.ModuleSpec("torchao", None)
    monkeypatch.setitem(sys.modules, "torchao", parent)
    monkeypatch.setitem(sys.modules, "torchao.quantization", quantization)
    return quantization


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))


@pytest.mark.usefixtures("library", "hopper")
def test_fp8_is_the_last_precision_of_those_that_run_it_and_of_no_other() -> None:
    offered = {runtime.name: runtime.precisions(CUDA) for runtime in registry.runtimes()}
    assert {name for name, precisions in offered.items() if "fp8" in precisions} == set(WITH)
    assert {offered[name] for name in WITH} == {("fp32", "bf16", "fp16", "fp8")}


@pytest.mark.usefixtures("hopper")
def test_without_the_library_the_other_precisions_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert registry.runtime_named("eager").precisions(CUDA) == ("fp32", "bf16", "fp16")
    assert "torchao not installed: pip install" in str(float8.missing(CUDA))


@pytest.mark.parametrize(("capability", "there"), [((8, 0), False), ((8, 6), False), ((8, 9), True), ((9, 0), True)])
@pytest.mark.usefixtures("library", "hopper")
def test_a_gpu_has_fp8_from_ada_on(capability: tuple[int, int], there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert (float8.missing(CUDA) is None) is there
    assert float8.precisions(CUDA) == (("fp8",) if there else ())
    if not there:
        assert f"this GPU has {capability[0]}.{capability[1]}" in str(float8.missing(CUDA))


@pytest.mark.parametrize("runtime", [r.name for r in registry.runtimes() if r.missing(CPU) is None])
def test_on_a_cpu_it_is_infeasible_everywhere(runtime: str, folder: Path) -> None:
    with pytest.raises(Infeasible, match="fp8"):
        build.open_predict(folder, runtime, FP8, CPU)


@pytest.mark.usefixtures("library", "hopper")
def test_a_runtime_that_does_not_offer_it_refuses_it(folder: Path) -> None:
    with pytest.raises(Infeasible, match="cuda_graph has no fp8 kernels on this cuda"):
        registry.runtime_named("cuda_graph").open(folder, FP8, CUDA)


def test_the_matrices_that_the_kernels_take_are_handed_over_with_a_scale_a_row(library: Library) -> None:
    model = nn.Sequential(nn.Linear(32, 48), nn.LayerNorm(48), nn.Linear(48, 40), nn.Linear(40, 3))
    float8.lower(model)
    assert library.asked == [({"granularity": "per row", "set_inductor_config": False}, ["0"])]


def test_a_model_without_such_matrices_is_infeasible(library: Library) -> None:
    with pytest.raises(Infeasible, match="no matrix has inputs and outputs in multiples of 16"):
        float8.lower(nn.Linear(32, 3))
    assert not library.asked


@pytest.mark.parametrize(
    "problem", [AssertionError("requires CUDA"), RuntimeError("no kernel"), TypeError("granularity")]
)
def test_a_library_that_cannot_do_it_is_infeasible(library: Library, problem: Exception) -> None:
    library.problem = problem
    with pytest.raises(Infeasible, match=rf"{type(problem).__name__}: {problem}.*pip install"):
        float8.lower(nn.Sequential(nn.Linear(32, 32)))


@pytest.mark.gpu
@pytest.mark.skipif(float8.missing(CUDA) is not None, reason=str(float8.missing(CUDA)))
@pytest.mark.parametrize("runtime", ["eager", "compiled"])
def test_fp8_gives_about_the_logits_of_fp32(runtime: str, tmp_path: Path) -> None:
    original = subject()
    write_folder(tmp_path, original.model, original.base, {})
    batch = arrays_of(original.base, (7, 4, 7, 2))
    exact = build.open_predict(tmp_path, "eager", {"precision": "fp32"}, CUDA)(batch)["logits"]
    output = build.open_predict(tmp_path, runtime, FP8, CUDA)(batch)["logits"]
    error = np.abs(output - exact).mean() / np.abs(exact).mean()
    assert 0 < error < 0.2
