"""XLA through JAX: every operator as PyTorch computes it, whole models as eager PyTorch runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import VOCABULARY, arrays_of, stored, subject, tiny
from torch import Tensor

from spaces import build, registry
from spaces.base import TaskModel, write_folder
from spaces.errors import Infeasible
from spaces.runtime import Context
from spaces.runtimes import xla
from spaces.runtimes.torch_export import export_graph

CPU = Context(threads=1)
FP32 = {"precision": "fp32"}
WHY = registry.runtime_named("xla").missing(CPU)
pytestmark = pytest.mark.skipif(WHY is not None, reason=str(WHY))

aten = torch.ops.aten
X = torch.linspace(-2, 2, 24).reshape(2, 3, 4)
Y = torch.linspace(1, 3, 4)
INTS = torch.tensor([[3, 0, 2], [1, 1, 0]])
BOOLS = torch.tensor([[True, False, True], [False, False, False]])
INF = float("inf")

#: Calls of every operator of the table, among them what is easily got wrong: negative dimensions, ends beyond the
#: end, kept dimensions, an index shorter than what it reads from.
CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (aten.sym_size.int, (X, -1), {}),
    (aten.view, (X, [4, -1]), {}),
    (aten.permute, (X, [-1, 0, 1]), {}),
    (aten.expand, (Y, [2, -1]), {}),
    (aten.expand, (X[:, :1], [5, 2, 3, 4]), {}),
    (aten.unsqueeze, (X, -1), {}),
    (aten.squeeze, (X[:, :1], [0, 1]), {}),
    (aten.slice, (X, -1, 1, 9223372036854775807), {}),
    (aten.slice, (X, 1, -2, None, 2), {}),
    (aten.select, (X, -2, -1), {}),
    (aten.split_with_sizes, (X, [1, 3], -1), {}),
    (aten.cat, ([X, X[:, :1]], 1), {}),
    (aten.repeat, (Y, [2, 3]), {}),
    (aten.index, (X, [None, INTS % 3]), {}),
    (aten.index, (X, [torch.tensor([0, 1]), torch.tensor([2, 0])]), {}),
    (aten.index_select, (X, 1, torch.tensor([2, 2, 0])), {}),
    (aten.gather, (X, -2, torch.tensor([[[2, 0]], [[1, 1]]])), {}),
    (aten.embedding, (X[0], INTS % 3), {}),
    (aten.embedding, (X[0], INTS % 3, 1), {}),
    (aten.clone, (X,), {"memory_format": torch.contiguous_format}),
    (aten.alias, (X,), {}),
    (aten.lift_fresh_copy, (X,), {}),
    (aten._to_copy, (X,), {"dtype": torch.int64}),
    (aten._to_copy, (BOOLS,), {"dtype": torch.float32, "device": torch.device("cpu")}),
    (aten.full, ([2, 3], -INF), {"dtype": torch.float32, "pin_memory": False}),
    (aten.full_like, (INTS, 7), {}),
    (aten.full_like, (INTS, 0.5), {"dtype": torch.float32}),
    (aten.arange, (2, 9, 3), {"dtype": torch.int64}),
    (aten.scalar_tensor, (0.5,), {"dtype": torch.float32}),
    (aten.add, (X, Y), {"alpha": 2}),
    (aten.add, (INTS, 1), {}),
    (aten.sub, (X, Y), {"alpha": 0.5}),
    (aten.mul, (X, 3), {}),
    (aten.mul, (INTS, BOOLS), {}),
    (aten.div, (INTS, 2), {}),
    (aten.div, (INTS - 2, 2), {"rounding_mode": "floor"}),
    (aten.div, (INTS - 2, 2), {"rounding_mode": "trunc"}),
    (aten.neg, (X,), {}),
    (aten.abs, (X,), {}),
    (aten.pow, (X, 2), {}),
    (aten.pow, (Y, 0.5), {}),
    (aten.sqrt, (Y,), {}),
    (aten.rsqrt, (Y,), {}),
    (aten.reciprocal, (Y,), {}),
    (aten.exp, (X,), {}),
    (aten.log, (Y,), {}),
    (aten.sin, (X,), {}),
    (aten.cos, (X,), {}),
    (aten.tanh, (X,), {}),
    (aten.erf, (X,), {}),
    (aten.sigmoid, (X,), {}),
    (aten.relu, (X,), {}),
    (aten.gelu, (X,), {}),
    (aten.gelu, (X,), {"approximate": "tanh"}),
    (aten.clamp, (X, -1), {}),
    (aten.clamp, (X, None, 0.5), {}),
    (aten.maximum, (X, Y), {}),
    (aten.minimum, (X, Y), {}),
    *((getattr(aten, name), (INTS, 1), {}) for name in ("eq", "ne", "lt", "le", "gt", "ge")),
    (aten.logical_and, (BOOLS, INTS.bool()), {}),
    (aten.logical_or, (BOOLS, INTS.bool()), {}),
    (aten.logical_not, (INTS,), {}),
    (aten.bitwise_and, (BOOLS, INTS.bool()), {}),
    (aten.bitwise_or, (BOOLS, INTS.bool()), {}),
    (aten.bitwise_not, (BOOLS,), {}),
    (aten.where, (BOOLS, INTS, -1), {}),
    (aten.sum, (X, [-1], True), {}),
    (aten.sum, (BOOLS, [0]), {}),
    (aten.sum, (BOOLS, [0]), {"dtype": torch.float32}),
    (aten.mean, (X, [0, -1]), {}),
    (aten.amax, (X, [-1], True), {}),
    (aten.any, (BOOLS, -1, True), {}),
    (aten.argmax, (X, -1), {}),
    (aten.argmax, (INTS, 1, True), {}),
    (aten.cumsum, (BOOLS, 1), {}),
    (aten._softmax, (X, -1, False), {}),
    (aten.native_layer_norm, (X, [4], Y, Y, 1e-5), {}),
    (aten.native_layer_norm, (X, [3, 4], None, None, 1e-5), {}),
    (aten.mm, (X[0], X[1].T), {}),
    (aten.bmm, (X, X.mT), {}),
    (aten.addmm, (Y[:3], X[0], X[1].T), {"beta": 2, "alpha": 0.5}),
]


def as_jax(value: Any) -> Any:
    if isinstance(value, Tensor):
        import jax.numpy as jnp

        return jnp.asarray(value.numpy())
    return [as_jax(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("operator", "args", "kwargs"), CALLS, ids=[str(call[0]) for call in CALLS])
def test_every_operator_gives_what_pytorch_gives(operator: Any, args: Any, kwargs: Any) -> None:
    from spaces.runtimes.aten_to_jax import TABLE
    from spaces.runtimes.graph_to_jax import plain_arguments

    name = "sym_size" if operator is aten.sym_size.int else operator.__name__
    result = TABLE[name](*plain_arguments([as_jax(a) for a in args]), **plain_arguments(kwargs))
    expected = operator(*args, **kwargs)
    several = isinstance(expected, (list, tuple))
    for one, wanted in zip(result if several else [result], expected if several else [expected], strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(wanted), atol=1e-5, rtol=1e-5)


def test_every_operator_of_the_table_is_called() -> None:
    from spaces.runtimes.aten_to_jax import TABLE

    called = {"sym_size" if op is aten.sym_size.int else op.__name__ for op, _, _ in CALLS}
    assert set(TABLE) == called


# --- models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "head"), [("mpnet", "native"), ("mistral", "mean")])
def test_other_families_run_as_in_eager(case: str, head: str, tmp_path: Path) -> None:
    """Lengths within a bucket, at its edge, beyond it, and beyond the last."""
    base = subject(case, head).base
    path = stored(tmp_path, case, head)
    eager, predict = (build.open_predict(path, runtime, FP32, CPU) for runtime in ("eager", "xla"))
    for lengths in ((5, 3), (1,), (16,), (17, 2), (32, 1), (33, 9)):
        batch = arrays_of(base, lengths)
        np.testing.assert_allclose(predict(batch)["logits"], eager(batch)["logits"], atol=1e-4, rtol=0)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """For each program, which JAX traces when it compiles it: the types of its weights."""
    from spaces.runtimes import graph_to_jax

    types: list[set[str]] = []
    lower = graph_to_jax.lower

    def noting(program: Any) -> Any:
        run, weights = lower(program)

        def traced_run(weights: Any, inputs: Any) -> Any:
            types.append({str(w.dtype) for w in weights.values()})
            return run(weights, inputs)

        return traced_run, weights

    monkeypatch.setattr(graph_to_jax, "lower", noting)
    return types


def test_lengths_of_one_bucket_share_a_program(folder: Path, traced: list[set[str]]) -> None:
    predict = build.open_predict(folder, "xla", FP32, CPU)
    base = subject().base
    for lengths, programs in (((3,), 1), ((16,), 1), ((17,), 2), ((32,), 2), ((9, 4), 3), ((33,), 4), ((2, 1), 4)):
        predict(arrays_of(base, lengths))
        assert len(traced) == programs


def test_half_precision_weights_are_lowered_as_such(folder: Path, traced: list[set[str]]) -> None:
    """As on a TPU; that its matrix units run them is not seen here."""
    batch = arrays_of(subject().base, (6, 3))
    predict = xla.XlaPredict(folder, "bf16")
    exact = build.open_predict(folder, "eager", FP32, CPU)(batch)["logits"]
    output = predict(batch)["logits"]
    assert traced == [{"bfloat16", "int32"}]
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, exact, atol=0.1 * np.abs(exact).max())


def test_bf16_is_offered_where_a_tpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xla, "has_tpu", lambda: True)
    assert registry.runtime_named("xla").precisions(CPU) == ("fp32", "bf16")
    monkeypatch.setattr(xla, "has_tpu", lambda: False)
    assert registry.runtime_named("xla").precisions(CPU) == ("fp32",)


def test_a_tpu_that_does_not_answer_is_infeasible(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(xla, "has_tpu", lambda: True)
    with pytest.raises(Infeasible, match="JAX finds no TPU"):
        registry.runtime_named("xla").open(folder, FP32, CPU)


class Odd(TaskModel):
    """Uses an operator that no transformer has."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(VOCABULARY, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return torch.erfinv(self.table(input_ids)).sum(1)


def test_an_unknown_operator_is_infeasible_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, *tiny(), {})
    monkeypatch.setattr(build, "load_model", lambda _: Odd().eval())
    with pytest.raises(Infeasible, match=r"xla has no lowering for the operator aten\.erfinv"):
        registry.runtime_named("xla").open(tmp_path, FP32, CPU)


class Branching(TaskModel):
    """Reads a value out of a tensor, so no graph holds for every input."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return input_ids.float() if int(input_ids.sum()) > 3 else attention_mask.float()


def test_a_model_without_a_graph_is_infeasible() -> None:
    with pytest.raises(Infeasible, match=r"torch\.export failed"):
        export_graph(Branching().eval(), ("input_ids", "attention_mask"), "cpu")
