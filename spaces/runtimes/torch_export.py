"""torch.export: a stored model as one graph of ATen operators, for the compilers that start from that."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch.export import Dim, ExportedProgram

from spaces.base import TaskModel
from spaces.errors import Infeasible


def export_graph(model: TaskModel, inputs: Sequence[str], device: str) -> ExportedProgram:
    """The graph of `model` with batch and length left open; its named inputs are int64 (batch, length).

    Raises Infeasible for a model that torch.export cannot trace for all batches and lengths.
    """
    example = {name: torch.ones((2, 16), dtype=torch.int64, device=device) for name in inputs}
    open_sizes = {name: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for name in inputs}
    try:
        with torch.no_grad(), quiet_torch():
            return torch.export.export(model, (), example, dynamic_shapes=open_sizes)
    except Exception as error:  # export raises many types; all mean that this model has no such graph
        raise Infeasible(f"torch.export failed: {brief(error)}") from error


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """`program` in core ATen operators only, without views and in-place changes."""
    with quiet_torch():
        lowered: ExportedProgram = program.run_decompositions()
        return lowered


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Suppress torch's warnings about its own internals inside the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def brief(error: Exception) -> str:
    """The first 200 characters of an error's message, on one line."""
    return " ".join(str(error).split())[:200]
