"""Sparse matrices: the least important single weights become zero, anywhere or in 2:4 patterns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spaces.anatomy import Anatomy, anatomy_of, replace_module
from spaces.axes.low_rank import LowRank
from spaces.axis import Phase
from spaces.base import TaskModel
from spaces.errors import Infeasible
from spaces.knob import Knob, Plan, Settings
from spaces.shape import Shape
from spaces.sparse_storage import Sparse, TwoOfFour, best_of_four, best_of_row
from spaces.statistics import INPUT_OF, Statistics

PATTERNS = ("any", "2-of-4")
#: What a 2:4 matrix's outputs and inputs must be multiples of, for either of torch's libraries in fp16 and bf16
#: (torch.sparse.SparseSemiStructuredTensorCUTLASS and ...CUSPARSELT; the first asks for more).
ROW_MULTIPLE, COLUMN_MULTIPLE = 32, 64


class SparseMatrices:
    """Keeps the weights with the largest |W_ij| sqrt(E[x_j^2]), compared inside each row (Wanda).

    `pattern`: "any" keeps them at any place of a row, for size only: the model's folder gets smaller, but every runtime
    multiplies the zeros like other numbers. "2-of-4" keeps two of every four along the input (the paper's N:M variant),
    for GPUs whose kernels skip the other two, and runs only there; a matrix whose sizes these kernels do not support
    stays whole. The factors of a low-rank pair are treated like other matrices.
    """

    name = "sparse"
    phase = Phase.SPARSIFY
    source = "Sun et al. 2024, arXiv 2306.11695"

    def knobs(self, shape: Shape) -> tuple[Knob, ...]:
        weights = Knob(
            "weights",
            off=1.0,
            low=0.125,
            high=1.0,
            step=0.125,
            opt_in=True,
            help="share of the blocks' weights kept: for size only, calls get no faster",
        )
        pattern = Knob(
            "pattern",
            off="any",
            choices=PATTERNS,
            method=True,
            opt_in=True,
            needs=("weights", (0.5,)),
            help="2-of-4 (weights: 0.5): 2:4 sparsity on the CUDA kernels that skip the rest, and nowhere else",
        )
        return (weights, pattern)

    def decide(self, statistics: Statistics, settings: Settings) -> Plan:
        share, pattern = float(settings.get("weights", 1.0)), str(settings.get("pattern", "any"))
        if not 0 < share <= 1:
            raise Infeasible(f"sparse.weights must be in (0, 1], got {share}")
        if pattern not in PATTERNS:
            raise Infeasible(f"sparse.pattern must be one of {', '.join(PATTERNS)}, got {pattern!r}")
        if pattern != "any" and share != 0.5:
            raise Infeasible(f"sparse.pattern must be any unless sparse.weights is 0.5, got {pattern} with {share}")
        return {"weights": share} if pattern == "any" else {"weights": share, "pattern": pattern}

    def carry(self, statistics: Statistics, plan: Plan) -> Statistics:
        return statistics

    def reshape(self, model: nn.Module, plan: Plan) -> None:
        count = 0
        for block, path, linear in _matrices(model):
            sparse = _like(linear, plan)
            if sparse is not None:
                replace_module(block, path, sparse.to(linear.weight))
                count += 1
        if "pattern" in plan and not count:
            raise Infeasible(
                f"sparse.pattern: no matrix has outputs and inputs in multiples of {ROW_MULTIPLE} and {COLUMN_MULTIPLE}"
            )

    @torch.no_grad()
    def fill(self, model: nn.Module, source: nn.Module, plan: Plan, statistics: Statistics) -> None:
        assert isinstance(model, TaskModel) and isinstance(source, TaskModel)
        anatomy, origin = anatomy_of(model.backbone), anatomy_of(source.backbone)
        for index, (block, old) in enumerate(zip(anatomy.blocks, origin.blocks, strict=True)):
            for role in origin.roles():
                moment = statistics.block(index, f"input.{INPUT_OF[role]}")
                for path, squares in _inputs(origin, old, role, moment).items():
                    sparse, linear = block.get_submodule(path), old.get_submodule(path)
                    if isinstance(sparse, Sparse):
                        assert isinstance(linear, nn.Linear)
                        _fill(sparse, linear, squares)


def _like(linear: nn.Linear, plan: Plan) -> Sparse | None:
    """An unfilled sparse module in the place of `linear`, or None where it stays whole."""
    rows, columns, bias = linear.out_features, linear.in_features, linear.bias is not None
    if "pattern" in plan:
        return None if rows % ROW_MULTIPLE or columns % COLUMN_MULTIPLE else TwoOfFour(columns, rows, bias)
    per_row = max(1, round(float(plan["weights"]) * columns))
    return Sparse(columns, rows, per_row, bias) if per_row < columns else None


def _fill(sparse: Sparse, linear: nn.Linear, squares: Tensor) -> None:
    """`squares` (in,): mean squares of the inputs."""
    weight = linear.weight.detach()
    scores = weight.cpu().abs().double() * squares.double().clamp(min=0).sqrt()
    mask = best_of_four(scores) if isinstance(sparse, TwoOfFour) else best_of_row(scores, sparse.per_row)
    sparse.take(weight, mask.to(weight.device))
    if linear.bias is not None:
        assert sparse.bias is not None
        sparse.bias.copy_(linear.bias)


def _matrices(model: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """(block, path in it, matrix) of every matrix of every block; of a low-rank pair both."""
    assert isinstance(model, TaskModel)
    anatomy = anatomy_of(model.backbone)
    matrices = []
    for block in anatomy.blocks:
        for path in anatomy.roles().values():
            module = block.get_submodule(path)
            parts = (f"{path}.a", f"{path}.b") if isinstance(module, LowRank) else (path,)
            for part in parts:
                linear = block.get_submodule(part)
                assert isinstance(linear, nn.Linear)
                matrices.append((block, part, linear))
    return matrices


def _inputs(anatomy: Anatomy, block: nn.Module, role: str, moment: Tensor) -> dict[str, Tensor]:
    """Mean square of each input, by path in the block; `moment` (in, in) is E[x x^T] before the role's matrix."""
    path = anatomy.roles()[role]
    module = block.get_submodule(path)
    if not isinstance(module, LowRank):
        return {path: moment.diagonal()}
    a = module.a.weight.detach().cpu().double()  # the second factor reads A x, and E[(A x)_r^2] = (A E[x x^T] A^T)_rr
    return {f"{path}.a": moment.diagonal(), f"{path}.b": ((a @ moment.double()) * a).sum(1)}
