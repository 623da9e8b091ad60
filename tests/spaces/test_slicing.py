"""Smaller modules, and indices as text."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from models import subject
from torch import nn

from spaces import slicing
from spaces.slicing import Cut, decode_ranges, encode_ranges


@pytest.mark.parametrize("seed", range(20))
def test_indices_survive_their_text(seed: int) -> None:
    rng = random.Random(seed)
    indices = sorted(rng.sample(range(60), rng.randint(0, 60)))
    assert decode_ranges(encode_ranges(indices)) == indices


@pytest.mark.parametrize(
    ("indices", "text"), [([], ""), ([0], "0"), ([0, 1, 2, 5], "0-2,5"), ([3, 5, 7], "3,5,7"), (range(64), "0-63")]
)
def test_runs_are_spelled_by_their_ends(indices: list[int], text: str) -> None:
    assert encode_ranges(indices) == text and decode_ranges(text) == list(indices)


def small_modules() -> nn.ModuleDict:
    torch.manual_seed(0)
    rms = type(subject("llama").model.backbone.norm)(6, eps=1e-3)
    modules = {
        "biased": nn.Linear(6, 5),
        "plain": nn.Linear(6, 5, bias=False),
        "table": nn.Embedding(9, 6, padding_idx=1),
        "norm": nn.LayerNorm(6, eps=1e-3),
        "rms": rms,
    }
    with torch.no_grad():
        for module in modules.values():
            for parameter in module.parameters():
                parameter.normal_()
    return nn.ModuleDict(modules)


def cut(root: nn.Module, cuts: dict[str, Cut]) -> nn.Module:
    smaller = copy.deepcopy(root)
    slicing.reshape(smaller, cuts)
    slicing.fill(smaller, root, cuts, {})
    return smaller


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_linear_gives_the_kept_rows_where_the_cut_inputs_are_zero(seed: int) -> None:
    rng, root = random.Random(seed), small_modules()
    rows, columns = (sorted(rng.sample(range(n), rng.randint(1, n))) for n in (5, 6))
    smaller = cut(root, {name: Cut(rows=rows, columns=columns) for name in ("biased", "plain")})
    x = torch.zeros(4, 6)
    x[:, columns] = torch.randn(4, len(columns))
    for name in ("biased", "plain"):
        torch.testing.assert_close(smaller[name](x[:, columns]), root[name](x)[:, rows])
        assert (smaller[name].bias is None) == (root[name].bias is None)


def test_tables_and_norms_keep_their_coordinates_and_their_settings() -> None:
    root, indices = small_modules(), [0, 2, 5]
    smaller = cut(root, {"table": Cut(columns=indices), "norm": Cut(rows=indices), "rms": Cut(rows=indices)})
    ids = torch.arange(9)
    torch.testing.assert_close(smaller["table"](ids), root["table"](ids)[:, indices])
    assert smaller["table"].padding_idx == 1
    assert smaller["norm"].eps == 1e-3 and smaller["rms"].variance_epsilon == 1e-3
    for name in ("norm", "rms"):
        torch.testing.assert_close(smaller[name].weight, root[name].weight[indices])
    torch.testing.assert_close(smaller["norm"].bias, root["norm"].bias[indices])


def test_a_cut_of_nothing_is_a_copy_and_the_source_is_untouched() -> None:
    root = small_modules()
    before = {n: t.clone() for n, t in root.state_dict().items()}
    smaller = cut(root, {"biased": Cut(), "plain": Cut(rows=[0]), "table": Cut(), "norm": Cut(rows=range(6))})
    assert torch.equal(smaller["biased"].weight, root["biased"].weight)
    assert smaller["biased"].weight is not root["biased"].weight
    assert all(torch.equal(before[n], t) for n, t in root.state_dict().items())


def test_precision_is_kept() -> None:
    assert cut(small_modules().double(), {"biased": Cut(rows=[1])})["biased"].weight.dtype == torch.float64


def test_renamed_modules_are_read_where_they_were() -> None:
    root = nn.ModuleList([nn.Linear(3, 3) for _ in range(3)])
    smaller = nn.ModuleList([nn.Linear(3, 2)])
    slicing.fill(smaller, root, {"0": Cut(rows=[0, 2])}, {"0": "2"})
    assert torch.equal(smaller[0].weight, root[2].weight[[0, 2]])


def test_what_cannot_be_cut_is_named() -> None:
    with pytest.raises(TypeError, match="Conv1d"):
        slicing.reshape(nn.ModuleDict({"c": nn.Conv1d(1, 1, 1)}), {"c": Cut(rows=[0])})
