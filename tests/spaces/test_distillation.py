"""Losses of distillation against their formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from models import built, hooked, student, subject
from torch import Tensor
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from spaces.base import TaskModel
from spaces.distillation import (
    Distillation,
    Likeliest,
    LossWeights,
    TeacherOutputs,
    capturing,
    hidden_loss,
    likeliest_loss,
    relation_loss,
)
from spaces.losses import class_loss, class_soft_loss
from spaces.recipe import Step

#: Classes have no use for it.
MASK = torch.ones(1, 1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_the_soft_loss_is_the_divergence_times_the_squared_temperature(temperature: float) -> None:
    ours, theirs = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for a, b in zip(ours, theirs, strict=True):
        q, p = (torch.tensor([math.exp(v / temperature) for v in row.tolist()]).double() for row in (a, b))
        q, p = q / q.sum(), p / p.sum()
        total += float((p * (p / q).log()).sum())
    assert float(class_soft_loss(ours, theirs, MASK, temperature)) == pytest.approx(
        temperature**2 * total / 5, rel=1e-4
    )


def test_the_soft_loss_is_zero_only_at_the_teacher() -> None:
    logits_ = torch.randn(4, 3)
    assert float(class_soft_loss(logits_, logits_ + 5, MASK, 2.0)) == pytest.approx(
        0, abs=1e-6
    )  # softmax ignores a shift
    assert float(class_soft_loss(logits_, logits_.flip(1), MASK, 2.0)) > 0


def test_hot_soft_labels_become_the_squared_distance_of_centred_logits() -> None:
    """Hinton et al. 2015, equation 4: as T grows, T^2 KL tends to |u - v|^2 / 2C for centred logits."""
    u, v = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1)).double()
    centred = (u - u.mean(1, keepdim=True)) - (v - v.mean(1, keepdim=True))
    expected = float(centred.square().sum(1).mean() / (2 * 4))
    assert float(class_soft_loss(u, v, MASK, 500.0)) == pytest.approx(expected, rel=0.02)


def test_the_hidden_loss_is_relative_and_over_real_tokens() -> None:
    h, t = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    error = energy = 0.0
    for row in range(3):
        for token in range(int(mask[row].sum())):
            error += float((h[row, token] - t[row, token]).square().sum())
            energy += float(t[row, token].square().sum())
    assert float(hidden_loss(h, t, mask)) == pytest.approx(error / energy, rel=1e-5)
    assert float(hidden_loss(7 * h, 7 * t, mask)) == pytest.approx(error / energy, rel=1e-5)
    assert float(hidden_loss(t, t, mask)) == 0
    noisy = torch.where(mask.bool()[..., None], h, h + 100)
    assert torch.equal(hidden_loss(noisy, t, mask), hidden_loss(h, t, mask))


@pytest.mark.parametrize("loss_weights", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.3, 1.0, 0.5)])
def test_distillation_is_the_weighted_sum_of_its_parts(
    loss_weights: tuple[float, float, float], registered: list[RemovableHandle]
) -> None:
    model, batches, labels = student()
    inputs, rows = batches[0]
    taught = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(3))
    hidden = torch.randn(*inputs["input_ids"].shape, 64, generator=torch.Generator().manual_seed(4))
    distillation = Distillation(
        labels, lambda *_: TeacherOutputs(taught, hidden), class_loss, class_soft_loss, 2.0, LossWeights(*loss_weights)
    )
    ours = model(**inputs)
    last = model.backbone(**inputs).last_hidden_state
    parts = (
        functional.cross_entropy(ours, labels[rows]),
        class_soft_loss(ours, taught, MASK, 2.0),
        hidden_loss(last, hidden, inputs["attention_mask"]),
    )
    expected = sum(w * part for w, part in zip(loss_weights, parts, strict=True))
    torch.testing.assert_close(distillation(model, inputs, rows), expected)
    assert registered and not any(map(hooked, registered))


def test_the_teacher_itself_has_no_soft_or_hidden_loss() -> None:
    model, batches, labels = student()

    def teacher(rows: Tensor, inputs: Mapping[str, Tensor]) -> TeacherOutputs:
        with torch.no_grad():
            return TeacherOutputs(model(**inputs), model.backbone(**inputs).last_hidden_state)

    distillation = Distillation(labels, teacher, class_loss, class_soft_loss, 2.0, LossWeights(0.0, 1.0, 1.0))
    assert float(distillation(model, *batches[0]).detach()) == pytest.approx(0, abs=1e-6)


def test_a_narrow_student_is_compared_in_the_coordinates_it_kept() -> None:
    original = subject("bert")
    model, plans = built(original, Step("distill", {"width": 0.5}))
    columns = torch.arange(32)
    inputs, rows = original.batch, torch.arange(4)
    hidden = torch.randn(*inputs["input_ids"].shape, 64)
    labels = torch.zeros(4, dtype=torch.int64)
    distillation = Distillation(
        labels,
        lambda *_: TeacherOutputs(torch.zeros(4, 3), hidden),
        class_loss,
        class_soft_loss,
        2.0,
        LossWeights(0.0, 0.0, 1.0),
        columns,
    )
    narrow = model.backbone(**inputs).last_hidden_state
    expected = hidden_loss(narrow, hidden[..., :32], inputs["attention_mask"])
    torch.testing.assert_close(distillation(model, inputs, rows), expected)
    assert "hidden" in plans["distill"]


# --- what the teacher has inside ------------------------------------------------------------------------------


def taught_by(model: TaskModel, inputs: Mapping[str, Tensor], blocks: tuple[int, ...] = ()) -> TeacherOutputs:
    with torch.no_grad(), capturing(model, blocks, relations=True) as capture:
        logits = model(**inputs)
    return TeacherOutputs(logits, capture.last, capture.blocks, capture.projections)


@pytest.mark.parametrize("case", ["bert", "distilbert", "llama", "deberta-v2"])
def test_a_student_that_is_the_teacher_has_no_loss_inside(case: str, registered: list[RemovableHandle]) -> None:
    model, batches, labels = student(case)
    inputs, rows = batches[0]
    distillation = Distillation(
        labels,
        lambda _, batch: taught_by(model, batch, (0, 2)),
        class_loss,
        class_soft_loss,
        2.0,
        LossWeights(0.0, 0.0, 0.0, blocks=1.0, relations=1.0),
        mapped={0: 0, 2: 2},
    )
    assert float(distillation(model, inputs, rows).detach()) == pytest.approx(0, abs=1e-5)
    assert registered and not any(map(hooked, registered))


def test_a_shallower_student_is_compared_with_the_blocks_it_came_from() -> None:
    original = subject("bert")
    model, plans = built(original, Step("distill", {"layers": 2}))
    mapped = dict(enumerate(plans["distill"]["blocks"]))
    inputs, rows, labels = original.batch, torch.arange(4), torch.zeros(4, dtype=torch.int64)
    taught = taught_by(original.model, inputs, tuple(mapped.values()))
    distillation = Distillation(
        labels,
        lambda *_: taught,
        class_loss,
        class_soft_loss,
        2.0,
        LossWeights(0.0, 0.0, 0.0, blocks=3.0),
        mapped=mapped,
    )
    mine = taught_by(model, inputs, tuple(mapped)).blocks
    parts = [hidden_loss(mine[a], taught.blocks[b], inputs["attention_mask"]) for a, b in mapped.items()]
    torch.testing.assert_close(distillation(model, inputs, rows), 3 * sum(parts) / len(parts))


def test_the_relation_loss_is_the_mean_divergence_of_real_tokens() -> None:
    """Against a loop, with 4 relation heads of 6 and of 2 coordinates."""
    generator = torch.Generator().manual_seed(5)
    ours, theirs = torch.randn(2, 5, 8, generator=generator), torch.randn(2, 5, 24, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    loss = relation_loss({"query": ours}, {"query": theirs}, mask, 5)
    total, count = 0.0, 0
    for row, length in enumerate(mask.sum(1).tolist()):
        for head in range(4):
            s, t = (x[row, :length, head * w : (head + 1) * w].double() for x, w in ((ours, 2), (theirs, 6)))
            p, q = (torch.softmax(x @ x.T / x.shape[1] ** 0.5, -1) for x in (t, s))
            total += float((p * (p / q).log()).sum())
            count += length
    assert float(loss) == pytest.approx(total / count, rel=1e-5)


def test_padding_does_not_move_the_relation_loss() -> None:
    generator = torch.Generator().manual_seed(6)
    ours, theirs = torch.randn(2, 2, 4, 8, generator=generator)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    before = relation_loss({"key": ours}, {"key": theirs}, mask, 2)
    changed = torch.where(mask.bool()[..., None], ours, ours + 50)
    torch.testing.assert_close(relation_loss({"key": changed}, {"key": theirs}, mask, 2), before)


def test_the_loss_against_the_likeliest_tokens_is_the_divergence_of_the_next_token() -> None:
    generator = torch.Generator().manual_seed(3)
    ours, theirs = torch.randn(2, 3, 6, 20, generator=generator)
    mask = torch.ones(3, 6, dtype=torch.long)
    mask[1, 4:] = 0
    keep = mask[:, 1:].bool()
    a, b = ours.log_softmax(-1)[:, :-1][keep], theirs.log_softmax(-1)[:, :-1][keep]
    whole = float((b.exp() * (b - a)).sum(-1).mean())
    losses = [float(likeliest_loss(ours, Likeliest.of(theirs, count), mask)) for count in (1, 4, 12, 19, 20, 64)]
    assert losses[-2] == losses[-1] == pytest.approx(whole, rel=1e-4)
    assert losses == sorted(losses) and losses[0] > 0, "tokens counted as one never make it larger"
    assert float(likeliest_loss(theirs, Likeliest.of(theirs, 4), mask)) == pytest.approx(0, abs=1e-5)
    padded = ours.clone()
    padded[1, 4:] = 99.0
    assert float(likeliest_loss(padded, Likeliest.of(theirs, 4), mask)) == pytest.approx(losses[1], rel=1e-6)
