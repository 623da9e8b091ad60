"""Losses against their formulas, and the laws of the training loop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from models import built, labelled, logits, subject, tiny, weights
from torch import Tensor, nn
from torch.nn import functional

from spaces.base import TaskModel
from spaces.recipe import Step
from spaces.training import Batch, Distillation, Training, fit, hidden_loss, soft_loss

QUICK = Training(epochs=1.0, batch=4, learning_rate=1e-3, head_learning_rate=1e-2)


def student(case: str = "bert") -> tuple[TaskModel, list[Batch], Tensor]:
    """A model, its batches as (inputs, rows), and the labels of all rows."""
    model, base = tiny(case)
    batches, labels = [], []
    for inputs, known in labelled(base):
        start = sum(map(len, labels))
        batches.append((inputs, torch.arange(start, start + len(known))))
        labels.append(known)
    return model, batches, torch.cat(labels)


def task_loss(labels: Tensor):  # type: ignore[no-untyped-def]
    def loss(model: TaskModel, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        return functional.cross_entropy(model(**inputs), labels[rows])

    return loss


# --- losses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_the_soft_loss_is_the_divergence_times_the_squared_temperature(temperature: float) -> None:
    ours, theirs = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for a, b in zip(ours, theirs, strict=True):
        q, p = (torch.tensor([math.exp(v / temperature) for v in row.tolist()]).double() for row in (a, b))
        q, p = q / q.sum(), p / p.sum()
        total += float((p * (p / q).log()).sum())
    assert float(soft_loss(ours, theirs, temperature)) == pytest.approx(temperature**2 * total / 5, rel=1e-4)


def test_the_soft_loss_is_zero_only_at_the_teacher() -> None:
    logits_ = torch.randn(4, 3)
    assert float(soft_loss(logits_, logits_ + 5, 2.0)) == pytest.approx(0, abs=1e-6)  # softmax ignores a shift
    assert float(soft_loss(logits_, logits_.flip(1), 2.0)) > 0


def test_hot_soft_labels_become_the_squared_distance_of_centred_logits() -> None:
    """Hinton et al. 2015, equation 4: as T grows, T^2 KL tends to |u - v|^2 / 2C for centred logits."""
    u, v = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1)).double()
    centred = (u - u.mean(1, keepdim=True)) - (v - v.mean(1, keepdim=True))
    expected = float(centred.square().sum(1).mean() / (2 * 4))
    assert float(soft_loss(u, v, 500.0)) == pytest.approx(expected, rel=0.02)


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


@pytest.mark.parametrize("given", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.3, 1.0, 0.5)])
def test_distillation_is_the_weighted_sum_of_its_parts(given: tuple[float, float, float]) -> None:
    model, batches, labels = student()
    inputs, rows = batches[0]
    taught = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(3))
    hidden = torch.randn(*inputs["input_ids"].shape, 64, generator=torch.Generator().manual_seed(4))
    made = Distillation(labels, lambda *_: (taught, hidden), functional.cross_entropy, 2.0, *given)
    ours = model(**inputs)
    last = model.backbone(**inputs).last_hidden_state
    parts = (
        functional.cross_entropy(ours, labels[rows]),
        soft_loss(ours, taught, 2.0),
        hidden_loss(last, hidden, inputs["attention_mask"]),
    )
    expected = sum(w * part for w, part in zip(given, parts, strict=True))
    torch.testing.assert_close(made(model, inputs, rows), expected)
    assert not model.backbone._forward_hooks


def test_the_teacher_itself_has_no_soft_or_hidden_loss() -> None:
    model, batches, labels = student()

    def teacher(rows: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return model(**inputs), model.backbone(**inputs).last_hidden_state

    made = Distillation(labels, teacher, functional.cross_entropy, 2.0, 0.0, 1.0, 1.0)
    assert float(made(model, *batches[0]).detach()) == pytest.approx(0, abs=1e-6)


def test_a_narrow_student_is_compared_in_the_coordinates_it_kept() -> None:
    seen = subject("bert")
    model, plans = built(seen, Step("distill", {"width": 0.5}))
    columns = torch.arange(32)
    inputs, rows = seen.batch, torch.arange(4)
    hidden = torch.randn(*inputs["input_ids"].shape, 64)
    labels = torch.zeros(4, dtype=torch.int64)
    made = Distillation(
        labels, lambda *_: (torch.zeros(4, 3), hidden), functional.cross_entropy, 2.0, 0.0, 0.0, 1.0, columns
    )
    narrow = model.backbone(**inputs).last_hidden_state
    expected = hidden_loss(narrow, hidden[..., :32], inputs["attention_mask"])
    torch.testing.assert_close(made(model, inputs, rows), expected)
    assert "hidden" in plans["distill"]


# --- the loop -----------------------------------------------------------------------------------------------


def trained(training: Training, case: str = "bert") -> dict[str, Tensor]:
    model, batches, labels = student(case)
    fit(model, lambda _: batches, task_loss(labels), training, "cpu")
    assert not model.training and all(p.requires_grad for p in model.parameters())
    return weights(model)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    """Dropout is on, so the seed matters."""
    one, two, other = (trained(replace(QUICK, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert any(not torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("case", ["bert", "llama"])
def test_frozen_embeddings_do_not_move_and_the_rest_does(case: str) -> None:
    before = weights(tiny(case)[0])
    tables = {f"{name}.weight" for name, module in tiny(case)[0].named_modules() if isinstance(module, nn.Embedding)}
    for frozen in (True, False):
        after = trained(replace(QUICK, freeze_embeddings=frozen), case)
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert bool(moved & tables) is not frozen
        assert {"classifier.weight", "classifier.bias"} <= moved
        assert any("mlp.down" in n or "output.dense" in n for n in moved)


@pytest.mark.parametrize(("epochs", "expected"), [(0.1, 1), (0.5, 2), (1.0, 4), (1.5, 6), (2.25, 9)])
def test_a_fraction_of_an_epoch_takes_its_share_of_the_steps(epochs: float, expected: int) -> None:
    model, batches, labels = student()
    four, seen, progress = [*batches, *batches], [], []

    def epoch(number: int) -> Sequence[Batch]:
        return four if number % 2 == 0 else four[::-1]

    def loss(model: TaskModel, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        seen.append(rows)
        return task_loss(labels)(model, inputs, rows)

    fit(model, epoch, loss, replace(QUICK, epochs=epochs), "cpu", progress.append)
    wanted = [rows for number in range(3) for _, rows in epoch(number)][:expected]
    assert len(seen) == expected and all(torch.equal(a, b) for a, b in zip(seen, wanted, strict=True))
    assert progress == pytest.approx([(i + 1) / expected for i in range(expected)])


def test_no_epochs_train_nothing() -> None:
    before = weights(tiny("bert")[0])
    after = trained(replace(QUICK, epochs=0))
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_training_lowers_the_loss() -> None:
    model, batches, labels = student()

    def total() -> float:
        return sum(float(functional.cross_entropy(logits(model, inputs), labels[rows])) for inputs, rows in batches)

    before = total()
    fit(model, lambda _: batches, task_loss(labels), replace(QUICK, epochs=15), "cpu")
    assert total() < 0.7 * before


def test_compressed_models_train_too() -> None:
    seen = subject("bert")
    steps = (Step("distill", {"layers": 2}), Step("prune", {"heads": 0.5}), Step("low_rank", {"rank": 0.5}))
    model, _ = built(seen, *steps)
    before = weights(model)
    _, batches, labels = student()
    fit(model, lambda _: batches, task_loss(labels), QUICK, "cpu")
    assert all(
        not torch.equal(before[n], t) for n, t in weights(model).items() if n.endswith((".a.weight", ".b.weight"))
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_an_error_that_says_when(value: float) -> None:
    model, batches, labels = student()
    steps = iter([1.0, value])

    def loss(model: TaskModel, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        return task_loss(labels)(model, inputs, rows) * next(steps)

    with pytest.raises(FloatingPointError, match=f"{value} at step 1 of 2"):
        fit(model, lambda _: batches, loss, QUICK, "cpu")


def test_the_rate_rises_then_falls_to_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[list[float]] = []
    plain = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *args: object) -> object:
        rates.append([group["lr"] for group in self.param_groups])
        return plain(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    trained(replace(QUICK, epochs=10, warmup=0.2))
    backbone, head = [r[0] for r in rates], [r[-1] for r in rates]
    top = backbone.index(max(backbone))
    assert len(rates) == 20 and 2 <= top <= 4
    assert backbone[: top + 1] == sorted(backbone[: top + 1]) and backbone[top:] == sorted(backbone[top:], reverse=True)
    assert max(backbone) <= QUICK.learning_rate and backbone[-1] > 0
    assert head == pytest.approx([r * 10 for r in backbone])
