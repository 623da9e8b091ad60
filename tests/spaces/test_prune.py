"""Pruning: what is removed, and that removing is the same as silencing."""

from __future__ import annotations

import itertools

import pytest
import torch
from models import built, logits, masked, subject
from torch import nn

import spaces
from spaces import slicing
from spaces.axes.prune import compensate, keep
from spaces.recipe import Step


@pytest.mark.parametrize("case", ["bert", "distilbert", "electra", "llama", "mpnet", "qwen2"])
@pytest.mark.parametrize("criterion", ["fisher", "uniform", "magnitude"])
def test_an_untuned_pruned_model_equals_the_masked_one(case: str, criterion: str) -> None:
    seen = subject(case, "native")
    shape = seen.statistics.shape
    share = {"heads": 0.5} if shape.prunable_heads else {}
    model, plans = built(seen, Step("prune", {**share, "neurons": 0.5, "criterion": criterion, "tuning": "none"}))
    plan = plans["prune"]

    def removed(block: int) -> tuple[list[int], list[int]]:
        heads, neurons = (set(slicing.indices_of(plan[unit][block])) for unit in ("heads", "neurons"))
        layer = shape.layers[block]
        return sorted(set(range(layer.heads)) - heads), sorted(set(range(layer.neurons)) - neurons)

    assert any(any(removed(i)) for i in range(shape.depth))
    expected = masked(seen.model, seen.batch, removed)
    torch.testing.assert_close(logits(model, seen.batch), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_what_competes_everywhere_loses_the_least_mass_its_budget_allows(seed: int) -> None:
    scores = [s.abs() for s in torch.randn(2, 4, generator=torch.Generator().manual_seed(seed))]
    for share in (0.25, 0.5, 0.75):
        kept = keep(scores, share, at_least=1, multiple=1, everywhere=True)
        count = sum(map(len, kept))
        assert all(kept) and abs(count - share * 8) <= sum(len(k) == 1 for k in kept)
        lost = sum(float(s.sum() - s[k].sum()) for s, k in zip(scores, kept, strict=True))
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
        for score, kept in zip(scores, keep(scores, share, 16, 16, everywhere=everywhere), strict=True):
            removed = sorted(set(range(64)) - set(kept))
            assert kept == sorted(set(kept)) and len(kept) >= 16 and len(kept) % 16 == 0
            assert not removed or score[kept].min() >= score[removed].max()


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
    prune = spaces.axis("prune")
    plans = [prune.decide(statistics, {"heads": 0.5, "neurons": 0.5, "criterion": c}) for c in ("uniform", "magnitude")]
    assert plans[0]["neurons"] != plans[1]["neurons"]


# --- tuning of what remains ---------------------------------------------------------------------------------


def calibration(tokens: int, width: int) -> torch.Tensor:
    """Correlated inputs with a mean, as activations are: (tokens, width)."""
    generator = torch.Generator().manual_seed(3)
    mix = torch.randn(width, width, generator=generator)
    return torch.randn(tokens, width, generator=generator) @ mix + torch.randn(width, generator=generator)


@pytest.mark.parametrize("bias", [True, False])
def test_tuned_outputs_err_less_than_untuned_on_the_calibration_data(bias: bool) -> None:
    torch.manual_seed(0)
    x, kept = calibration(200, 12), [0, 2, 3, 7, 8, 11]
    before, after = nn.Linear(12, 5, bias=bias), nn.Linear(6, 5, bias=bias)
    compensate(after, before, kept, x.T @ x / len(x), x.mean(0))
    plain = nn.functional.linear(x[:, kept], before.weight[:, kept], before.bias)
    untuned, tuned = ((before(x) - y).square().mean() for y in (plain, after(x[:, kept])))
    assert tuned < 0.9 * untuned


def test_tuning_comes_near_the_least_squares_solution() -> None:
    torch.manual_seed(0)
    x, kept = calibration(400, 10), [1, 2, 4, 5, 9]
    before, after = nn.Linear(10, 4), nn.Linear(5, 4)
    compensate(after, before, kept, x.T @ x / len(x), x.mean(0))
    design = torch.cat([x[:, kept], torch.ones(len(x), 1)], dim=1).double()
    best = torch.linalg.lstsq(design, before(x).double().detach()).solution
    floor = (design @ best - before(x)).square().mean()
    reached = (after(x[:, kept]) - before(x)).square().mean()
    assert floor <= reached + 1e-9 and reached < 1.1 * floor


def test_removed_inputs_that_never_vary_cost_nothing() -> None:
    """Their contribution is a constant, and the bias takes it."""
    x = calibration(100, 6)
    x[:, 4:] = torch.tensor([3.0, -2.0])
    before, after = nn.Linear(6, 3), nn.Linear(4, 3)
    compensate(after, before, [0, 1, 2, 3], x.T @ x / len(x), x.mean(0))
    torch.testing.assert_close(after(x[:, :4]), before(x), atol=1e-3, rtol=1e-3)


def test_tuning_brings_the_logits_nearer_to_the_teacher_than_none() -> None:
    seen = subject("bert", "mean")
    errors = {}
    for tuning in ("none", "least-squares"):
        model, _ = built(seen, Step("prune", {"neurons": 0.5, "tuning": tuning}))
        errors[tuning] = float((logits(model, seen.batch) - seen.logits).square().mean())
    assert errors["least-squares"] < errors["none"]
