"""2:4 matrices: who may run them, with a device that is made up, and the real kernels where there are some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import arrays_of, built, subject
from torch import Tensor, nn

from spaces import build, registry, two_of_four
from spaces.base import write_folder
from spaces.errors import Infeasible
from spaces.recipe import Step
from spaces.runtime import Context
from spaces.runtimes.torch_predict import TORCH_DTYPES
from spaces.sparse_storage import TwoOfFour, best_of_four, sparse_modules

CUDA = Context("cuda", threads=1)
STEP = Step("sparse", {"weights": 0.5, "pattern": "2-of-4"})
PLANS = {"sparse": {"weights": 0.5, "pattern": "2-of-4"}}


@pytest.fixture
def ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))


def tiny_model(folder: Path) -> Path:
    original = subject()
    model, plans = built(original, STEP)
    write_folder(folder, model, original.base, plans)
    return folder


@pytest.mark.parametrize("runtime", [r.name for r in registry.runtimes()])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_no_runtime_on_a_cpu_runs_them(runtime: str, precision: str, tmp_path: Path) -> None:
    with pytest.raises(Infeasible, match=r"2:4 sparsity needs .* CUDA device, and this is a cpu"):
        build.open_predict(tiny_model(tmp_path), runtime, {"precision": precision}, Context(threads=1))


def test_a_gpu_without_sparse_tensor_cores_does_not_run_them(monkeypatch: pytest.MonkeyPatch, ampere: None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(Infeasible, match=r"compute capability 8\.0 .* this GPU has 7\.5"):
        two_of_four.check_kernels(PLANS, "eager", "fp16", CUDA)


@pytest.mark.usefixtures("ampere")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "int4"])
@pytest.mark.parametrize("runtime", [r.name for r in registry.runtimes()])
def test_of_all_runtimes_and_precisions_those_with_kernels_run_them(runtime: str, precision: str) -> None:
    two_of_four.check_kernels({"sparse": {"weights": 0.5}}, runtime, precision, CUDA)  # size only: any may
    if runtime in ("eager", "compiled") and precision in ("fp16", "bf16"):
        two_of_four.check_kernels(PLANS, runtime, precision, CUDA)
        return
    with pytest.raises(Infeasible, match=rf"sparse\.pattern: .*({runtime}|{precision})"):
        two_of_four.check_kernels(PLANS, runtime, precision, CUDA)


def test_every_two_of_four_matrix_is_handed_to_the_kernel_and_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    original = subject()
    model, _ = built(original, STEP)
    wanted = {path: module.weight.detach() for path, module in sparse_modules(model).items()}
    handed: list[Tensor] = []
    tried: list[tuple[int, ...]] = []

    def kernel(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        tried.append(tuple(x.shape))
        return x @ weight.T + (0 if bias is None else bias)

    def compress(weight: Tensor) -> Tensor:
        handed.append(weight)
        return weight.clone()

    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", compress)
    monkeypatch.setattr(two_of_four.functional, "linear", kernel)
    two_of_four.lower(model)
    assert not sparse_modules(model)
    assert all(torch.equal(weight, wanted[path]) for weight, path in zip(handed, wanted, strict=True))
    assert tried == [(1, weight.shape[1]) for weight in wanted.values()]
    for path in wanted:
        linear = model.get_submodule(path)
        assert isinstance(linear, nn.Linear) and not linear.weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_torchs_own_packing_takes_the_pattern_and_gives_it_back(dtype: torch.dtype) -> None:
    from torch.sparse import _semi_structured_conversions as conversions

    model, _ = built(subject(), STEP)
    for module in sparse_modules(model.to(dtype)).values():
        weight = module.weight.detach()
        values, meta = conversions.sparse_semi_structured_from_dense_cutlass(weight)
        assert values.shape == (weight.shape[0], weight.shape[1] // 2)
        assert torch.equal(conversions.sparse_semi_structured_to_dense_cutlass(values, meta), weight)


def test_a_kernel_that_is_not_there_after_all_is_infeasible_and_says_for_what() -> None:
    model = nn.Sequential(TwoOfFour(64, 32, bias=False).half())
    with pytest.raises(Infeasible, match=r"sparse\.pattern: no 2:4 kernel for 0 here: .*cpu"):
        two_of_four.lower(model)


class OnCpu(torch.sparse.SparseSemiStructuredTensor):
    """torch's semi-structured tensor, with the operations it has on a GPU and no other; its product is a plain one."""

    @classmethod
    def from_dense(cls, dense: Tensor) -> Any:
        return cls(dense.shape, dense, None, None, None, None)

    def _mm(self, other: Tensor, *, bias: Tensor | None = None, should_transpose_dense: bool = False) -> Tensor:
        assert self.packed is not None
        rows = other if should_transpose_dense else other.t()
        product = nn.functional.linear(rows, self.packed, bias)
        return product if should_transpose_dense else product.t()


@pytest.mark.parametrize("bias", [True, False])
def test_a_matrix_is_lowered_with_the_operations_that_torch_has_for_it(
    bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = TwoOfFour(64, 32, bias)
    weight = torch.randn(32, 64)
    module.take(weight, best_of_four(weight.abs()))
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", OnCpu.from_dense)
    model = nn.Sequential(module)
    two_of_four.lower(model)
    rows = torch.randn(2, 3, 64)
    assert isinstance(model[0].weight, OnCpu)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            torch.testing.assert_close(model(rows), module.dense()(rows))


@pytest.mark.gpu
@pytest.mark.skipif(two_of_four.missing(CUDA) is not None, reason=str(two_of_four.missing(CUDA)))
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("runtime", ["eager", "compiled"])
def test_the_kernels_give_the_logits_of_the_matrices_with_their_zeros(
    runtime: str, precision: str, tmp_path: Path
) -> None:
    base, folder = subject().base, tiny_model(tmp_path)
    predict = build.open_predict(folder, runtime, {"precision": precision}, CUDA)
    reference = build.load_model(folder).to("cuda", TORCH_DTYPES[precision])
    for seed, lengths in enumerate(((7, 4, 7, 2), (9,), (33, 17))):
        batch: dict[str, Any] = arrays_of(base, lengths, seed)
        with torch.inference_mode():
            expected = reference(**{name: torch.from_numpy(array).cuda() for name, array in batch.items()})
        # Sums in another order: a few units in the last place of logits of about 1.
        allowed = {"fp16": 0.02, "bf16": 0.1}[precision]
        np.testing.assert_allclose(predict(batch)["logits"], expected.float().cpu().numpy(), atol=allowed)
