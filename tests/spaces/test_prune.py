"""Pruning: what is removed, and that removing is the same as silencing."""

from __future__ import annotations

import itertools

import pytest
import torch
from models import built, logits, masked, subject
from torch import nn

from spaces import registry, slicing
from spaces.axes.prune import keep, rearrange, share_out
from spaces.errors import Infeasible
from spaces.least_squares import compensate
from spaces.recipe import Step


@pytest.mark.parametrize(
    "case", ["bert", "distilbert", "electra", "llama", "mpnet", "qwen2", "gpt2", "modernbert", "deberta-v2"]
)
@pytest.mark.parametrize("criterion", ["fisher", "diagonal", "uniform", "magnitude"])
def test_an_untuned_pruned_model_equals_the_masked_one(case: str, criterion: str) -> None:
    original = subject(case, "native")
    shape = original.statistics.shape
    share = {"heads": 0.5} if shape.prunable_heads else {}
    model, plans = built(original, Step("prune", {**share, "neurons": 0.5, "criterion": criterion, "tuning": "none"}))
    plan = plans["prune"]

    def removed(block: int) -> tuple[list[int], list[int]]:
        heads, neurons = (set(slicing.decode_ranges(plan[unit][block])) for unit in ("heads", "neurons"))
        layer = shape.layers[block]
        return sorted(set(range(layer.heads)) - heads), sorted(set(range(layer.neurons)) - neurons)

    assert any(any(removed(i)) for i in range(shape.depth))
    expected = masked(original.model, original.batch, removed)
    torch.testing.assert_close(logits(model, original.batch), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_what_competes_everywhere_loses_the_least_mass_its_budget_allows(seed: int) -> None:
    scores = [s.abs() for s in torch.randn(2, 4, generator=torch.Generator().manual_seed(seed))]
    for share in (0.25, 0.5, 0.75):
        chosen_units = keep(scores, share, at_least=1, multiple=1, everywhere=True)
        count = sum(map(len, chosen_units))
        assert all(chosen_units) and abs(count - share * 8) <= sum(len(k) == 1 for k in chosen_units)
        lost = sum(float(s.sum() - s[k].sum()) for s, k in zip(scores, chosen_units, strict=True))
        units = [(block, unit) for block in range(2) for unit in range(4)]
        legal = (chosen for chosen in itertools.combinations(units, count) if {block for block, _ in chosen} == {0, 1})
        best = min(
            sum(float(s.sum()) for s in scores) - sum(float(scores[b][u]) for b, u in chosen) for chosen in legal
        )
        assert lost == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("everywhere", [True, False])
def test_no_removed_unit_of_a_block_outweighs_a_kept_one(everywhere: bool) -> None:
    scores = list(torch.rand(3, 64, generator=torch.Generator().manual_seed(0)))
    for share in (0.125, 0.375, 0.5, 0.875):
        for score, units in zip(scores, keep(scores, share, 16, 16, everywhere=everywhere), strict=True):
            removed = sorted(set(range(64)) - set(units))
            assert units == sorted(set(units)) and len(units) >= 16 and len(units) % 16 == 0
            assert not removed or score[units].min() >= score[removed].max()


def test_equal_shares_when_blocks_do_not_compete() -> None:
    scores = [torch.arange(8.0), 100 + torch.arange(8.0)]
    assert [len(k) for k in keep(scores, 0.5, 1, 1, everywhere=False)] == [4, 4]
    assert [len(k) for k in keep(scores, 0.5, 1, 1, everywhere=True)] == [1, 8]


def test_a_full_share_keeps_everything_in_order() -> None:
    scores = list(torch.rand(3, 5))
    assert keep(scores, 1.0, 1, 1, everywhere=True) == [list(range(5))] * 3


def test_no_block_is_emptied() -> None:
    """Even where all the mass is elsewhere: a block without a head would be no block."""
    scores = [torch.full((4,), 1e-9), torch.ones(4), torch.ones(4)]
    assert all(keep(scores, 0.25, 1, 1, everywhere=True))


def test_magnitude_and_fisher_read_different_scores() -> None:
    statistics = subject("bert").statistics
    prune = registry.axis_named("prune")
    plans = [prune.decide(statistics, {"heads": 0.5, "neurons": 0.5, "criterion": c}) for c in ("uniform", "magnitude")]
    assert plans[0]["neurons"] != plans[1]["neurons"]


# --- rearrangement and the joint budget ----------------------------------------------------------------------


def cost_of_removing(rows: torch.Tensor, units: list[int]) -> float:
    removed = [i for i in range(rows.shape[1]) if i not in units]
    return float(rows[:, removed].double().sum(1).square().sum())


@pytest.mark.parametrize("seed", range(8))
def test_rearranging_keeps_as_many_units_and_never_costs_more(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(40, 10, generator=generator) @ torch.randn(10, 10, generator=generator)
    units = sorted(rows.square().sum(0).argsort(descending=True)[:5].tolist())
    after = rearrange(rows, units)
    assert len(after) == 5 and after == sorted(set(after))
    assert cost_of_removing(rows, after) <= cost_of_removing(rows, units) * (1 + 1e-6)
    best = min(cost_of_removing(rows, list(chosen)) for chosen in itertools.combinations(range(10), 5))
    assert cost_of_removing(rows, after) <= 3 * best + 1e-9


def test_of_two_units_that_do_the_same_one_stays() -> None:
    """One by one they are the cheapest, together the dearest."""
    generator = torch.Generator().manual_seed(0)
    twin = 0.9 * torch.randn(200, 1, generator=generator)
    rows = torch.cat([twin, twin, torch.randn(200, 2, generator=generator)], dim=1)
    assert sorted(rows.square().sum(0).argsort()[:2].tolist()) == [0, 1]
    after = rearrange(rows, [2, 3])
    assert len({0, 1} & set(after)) == 1


@pytest.mark.parametrize("case", ["bert", "llama", "qwen2"])
@pytest.mark.parametrize("flops", [0.25, 0.5, 0.75])
def test_a_joint_budget_is_kept_and_nearly_used(case: str, flops: float) -> None:
    original = subject(case)
    shape = original.statistics.shape
    shares = share_out(original.statistics, flops, 1.0, 1.0)
    heads, neurons = (sum(getattr(layer, unit) for layer in shape.layers) for unit in ("heads", "neurons"))
    queries = shape.head_dim * shape.group
    gates = 3 if case in ("llama", "qwen2") else 2
    costs = 2 * shape.hidden * (queries + shape.head_dim), gates * shape.hidden
    whole = heads * costs[0] + neurons * costs[1]
    used = shares["heads"] * heads * costs[0] + shares["neurons"] * neurons * costs[1]
    assert used <= flops * whole * (1 + 1e-9)
    assert used > flops * whole - costs[0] - costs[1] or shares["heads"] == shares["neurons"] == 1


def test_a_joint_budget_is_bounded_by_the_shares_and_named_when_nothing_fits() -> None:
    statistics = subject("bert").statistics
    bounded = share_out(statistics, 0.9, 0.5, 0.5)
    assert bounded["heads"] <= 0.5 and bounded["neurons"] <= 0.5
    with pytest.raises(Infeasible, match=r"prune\.flops: no heads and neurons fit into 0\.01"):
        share_out(statistics, 0.01, 1.0, 1.0)


# --- tuning of what remains ---------------------------------------------------------------------------------


def calibration(tokens: int, width: int) -> torch.Tensor:
    """Correlated inputs with a mean, as activations are: (tokens, width)."""
    generator = torch.Generator().manual_seed(3)
    mix = torch.randn(width, width, generator=generator)
    return torch.randn(tokens, width, generator=generator) @ mix + torch.randn(width, generator=generator)


@pytest.mark.parametrize("bias", [True, False])
def test_tuned_outputs_err_less_than_untuned_on_the_calibration_data(bias: bool) -> None:
    torch.manual_seed(0)
    x, units = calibration(200, 12), [0, 2, 3, 7, 8, 11]
    before, after = nn.Linear(12, 5, bias=bias), nn.Linear(6, 5, bias=bias)
    compensate(after, before, units, x.T @ x / len(x), x.mean(0))
    plain = nn.functional.linear(x[:, units], before.weight[:, units], before.bias)
    untuned, tuned = ((before(x) - y).square().mean() for y in (plain, after(x[:, units])))
    assert tuned < 0.9 * untuned


def test_tuning_comes_near_the_least_squares_solution() -> None:
    torch.manual_seed(0)
    x, units = calibration(400, 10), [1, 2, 4, 5, 9]
    before, after = nn.Linear(10, 4), nn.Linear(5, 4)
    compensate(after, before, units, x.T @ x / len(x), x.mean(0))
    design = torch.cat([x[:, units], torch.ones(len(x), 1)], dim=1).double()
    best = torch.linalg.lstsq(design, before(x).double().detach()).solution
    floor = (design @ best - before(x)).square().mean()
    reached = (after(x[:, units]) - before(x)).square().mean()
    assert floor <= reached + 1e-9 and reached < 1.1 * floor


def test_removed_inputs_that_never_vary_cost_nothing() -> None:
    """Their contribution is a constant, and the bias takes it."""
    x = calibration(100, 6)
    x[:, 4:] = torch.tensor([3.0, -2.0])
    before, after = nn.Linear(6, 3), nn.Linear(4, 3)
    compensate(after, before, [0, 1, 2, 3], x.T @ x / len(x), x.mean(0))
    torch.testing.assert_close(after(x[:, :4]), before(x), atol=1e-3, rtol=1e-3)


def test_tuning_brings_the_logits_nearer_to_the_teacher_than_none() -> None:
    original = subject("bert", "mean")
    errors = {}
    for tuning in ("none", "least-squares"):
        model, _ = built(original, Step("prune", {"neurons": 0.5, "tuning": tuning}))
        errors[tuning] = float((logits(model, original.batch) - original.logits).square().mean())
    assert errors["least-squares"] < errors["none"]
