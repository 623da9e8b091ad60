"""Exported graphs as functions of JAX arrays, operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.fx.node import map_arg

from spaces.errors import Infeasible
from spaces.runtimes.aten_to_jax import JAX_DTYPES, TABLE, JaxArray

Parameters = Mapping[str, JaxArray]
#: Arguments that say where and how a tensor lies in memory, which is XLA's affair.
MEMORY = ("device", "layout", "pin_memory", "memory_format", "non_blocking")


def lower(
    program: ExportedProgram,
) -> tuple[Callable[[Parameters, Mapping[str, JaxArray]], JaxArray], dict[str, torch.Tensor]]:
    """(function of weights and named inputs, its weights by name) for a graph of core ATen operators.

    The function is made for `jax.jit`: sizes left open in the graph are those of the inputs it is traced with.

    Raises Infeasible, with its name, for an operator that is not in the table.
    """
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    result: Node = output.args[0][-1]  # a buffer that the graph changes would come before it
    steps = _needed(program, result)
    functions = {node: _function(node) for node in steps if node.op != "placeholder"}
    named = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    weights = {}
    for name, spec in named.items():
        if spec.kind != InputKind.USER_INPUT and any(node.name == name for node in steps):
            stored = program.state_dict if spec.target in program.state_dict else program.constants
            weights[name] = stored[str(spec.target)].detach()

    def run(weights: Parameters, inputs: Mapping[str, JaxArray]) -> JaxArray:
        values: dict[Node, Any] = {}
        for node in steps:
            if node.op == "placeholder":
                values[node] = weights[node.name] if node.name in weights else inputs[node.name]
            else:
                args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = _typed(node, functions[node](*plain_arguments(args), **plain_arguments(kwargs)))
        return values[result]

    return run, weights


def _needed(program: ExportedProgram, result: Node) -> list[Node]:
    """The nodes that `result` depends on, in order: no assertions about sizes."""
    wanted, needed = [result], {result}
    while wanted:
        for node in wanted.pop().all_input_nodes:
            if node not in needed:
                needed.add(node)
                wanted.append(node)
    return [node for node in program.graph.nodes if node in needed]


def _function(node: Node) -> Callable[..., Any]:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = target._schema.name.removeprefix("aten::")
        if name in TABLE:
            return TABLE[name]
    elif callable(target) and getattr(target, "__module__", "") in ("_operator", "math"):
        return target  # arithmetic with sizes
    raise Infeasible(f"xla has no lowering for the operator {target}")


def plain_arguments(arguments: Any) -> Any:
    """The arguments of a node as the table takes them."""
    if isinstance(arguments, Mapping):
        return {name: plain_arguments(value) for name, value in arguments.items() if name not in MEMORY}
    if isinstance(arguments, (list, tuple)):
        return [plain_arguments(value) for value in arguments]
    return JAX_DTYPES[arguments] if isinstance(arguments, torch.dtype) else arguments


def _typed(node: Node, value: Any) -> Any:
    """`value` in PyTorch's type: the two libraries promote reductions and mixed sums differently."""
    meant = node.meta.get("val")
    return jnp.asarray(value, JAX_DTYPES[meant.dtype]) if isinstance(meant, torch.Tensor) else value
