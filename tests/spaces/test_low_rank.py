"""Low-rank factors: their error, and where the ranks go."""

from __future__ import annotations

import itertools

import pytest
import torch
from models import built, logits, subject
from torch import Tensor

from spaces import registry
from spaces.anatomy import anatomy_of
from spaces.axes.low_rank import LowRank, LowRankEmbedding, allocate, break_even, factorise, factorise_table
from spaces.recipe import Step


def matrix(out: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(out, columns, generator=torch.Generator().manual_seed(seed))


def inputs(tokens: int, width: int) -> Tensor:
    """Inputs that live mostly in a few directions: (tokens, width)."""
    scales = torch.logspace(0, -2, width)
    return (matrix(tokens, width, 1) * scales) @ torch.linalg.qr(matrix(width, width, 2)).Q


@pytest.mark.parametrize("shape", [(9, 7), (7, 9), (8, 8)])
@pytest.mark.parametrize("rank", [1, 3, 7])
def test_the_plain_error_is_the_discarded_singular_values(shape: tuple[int, int], rank: int) -> None:
    weight = matrix(*shape)
    a, b = factorise(weight, rank)
    assert (a.shape, b.shape) == ((rank, shape[1]), (shape[0], rank))
    lost = torch.linalg.svdvals(weight)[rank:].norm()
    torch.testing.assert_close((weight - b @ a).norm(), lost, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_whitened_error_is_the_discarded_singular_values_of_the_whitened_matrix(rank: int) -> None:
    weight, x = matrix(9, 7).double(), inputs(200, 7).double()
    moment = x.T @ x / len(x)
    a, b = factorise(weight, rank, moment)
    lost = torch.linalg.svdvals(weight @ torch.linalg.cholesky(moment))[rank:].norm()
    error = (x @ (weight - b @ a).T).square().sum(1).mean().sqrt()
    torch.testing.assert_close(error, lost, atol=1e-6, rtol=1e-2)


@pytest.mark.parametrize("rank", [1, 2, 4, 6])
def test_whitened_beats_plain_in_activation_error_on_the_calibration_data(rank: int) -> None:
    weight, x = matrix(12, 8), inputs(300, 8)
    errors = []
    for moment in (x.T @ x / len(x), None):
        a, b = factorise(weight, rank, moment)
        errors.append(float((x @ (weight - b @ a).T).square().mean()))
    assert errors[0] < errors[1]


def test_weighted_rows_err_less_where_the_weight_is() -> None:
    weight = matrix(6, 6)
    rows = torch.tensor([100.0, 100.0, 1.0, 1.0, 1.0, 1.0])
    plain, weighted = (factorise(weight, 3, None, r) for r in (None, rows))
    errors = [((weight - b @ a).square().sum(1) * rows).sum() for a, b in (plain, weighted)]
    assert errors[1] < errors[0]
    lost = torch.linalg.svdvals(rows.sqrt()[:, None] * weight)[3:].square().sum()
    torch.testing.assert_close(errors[1], lost, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("whitened", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_full_rank_reproduces_the_matrix(whitened: bool, weighted: bool) -> None:
    weight, x = matrix(6, 9), inputs(100, 9)
    moment = x.T @ x / len(x) if whitened else None
    a, b = factorise(weight, 6, moment, torch.rand(6) if weighted else None)
    torch.testing.assert_close(b @ a, weight, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("rank", [0, 8])
def test_a_rank_that_cannot_be_names_the_range_and_the_value(rank: int) -> None:
    with pytest.raises(ValueError, match=rf"\[1, 7\].*\(9, 7\).*{rank}"):
        factorise(matrix(9, 7), rank)


def test_a_moment_of_too_few_tokens_still_factors() -> None:
    x = inputs(3, 8)
    a, b = factorise(matrix(8, 8), 3, x.T @ x / 3)
    assert bool((b @ a).isfinite().all())


def test_factors_apply_as_their_product() -> None:
    factors = LowRank(5, 4, 2, bias=True)
    x = matrix(3, 5)
    expected = x @ (factors.b.weight @ factors.a.weight).T + factors.b.bias
    torch.testing.assert_close(factors(x), expected)


@pytest.mark.parametrize("size", [(8, 8), (16, 4), (3, 30)])
def test_factors_are_smaller_exactly_below_break_even(size: tuple[int, int]) -> None:
    out, columns = size
    for rank in range(1, min(size) + 1):
        assert (rank * (out + columns) < out * columns) == (rank < break_even(*size))


# --- ranks --------------------------------------------------------------------------------------------------


def weights_of(ranks: dict[str, int], sizes: dict[str, tuple[int, int]]) -> int:
    return sum(ranks[n] * sum(size) if n in ranks else size[0] * size[1] for n, size in sizes.items())


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 0.95])
def test_ranks_stay_within_the_budget_and_waste_less_than_the_dearest_matrix(share: float) -> None:
    sizes = {"a": (16, 16), "b": (32, 8), "c": (8, 32)}
    spectra = {n: torch.linalg.svdvals(matrix(*s, seed=i) * 10.0**-i) for i, (n, s) in enumerate(sizes.items())}
    ranks = allocate(spectra, sizes, share)
    budget = share * sum(o * c for o, c in sizes.values())
    spent = weights_of(ranks, sizes)
    floor = sum(sum(size) for size in sizes.values())
    assert spent <= max(budget, floor)
    assert all(1 <= rank < break_even(*sizes[n]) for n, rank in ranks.items())
    assert ranks["c"] == min(ranks.values())  # a thousandth of the energy


def test_no_other_ranks_of_the_same_cost_keep_more() -> None:
    """Brute force over all ranks of two equal matrices."""
    sizes = {"a": (12, 12), "b": (12, 12)}
    spectra = {"a": torch.linspace(3, 0.1, 12), "b": torch.linspace(1.5, 0.2, 12)}
    ranks = allocate(spectra, sizes, 0.5)
    assert set(ranks) == {"a", "b"}
    energy = {n: spectra[n].square().cumsum(0) for n in sizes}
    total = sum(ranks.values())
    best = max(
        float(energy["a"][i - 1] + energy["b"][j - 1])
        for i, j in itertools.product(range(1, 13), repeat=2)
        if i + j == total
    )
    assert float(sum(energy[n][ranks[n] - 1] for n in sizes)) == pytest.approx(best)


@pytest.mark.parametrize("allocation", ["budget", "uniform"])
@pytest.mark.parametrize("case", ["bert", "llama"])
def test_the_planned_ranks_are_those_of_the_built_factors_and_save_weights(case: str, allocation: str) -> None:
    original = subject(case, "native")
    before = sum(p.numel() for p in original.model.parameters())
    counts = []
    for share in (0.3, 0.6):
        model, plans = built(original, Step("low_rank", {"rank": share, "allocation": allocation}))
        ranks = plans["low_rank"]["ranks"]
        anatomy = anatomy_of(model.backbone)
        built_ranks = {}
        for index, block in enumerate(anatomy.blocks):
            for role, path in anatomy.roles().items():
                module = block.get_submodule(path)
                if isinstance(module, LowRank):
                    built_ranks[f"{index}.{role}"] = module.rank
                    assert module.rank < break_even(module.out_features, module.in_features)
        assert built_ranks == ranks and ranks
        counts.append(sum(p.numel() for p in model.parameters()))
    assert counts[0] < counts[1] < before


@pytest.mark.parametrize("case", ["bert", "llama"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_the_factored_model_keeps_its_share_of_the_matrices_weights(case: str, share: float) -> None:
    """Of all of them: the gate of a gated feed-forward layer counts too."""
    original = subject(case)
    model, _ = built(original, Step("low_rank", {"rank": share}))
    counts = []
    for candidate in (model, original.model):
        anatomy = anatomy_of(candidate.backbone)
        modules = [b.get_submodule(path) for b in anatomy.blocks for path in anatomy.roles().values()]
        counts.append(sum(p.numel() for m in modules for p in m.parameters() if p.ndim == 2))
    assert 0.9 * share < counts[0] / counts[1] <= share


def test_whitened_factors_are_nearer_to_the_teacher_than_plain_ones_on_the_calibration_data() -> None:
    original = subject("roberta", "mean")
    errors = {}
    for method in ("whitened", "plain"):
        model, _ = built(original, Step("low_rank", {"rank": 0.6, "method": method}))
        errors[method] = float((logits(model, original.batch) - original.logits).square().mean())
    assert errors["whitened"] < errors["plain"]


def test_a_share_of_one_factors_nothing() -> None:
    assert registry.axis_named("low_rank").decide(subject().statistics, {"rank": 1.0})["ranks"] == {}


# --- the token table ----------------------------------------------------------------------------------------


def test_the_table_keeps_frequent_tokens_best() -> None:
    """The looked-up error is that of the best subspace, and frequent rows err less than without the counts."""
    table = matrix(40, 12)
    counts = torch.tensor([1000.0] * 4 + [1.0] * 36)
    weighted, plain = factorise_table(table, 5, counts), factorise_table(table, 5, torch.zeros(40))
    errors = [(table - a @ b.T).square().sum(1) for a, b in (weighted, plain)]
    assert errors[0][:4].sum() < 0.5 * errors[1][:4].sum()
    assert errors[1].sum() <= errors[0].sum()
    lost = torch.linalg.svdvals((counts + 1).sqrt()[:, None] * table)[5:].square().sum()
    torch.testing.assert_close(((counts + 1) * errors[0]).sum(), lost, rtol=1e-4, atol=1e-4)


def test_a_full_rank_table_is_the_table() -> None:
    table = matrix(30, 8)
    a, b = factorise_table(table, 8, torch.ones(30))
    torch.testing.assert_close(a @ b.T, table, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"rank must be in \[1, 8\]"):
        factorise_table(table, 9, torch.ones(30))


@pytest.mark.parametrize("case", ["bert", "electra-projected", "llama"])
def test_a_factored_table_is_smaller_and_embeds_the_same_rows(case: str) -> None:
    original = subject(case)
    model, _ = built(original, Step("low_rank", {"embeddings": 0.5}))
    path = anatomy_of(original.model.backbone).family.embeddings[0]
    before, after = original.model.backbone.get_submodule(path), model.backbone.get_submodule(path)
    assert isinstance(after, LowRankEmbedding)
    size = sum(p.numel() for p in after.parameters())
    assert size <= 0.5 * before.weight.numel()
    ids = original.batch["input_ids"]
    near = (after(ids) - before(ids)).square().sum() / before(ids).square().sum()
    assert float(near.detach()) < 0.6
