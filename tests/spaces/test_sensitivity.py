"""Sensitivity to rounding: equal to its definition row by row, and it finds what is fragile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models import CASES, LENGTHS, batch_of, built, logits, subject, tiny
from torch import Tensor, nn

from spaces import sensitivity
from spaces.anatomy import anatomy_of
from spaces.base import Base, TaskModel
from spaces.errors import Infeasible
from spaces.losses import class_certainty
from spaces.recipe import Step
from spaces.sparse_storage import expand


def batches(base: Base) -> list[dict[str, Tensor]]:
    return [batch_of(base, lengths, seed) for seed, lengths in enumerate(LENGTHS)]


def by_hand(model: TaskModel, base: Base) -> list[float]:
    """Block scores from one backward pass a row, without padding, the error from two forward passes of a matrix."""
    scores = []
    for block in anatomy_of(model.backbone).blocks:
        score = 0.0
        for linear in [m for m in block.modules() if isinstance(m, nn.Linear)]:
            rounded = nn.functional.linear
            for batch in batches(base):
                for row in range(len(batch["input_ids"])):
                    length = int(batch["attention_mask"][row].sum())
                    tensors: list[Tensor] = []

                    def keep(
                        _: nn.Module, args: tuple[Tensor, ...], out: Tensor, tensors: list[Tensor] = tensors
                    ) -> None:
                        out.retain_grad()
                        tensors.extend((args[0], out))

                    handle = linear.register_forward_hook(keep)
                    out = model(**{n: t[row : row + 1, :length] for n, t in batch.items()})
                    handle.remove()
                    out.softmax(-1).max().log().backward()
                    inputs, outputs, *_ = tensors  # in DeBERTa positions come behind the tokens
                    scale = linear.weight.abs().max(1, keepdim=True).values / 127
                    error = rounded(inputs, torch.round(linear.weight / scale) * scale) - rounded(inputs, linear.weight)
                    assert outputs.grad is not None
                    score += float((outputs.grad * error).detach().square().sum())
        scores.append(score)
    return scores


@pytest.mark.parametrize(
    ("case", "head"), [("bert", "mean"), ("distilbert", "native"), ("llama", "native"), ("deberta-v2", "native")]
)
def test_the_score_is_its_definition_summed_row_by_row_over_real_tokens(case: str, head: str) -> None:
    model, base = tiny(case, head)
    expected = by_hand(model, base)
    scores = sensitivity.measure_sensitivity(model, batches(base), class_certainty)
    paths = {id(module): path for path, module in model.named_modules()}
    assert list(scores) == [paths[id(block)] for block in anatomy_of(model.backbone).blocks]
    assert list(scores.values()) == pytest.approx(expected, rel=1e-3)
    assert min(expected) > 0


@pytest.mark.parametrize("fragile", [0, 1, 2])
def test_a_planted_fragile_matrix_puts_its_block_first(fragile: int) -> None:
    """A value channel made small and its column of the next matrix large: the same function, but the large column
    sets the scale of every row, and rounds the others away."""
    model, base = tiny()
    before = logits(model, batch_of(base))
    anatomy = anatomy_of(model.backbone)
    value, output = anatomy.linear(fragile, "value"), anatomy.linear(fragile, "output")
    with torch.no_grad():
        value.weight[0] /= 200
        value.bias[0] /= 200
        output.weight[:, 0] *= 200
    torch.testing.assert_close(logits(model, batch_of(base)), before, atol=1e-4, rtol=1e-4)
    scores = list(sensitivity.measure_sensitivity(model, batches(base), class_certainty).values())
    others = [s for i, s in enumerate(scores) if i != fragile]
    assert scores[fragile] > 10 * max(others)


def test_both_factors_of_a_low_rank_pair_count() -> None:
    original = subject()
    model, _ = built(original, Step("low_rank", {"rank": 0.5}))
    scores = sensitivity.measure_sensitivity(model, batches(original.base), class_certainty)
    assert list(scores.values()) == pytest.approx(by_hand(*_grown(model, original.base)), rel=1e-3)


def test_sparse_matrices_count_like_the_same_with_their_zeros() -> None:
    original = subject()
    model, _ = built(original, Step("sparse", {"weights": 0.5}))
    scores = sensitivity.measure_sensitivity(model, batches(original.base), class_certainty)
    expand(model)
    assert list(scores.values()) == pytest.approx(
        list(sensitivity.measure_sensitivity(model, batches(original.base), class_certainty).values())
    )
    assert min(scores.values()) > 0


def _grown(model: TaskModel, base: Base) -> tuple[TaskModel, Base]:
    return model.requires_grad_(True), base


def test_the_order_is_kept_in_the_folder(tmp_path: Path) -> None:
    sensitivity.write(tmp_path, {"a.0": 0.5, "a.1": 2.0, "a.2": 1.0})
    assert sensitivity.read(tmp_path) == ["a.1", "a.2", "a.0"]
    assert json.loads((tmp_path / sensitivity.SENSITIVITY_FILE).read_text())["blocks"][0] == {
        "path": "a.1",
        "score": 2.0,
    }


def test_an_unknown_family_has_no_order(tmp_path: Path) -> None:
    model, base = tiny()
    model.backbone.config.model_type = "unheard-of"
    assert "unheard-of" not in CASES
    with pytest.raises(Infeasible, match="unheard-of"):
        sensitivity.measure_sensitivity(model, batches(base), class_certainty)
    with pytest.raises(Infeasible, match=r"sensitivity\.json"):
        sensitivity.read(tmp_path)


@pytest.mark.parametrize("inputs", [64, 50])
def test_rounding_by_group_is_to_15_steps_of_each_group_s_range(inputs: int) -> None:
    weight = torch.randn(5, inputs, generator=torch.Generator().manual_seed(0))
    weight[2, :32] = 0
    error = sensitivity.by_group(weight)
    assert error.shape == weight.shape and not error[2, :32].any()
    for row, lost in zip(weight, error, strict=True):
        for group, gap in zip(row.split(32), lost.split(32), strict=True):
            step = (group.clamp(min=0).max() - group.clamp(max=0).min()) / 15
            torch.testing.assert_close(gap, (group / step.clamp(min=1e-9)).round() * step - group, atol=1e-6, rtol=0)
