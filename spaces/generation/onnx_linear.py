"""Matrices, tables and norms of a causal language model as nodes of an ONNX graph, in their precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spaces.axes.low_rank import LowRank, LowRankEmbedding
from spaces.errors import Infeasible
from spaces.generation.onnx_file import CONTRIBUTED, Graph
from spaces.knob import Plan
from spaces.weight_groups import WEIGHT_GROUP, Groups, groups_to_integers, pairs

BITS = {"fp32": 32, "int8": 8, "int4": 4}
#: Of MatMulNBits: activations are rounded to 8 bits for the product, with a scale for every 32 of a token's. In int4 a
#: step then takes 0.75 of the time.
ACCURACY_LEVEL = 4

Quantise = Callable[[str, Tensor, int], Groups]


def to_nearest(path: str, weight: Tensor, bits: int) -> Groups:
    """Fitted to the weights alone."""
    return groups_to_integers(as_array(weight), bits)


@dataclass(frozen=True)
class Precision:
    """Bits of each matrix of a model, and how its integers are made."""

    body: int
    head: int
    table: int
    fp32_blocks: Sequence[str] = ()
    int8_blocks: Sequence[str] = ()
    quantise: Quantise = field(default=to_nearest)

    @classmethod
    def of(cls, plan: Plan, fp32_blocks: Sequence[str] = (), int8_blocks: Sequence[str] = ()) -> Precision:
        """The paths are of blocks that have other bits than the plan's precision.

        Raises:
            Infeasible: a precision that a causal model does not have here.
        """
        name = str(plan["precision"])
        if name not in BITS:
            raise Infeasible(f"bits.precision of a causal model must be one of {', '.join(BITS)} here, got {name}")
        head = str(plan.get("head", name))
        return cls(BITS[name], BITS[head], BITS[str(plan.get("embeddings", "fp32"))], fp32_blocks, int8_blocks)

    def bits(self, path: str) -> int:
        """Of a matrix inside a block."""
        if _is_inside(path, self.fp32_blocks):
            return 32
        return 8 if _is_inside(path, self.int8_blocks) else self.body


def _is_inside(path: str, blocks: Sequence[str]) -> bool:
    """Whether a matrix is of one of these blocks."""
    return any(path.startswith(f"{block}.") for block in blocks)


def as_array(tensor: Tensor) -> np.ndarray:
    values: np.ndarray = tensor.detach().to("cpu", torch.float32).numpy()
    return values


class Layers:
    """Modules as nodes of one graph. `x` is (..., in); paths name weights."""

    def __init__(self, graph: Graph, precision: Precision) -> None:
        self.graph, self.precision = graph, precision

    def linear(self, path: str, module: nn.Module, x: str, bits: int | None = None) -> str:
        """An `nn.Linear`, or the two of a `LowRank`."""
        if isinstance(module, LowRank):
            return self.linear(f"{path}.b", module.b, self.linear(f"{path}.a", module.a, x, bits), bits)
        return self.joint({path: module}, x, bits)

    def joint(self, modules: Mapping[str, nn.Module], x: str, bits: int | None = None) -> str:
        """Matrices of the same input as one: their outputs one behind the other."""
        parts: dict[str, nn.Linear] = {}
        for path, module in modules.items():
            if not isinstance(module, nn.Linear):
                raise Infeasible(f"{path} is a {type(module).__name__}, which ONNX graphs of causal models do not have")
            parts[path] = module
        name = "+".join(parts)
        if bits is None:
            bits = self.precision.bits(next(iter(parts)))
        bias = self._bias(name, parts)
        if bits < 32:
            return self._in_groups(name, {p: m.weight for p, m in parts.items()}, x, bits, bias)
        matrix = self.graph.constant(
            f"{name}.weight", lambda: np.concatenate([as_array(m.weight) for m in parts.values()]).T
        )
        product = self.graph.op("MatMul", x, matrix)
        return self.graph.op("Add", product, bias) if bias else product

    def _bias(self, name: str, parts: Mapping[str, nn.Linear]) -> str:
        if all(module.bias is None for module in parts.values()):
            return ""
        biases = [torch.zeros(m.out_features) if m.bias is None else m.bias for m in parts.values()]
        return self.graph.constant(f"{name}.bias", lambda: as_array(torch.cat([b.cpu() for b in biases])))

    def _in_groups(self, name: str, weights: Mapping[str, Tensor], x: str, bits: int, bias: str = "") -> str:
        constants = self._groups(name, weights, bits)
        outputs, inputs = sum(len(w) for w in weights.values()), next(iter(weights.values())).shape[1]
        return self.graph.op(
            "MatMulNBits",
            x,
            *constants,
            *(("", bias) if bias else ()),
            domain=CONTRIBUTED,
            K=inputs,
            N=outputs,
            bits=bits,
            block_size=WEIGHT_GROUP,
            accuracy_level=ACCURACY_LEVEL,
        )

    def _groups(self, name: str, weights: Mapping[str, Tensor], bits: int) -> list[str]:
        """The constants of MatMulNBits: numbers, scales, and zero points (in 8 bits all are 128, its default)."""
        grouped: list[Groups] = []

        def part(index: int) -> np.ndarray:
            if not grouped:
                single = [self.precision.quantise(path, weight, bits) for path, weight in weights.items()]
                grouped.append(tuple(map(np.concatenate, zip(*single, strict=True))))  # type: ignore[arg-type]
            values = grouped[0][index]
            return pairs(values) if bits == 4 and index != 1 else values

        kinds = ("numbers", "scales", "zeros") if bits == 4 else ("numbers", "scales")
        names = [self.graph.constant(f"{name}.int{bits}.{kind}", partial(part, i)) for i, kind in enumerate(kinds)]
        return names if bits == 4 else [*names, ""]

    def head(self, path: str, module: nn.Module, table: nn.Module, x: str) -> str:
        """The output matrix over `x` (rows, hidden). In fp32 a head that is tied reads the token table itself."""
        bits = self.precision.head
        if bits < 32 or not isinstance(module, nn.Linear):
            return self.linear(path, module, x, bits)
        tied = isinstance(table, nn.Embedding) and module.weight.data_ptr() == table.weight.data_ptr()
        name = "tokens" if tied and self.precision.table == 32 else f"{path}.weight"
        matrix = self.graph.constant(name, lambda: as_array(module.weight))
        bias = self._bias(path, {path: module})
        return self.graph.op("Gemm", x, matrix, *([bias] if bias else []), transB=1)

    def table(self, module: nn.Module, ids: str, name: str, head: tuple[str, nn.Module] | None = None) -> str:
        """Rows of an embedding table; one of integers shares the bytes of a head of the same weights and bits."""
        if isinstance(module, LowRankEmbedding):
            return self.linear(f"{name}.b", module.b, self.table(module.a, ids, f"{name}.a"), 32)
        if not isinstance(module, nn.Embedding):
            raise Infeasible(f"an ONNX graph of a causal model has no {type(module).__name__} for its {name}")
        weight = module.weight
        if self.precision.table == 32:
            return self.graph.op("Gather", self.graph.constant(name, lambda: as_array(weight)), ids)
        return self._integer_rows(weight, ids, name, head)

    def _integer_rows(self, weight: Tensor, ids: str, name: str, head: tuple[str, nn.Module] | None) -> str:
        bits = self.precision.table
        if weight.shape[1] % WEIGHT_GROUP:
            raise Infeasible(
                f"bits.embeddings: {name} is {weight.shape[1]} wide, which is no multiple of {WEIGHT_GROUP}"
            )
        if head is not None and self.precision.head == bits and getattr(head[1], "weight", None) is weight:
            name = head[0]
        constants = self._groups(name, {name: weight}, bits)
        flat = self.graph.op("Reshape", constants[0], self.graph.small(tuple(weight.shape)))
        settings = {"bits": bits, "block_size": WEIGHT_GROUP, "gather_axis": 0, "quantize_axis": 1}
        return self.graph.op("GatherBlockQuantized", flat, ids, constants[1], domain=CONTRIBUTED, **settings)

    def norm(self, path: str, module: nn.Module, x: str, added: str = "") -> tuple[str, str]:
        """The norm of `x` (or of `x` + `added`), and that sum."""
        weight = module.weight
        assert isinstance(weight, Tensor)
        parameters = [self.graph.constant(f"{path}.weight", lambda: as_array(weight))]
        bias = getattr(module, "bias", None)
        kind, epsilon = "SimplifiedLayerNormalization", getattr(module, "variance_epsilon", None)
        if epsilon is None:
            kind, epsilon = "LayerNormalization", float(module.eps)  # type: ignore[arg-type]
        if isinstance(bias, Tensor):
            parameters.append(self.graph.constant(f"{path}.bias", lambda: as_array(bias)))
        if not added:
            return self.graph.op(kind, x, *parameters, axis=-1, epsilon=epsilon), x
        names = [f"{path}.normed", "", "", f"{path}.sum"]
        self.graph.node(f"Skip{kind}", [x, added, *parameters], names, CONTRIBUTED, epsilon=epsilon)
        return names[0], names[3]

    def activation(self, config: Any, x: str) -> str:
        name = str(getattr(config, "hidden_act", None) or config.activation_function)
        if name in ("silu", "swish"):
            return self.graph.op("QuickGelu", x, domain=CONTRIBUTED, alpha=1.0)
        if name in ("gelu_new", "gelu_pytorch_tanh", "gelu"):
            return self.graph.op("Gelu", x, approximate="none" if name == "gelu" else "tanh")
        if name == "relu":
            return self.graph.op("Relu", x)
        raise Infeasible(f"an ONNX graph of a causal model has no activation {name}")
