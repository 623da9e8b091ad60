"""Low-rank factors in place of weight matrices, where they are smaller or, on one device, faster."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spaces.anatomy import anatomy_of, replace_module
from spaces.axis import Phase
from spaces.base import TaskModel
from spaces.errors import Infeasible
from spaces.knob import Knob, Plan, Settings
from spaces.matmul_cost_model import Costs
from spaces.shape import Shape
from spaces.statistics import INPUT_OF, Statistics, cholesky

SMALLER, FASTER = "smaller", "faster"


class LowRank(nn.Module):
    """x -> B A x + bias, with A (rank, in) and B (out, rank)."""

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool) -> None:
        super().__init__()
        self.a = nn.Linear(in_features, rank, bias=False)
        self.b = nn.Linear(rank, out_features, bias=bias)
        self.in_features, self.out_features, self.rank = in_features, out_features, rank

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))  # type: ignore[no-any-return]


class LowRankEmbedding(nn.Module):
    """ids -> B A[ids], with A (tokens, rank) and B (width, rank)."""

    def __init__(self, tokens: int, width: int, rank: int, padding_idx: int | None) -> None:
        super().__init__()
        self.a = nn.Embedding(tokens, rank, padding_idx=padding_idx)
        self.b = nn.Linear(rank, width, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.b(self.a(ids))  # type: ignore[no-any-return]


def break_even(out_features: int, in_features: int) -> float:
    """The rank at which two factors hold as many weights as the matrix: out*in / (out+in)."""
    return out_features * in_features / (out_features + in_features)


@torch.no_grad()
def factorise(
    weight: Tensor, rank: int, moment: Tensor | None = None, rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Factors A (rank, in), B (out, rank) of `weight` (out, in).

    Alone: the best in Frobenius norm (Eckart & Young 1936). With the second moment E[x x^T] (in, in) of its inputs:
    the best for the outputs, min E |W x - B A x|^2, by whitening with a Cholesky factor S of the moment and
    factoring W S (DRONE, Chen et al. 2021; SVD-LLM, Wang et al. 2024, arXiv 2403.07378, section 3.1). With `rows`
    (out,) the squared error of each output is weighted by its row's value (FWSVD, Hsu et al. 2022, arXiv 2207.00112).
    Cost: one SVD of an (out, in) matrix in float64.

    Raises:
        ValueError: a rank that is not in [1, min(out, in)], or a moment that is not positive semi-definite.
    """
    out, columns = weight.shape
    if not 1 <= rank <= min(out, columns):
        raise ValueError(f"rank must be in [1, {min(out, columns)}] for weight {(out, columns)}, got {rank}")
    w = weight.double()
    if rows is not None:
        # Rows that hardly matter still must not be divided by zero.
        scale = (rows.double() / rows.double().mean().clamp(min=1e-30)).clamp(min=1e-4).sqrt()
        w = scale[:, None] * w
    s = None if moment is None else cholesky(moment.double())
    u, sigma, vt = torch.linalg.svd(w if s is None else w @ s, full_matrices=False)
    root = sigma[:rank].sqrt()
    a, b = root[:, None] * vt[:rank], u[:, :rank] * root
    if s is not None:  # undo the whitening: A = sqrt(Sigma) V^T S^-1, S lower triangular
        a = torch.linalg.solve_triangular(s, a, upper=False, left=False)
    if rows is not None:
        b = b / scale[:, None]
    return a.to(weight.dtype), b.to(weight.dtype)


def allocate(spectra: Mapping[str, Tensor], sizes: Mapping[str, tuple[int, int]], share: float) -> dict[str, int]:
    """Ranks by matrix that keep the largest sum of squared singular values in `share` of all the matrices' weights.

    `spectra` are singular values by matrix, `sizes` their (out, in). One unit of rank costs out+in weights and keeps
    sigma_i^2. At a price p per weight every matrix keeps the i with sigma_i^2 > p (out+in); bisection finds the price
    that meets the budget (optimal for separable concave gains up to one unit of rank). A matrix whose rank reaches
    `break_even` stays whole and is left out of the result.
    """
    budget = share * sum(out * columns for out, columns in sizes.values())

    def ranks(price: float) -> dict[str, int]:
        counts = {n: int((spectra[n].double().square() > price * sum(sizes[n])).sum()) for n in sizes}
        return {n: max(1, min(count, *sizes[n])) for n, count in counts.items()}

    def cost(chosen: Mapping[str, int]) -> float:
        return sum(min(rank * sum(sizes[n]), sizes[n][0] * sizes[n][1]) for n, rank in chosen.items())

    low, high = 1e-30, max(float(s.double().square().max()) for s in spectra.values())
    for _ in range(100):
        middle = (low * high) ** 0.5  # prices span many orders of magnitude
        low, high = (middle, high) if cost(ranks(middle)) > budget else (low, middle)
    return {n: rank for n, rank in ranks(high).items() if rank < break_even(*sizes[n])}


@torch.no_grad()
def factorise_table(table: Tensor, rank: int, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Factors A (tokens, rank), B (width, rank) of an embedding `table` (tokens, width).

    The subspace with the least squared error over look-ups: each row is weighted by the count of its token in the
    data, `counts` (tokens,), plus one for tokens that do not occur (block-wise by frequency: GroupReduce, Chen et al.
    2018, arXiv 1806.06950, section 3.1). Cost: eigenvectors of a (width, width) matrix in float64.

    Raises:
        ValueError: a rank that is not in [1, min(tokens, width)].
    """
    tokens, width = table.shape
    if not 1 <= rank <= min(tokens, width):
        raise ValueError(f"rank must be in [1, {min(tokens, width)}] for a table {(tokens, width)}, got {rank}")
    rows = table.double()
    gram = rows.T @ ((counts.double() + 1)[:, None] * rows)
    basis = torch.linalg.eigh(gram).eigenvectors[:, -rank:]
    return (rows @ basis).to(table.dtype), basis.to(table.dtype)


class LowRankFactors:
    """Two factors in place of each matrix of the blocks, where they hold fewer weights than the matrix.

    `allocation`: "budget" shares one budget among all matrices so that the loss rises least. An output is weighted by
    the mean square gradient of the loss there, so the discarded squared singular values of all matrices are on one
    scale (a diagonal Fisher estimate of the rise in loss). "uniform" keeps the same share of every matrix's weights.
    `method`: "whitened" fits the factors to the activations, and the bias takes up the error of the mean input;
    "plain" fits the weights alone. `embeddings` factors the table of token embeddings, for size only, because its
    rows are looked up and not multiplied. `where`: "faster" keeps a matrix whole where `costs` predict that two
    factors would not be faster. A recipe carries `costs` as one more setting (`spaces.matmul_cost_model.Costs.text`),
    so its plan is the same on every machine.
    """

    name = "low_rank"
    phase = Phase.FACTORISE
    source = "Wang et al. 2024, arXiv 2403.07378; Hsu et al. 2022, arXiv 2207.00112"

    def knobs(self, shape: Shape) -> tuple[Knob, ...]:
        rank = Knob(
            "rank", off=1.0, low=0.2, high=1.0, step=0.1, help="share of the matrices' weights that factors keep"
        )
        method = Knob("method", off="whitened", choices=("whitened", "plain"), method=True, help="what the factors fit")
        allocation = Knob(
            "allocation", off="budget", choices=("budget", "uniform"), method=True, help="one budget, or one share each"
        )
        embeddings = Knob(
            "embeddings",
            off=1.0,
            low=0.2,
            high=1.0,
            step=0.1,
            opt_in=True,
            help="share of the token table's weights that factors keep",
        )
        where = Knob(
            "where",
            off=SMALLER,
            choices=(SMALLER, FASTER),
            method=True,
            opt_in=True,
            help="which matrices: all that become smaller, or of them those that the device and batch run faster",
        )
        return (rank, embeddings, method, allocation, where)

    def decide(self, statistics: Statistics, settings: Settings) -> Plan:
        share = float(settings.get("rank", 1.0))
        of_table = float(settings.get("embeddings", 1.0))
        for name, value in (("rank", share), ("embeddings", of_table)):
            if not 0 < value <= 1:
                raise Infeasible(f"low_rank.{name} must be in (0, 1], got {value}")
        sizes = _sizes(statistics)
        if share == 1:
            ranks = {}
        elif settings.get("allocation", "budget") == "uniform":
            whole = {name: max(1, int(share * break_even(*size))) for name, size in sizes.items()}
            ranks = {name: rank for name, rank in whole.items() if rank < break_even(*sizes[name])}
        else:
            # After pruning these are estimates: spectra of the matrices as the teacher had them.
            spectra = {name: statistics.block(*_named(name, "spectrum")) for name in sizes}
            ranks = allocate(spectra, sizes, share)
        costs = _costs(settings)
        if costs is not None:
            ranks = {name: rank for name, rank in ranks.items() if costs.factors_are_faster(sizes[name], rank)}
        plan: Plan = {"ranks": ranks, "method": str(settings.get("method", "whitened"))}
        if of_table < 1:
            plan["embeddings"] = of_table  # of a table whose width the family decides
        return plan

    def carry(self, statistics: Statistics, plan: Plan) -> Statistics:
        return statistics

    def reshape(self, model: nn.Module, plan: Plan) -> None:
        for block, path, _, rank in _matrices(model, plan):
            linear = block.get_submodule(path)
            assert isinstance(linear, nn.Linear)
            factors = LowRank(linear.in_features, linear.out_features, rank, linear.bias is not None)
            replace_module(block, path, factors.to(linear.weight))
        if "embeddings" in plan:
            assert isinstance(model, TaskModel)
            if model.tied:
                raise Infeasible("low_rank.embeddings: this model's token table is also its output matrix")
            anatomy = anatomy_of(model.backbone)
            table = anatomy.token_table
            whole = break_even(table.num_embeddings, table.embedding_dim)
            rank = max(1, int(float(plan["embeddings"]) * whole))
            smaller = LowRankEmbedding(table.num_embeddings, table.embedding_dim, rank, table.padding_idx)
            replace_module(anatomy.backbone, anatomy.family.embeddings[0], smaller.to(table.weight))

    @torch.no_grad()
    def fill(self, model: nn.Module, source: nn.Module, plan: Plan, statistics: Statistics) -> None:
        whitened = plan["method"] == "whitened"
        origins = _matrices(source, plan)
        for (block, path, _, _), (origin, _, key, rank) in zip(_matrices(model, plan), origins, strict=True):
            linear, factors = origin.get_submodule(path), block.get_submodule(path)
            assert isinstance(linear, nn.Linear) and isinstance(factors, LowRank)
            index, role = key
            weight = linear.weight.detach().cpu()
            if not whitened:
                a, b = factorise(weight, rank)
            else:
                moment, mean = (statistics.block(index, f"{kind}.{INPUT_OF[role]}") for kind in ("input", "mean"))
                spread = moment if linear.bias is None else moment - torch.outer(mean, mean)
                a, b = factorise(weight, rank, spread, statistics.block(index, f"gradient.{role}"))
            factors.a.weight.copy_(a)
            factors.b.weight.copy_(b)
            if linear.bias is not None:
                lost = weight @ mean - b @ (a @ mean) if whitened else torch.zeros(())
                factors.b.bias.copy_(linear.bias.cpu() + lost)
        if "embeddings" in plan:
            assert isinstance(model, TaskModel) and isinstance(source, TaskModel)
            before = anatomy_of(source.backbone)
            table = model.backbone.get_submodule(before.family.embeddings[0])
            assert isinstance(table, LowRankEmbedding)
            weight, counts = before.token_table.weight.detach().cpu(), statistics.tensors["tokens.count"]
            a, b = factorise_table(weight, table.a.embedding_dim, counts)
            table.a.weight.copy_(a)
            table.b.weight.copy_(b)


def _costs(settings: Settings) -> Costs | None:
    """The measured costs of the device, or None where only size counts. Raises Infeasible where they are missing."""
    if settings.get("where", SMALLER) != FASTER:
        return None
    if "costs" not in settings:
        raise Infeasible("low_rank.where: faster needs low_rank.costs, which a search measures on its device; got none")
    try:
        return Costs.parse(str(settings["costs"]))
    except ValueError as error:
        raise Infeasible(f"low_rank.{error}") from None


def _sizes(statistics: Statistics) -> dict[str, tuple[int, int]]:
    """(out, in) of every matrix by "<block>.<role>"; a gated feed-forward layer has an up.0 and an up.1."""
    shape = statistics.shape
    sizes: dict[str, tuple[int, int]] = {}
    for index, layer in enumerate(shape.layers):
        keys = layer.heads * shape.head_dim
        queries = keys * shape.group
        of_layer = {
            "query": (queries, shape.hidden),
            "key": (keys, shape.hidden),
            "value": (keys, shape.hidden),
            "output": (shape.hidden, queries),
            **dict.fromkeys(("up", "up.0", "up.1"), (layer.neurons, shape.hidden)),
            "down": (shape.hidden, layer.neurons),
        }
        spectrum = f"block.{index}.spectrum"
        sizes |= {f"{index}.{role}": s for role, s in of_layer.items() if f"{spectrum}.{role}" in statistics.tensors}
    return sizes


def _named(name: str, kind: str) -> tuple[int, str]:
    """Block and name of a statistic of the matrix "<block>.<role>"."""
    index, role = name.split(".", 1)
    return int(index), f"{kind}.{role}"


def _matrices(model: nn.Module, plan: Plan) -> list[tuple[nn.Module, str, tuple[int, str], int]]:
    """(block, path in it, (block index, role), rank) of every matrix the plan factors."""
    assert isinstance(model, TaskModel)
    anatomy = anatomy_of(model.backbone)
    matrices = []
    for name, rank in plan["ranks"].items():
        index, role = name.split(".", 1)
        matrices.append((anatomy.blocks[int(index)], anatomy.roles()[role], (int(index), role), int(rank)))
    return matrices
