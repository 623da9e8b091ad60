"""A head of numbers is trained on standardised outputs, and gives them in the data's unit before and after."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from spaces.base import TaskModel, load_base
from spaces.standardised import last_linear, standardised

INPUTS = {"input_ids": torch.tensor([[2, 5, 7, 3], [2, 6, 8, 3]]), "attention_mask": torch.ones(2, 4, dtype=torch.long)}


@pytest.fixture
def model(tiny_bert: Path) -> TaskModel:
    return load_base(tiny_bert, "tiny", "main", "mean", ["LABEL_0"], {}, "regression")[0].eval()


def test_a_trained_model_gives_the_same_inside_and_after(model: TaskModel) -> None:
    before = model(**INPUTS)
    layer = last_linear(model)
    assert layer is not None and layer.out_features == 1
    weight = layer.weight.detach().clone()
    with standardised(model, 300.0, 50.0, fresh=False):
        torch.testing.assert_close(model(**INPUTS), before, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(layer.weight.detach(), weight / 50)
    torch.testing.assert_close(model(**INPUTS), before, rtol=1e-4, atol=1e-3)


def test_a_fresh_head_starts_around_the_mean_in_the_datas_unit(model: TaskModel) -> None:
    with standardised(model, 300.0, 50.0, fresh=True):
        inside = model(**INPUTS).detach()
    assert float(inside.min()) > 100 and float(inside.max()) < 500
    torch.testing.assert_close(model(**INPUTS), inside, rtol=1e-4, atol=1e-3)


def test_a_layer_without_a_bias_keeps_its_mean(model: TaskModel) -> None:
    layer = nn.Linear(32, 1, bias=False)
    model.classifier = layer
    before = model(**INPUTS)
    with standardised(model, 300.0, 50.0, fresh=False):
        torch.testing.assert_close(model(**INPUTS), before, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(model(**INPUTS), before, rtol=1e-4, atol=1e-3)
