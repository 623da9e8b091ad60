"""torch.compile: without a compiler, with a model that it does not take, and over many models of one class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import arrays_of, batch_of, logits, subject
from test_runtimes import CPU, FP32, SIZES, SLOW, needs
from torch import nn

from spaces import registry
from spaces.base import TaskModel
from spaces.errors import Infeasible
from spaces.runtimes import compiled


@pytest.mark.parametrize("runtime", ["compiled", "compiled-max-autotune", "aot_inductor"])
@pytest.mark.parametrize("named", [None, "no-such-compiler"])
def test_without_a_compiler_only_what_compiles_is_infeasible(
    runtime: str, named: str | None, monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    if named:
        monkeypatch.setenv("CXX", named)
    with pytest.raises(Infeasible, match=r"C\+\+ compiler"):
        registry.runtime_named(runtime).open(folder, FP32, CPU)
    assert registry.runtime_named("eager").missing(CPU) is None
    assert registry.runtime_named(runtime).install in str(registry.runtime_named(runtime).missing(CPU))


def test_a_model_that_does_not_compile_is_infeasible_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr(compiled, "cpp_compiler", lambda: "g++")
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: fail)
    with pytest.raises(Infeasible, match=r"torch\.compile failed: no kernel for this"):
        registry.runtime_named("compiled").open(folder, FP32, CPU)


class Small(TaskModel):
    """The least that can be compiled, of a size of its own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(61, size)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.table(input_ids).sum(1)  # type: ignore[no-any-return]


def test_no_model_falls_back_to_eager_however_many_were_compiled_before(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Dynamo counts graphs by the code of `forward`, which models of a class share, and gives up quietly."""
    runs: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            runs.append(1)
            return graph.forward(*args)

        return run

    real, models = torch.compile, iter(Small(size).eval() for size in range(2, 14))
    monkeypatch.setattr(compiled, "cpp_compiler", lambda: "g++")
    monkeypatch.setattr(compiled, "load_for", lambda *_: next(models))
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: real(model, dynamic=dynamic, backend=backend))
    for _ in range(12):
        predict = registry.runtime_named("compiled").open(folder, FP32, CPU)
        runs.clear()
        predict(arrays_of(subject().base, (3,)))
        assert runs == [1]


class Pooled(TaskModel):
    """One matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.classifier = nn.Embedding(61, 64), nn.Linear(64, 32)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.table(input_ids)).sum(1)  # type: ignore[no-any-return]


@needs(SLOW)
def test_max_autotune_times_the_forms_of_a_product_and_gives_the_same_logits(
    monkeypatch: pytest.MonkeyPatch, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without frozen weights Inductor has one form of a product on a CPU, and times nothing."""
    from torch._dynamo.utils import counters

    model = Pooled().eval()
    monkeypatch.setattr(compiled, "load_for", lambda *_: model)
    before, graphs = counters["inductor"]["select_algorithm_autotune"], counters["stats"]["unique_graphs"]
    with torch._inductor.config.patch(force_disable_caches=True):  # monkeypatch would delete what is an alias
        predict = registry.runtime_named(SLOW).open(folder, FP32, CPU)
    assert counters["inductor"]["select_algorithm_autotune"] > before
    assert not torch._inductor.config.freezing
    assert "autotune" not in capfd.readouterr().err.lower()
    for lengths in SIZES:
        output = predict(arrays_of(subject().base, lengths))["logits"]
        np.testing.assert_allclose(output, logits(model, batch_of(subject().base, lengths)), atol=1e-4)
    assert counters["stats"]["unique_graphs"] - graphs == 2


# --- precisions in torch ----------------------------------------------------------------------------------------
