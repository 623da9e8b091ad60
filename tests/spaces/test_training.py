"""Losses against their formulas, and the laws of the training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from models import built, logits, student, subject, tiny, weights
from torch import Tensor, nn
from torch.nn import functional

from spaces.base import TaskModel
from spaces.early_stopping import Stopping
from spaces.recipe import Step
from spaces.training import Diverged, Training, TrainingBatch, train

QUICK = Training(epochs=1.0, batch=4, learning_rate=1e-3, head_learning_rate=1e-2)


def task_loss(labels: Tensor):  # type: ignore[no-untyped-def]
    def loss(model: TaskModel, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        return functional.cross_entropy(model(**inputs), labels[rows])

    return loss


# --- the loop -----------------------------------------------------------------------------------------------


def trained(training: Training, case: str = "bert") -> dict[str, Tensor]:
    model, batches, labels = student(case)
    train(model, lambda _: batches, task_loss(labels), training, "cpu")
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
    four, row_order, progress = [*batches, *batches], [], []

    def epoch(number: int) -> Sequence[TrainingBatch]:
        return four if number % 2 == 0 else four[::-1]

    def loss(model: TaskModel, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        row_order.append(rows)
        return task_loss(labels)(model, inputs, rows)

    train(model, epoch, loss, replace(QUICK, epochs=epochs), "cpu", progress.append)
    wanted = [rows for number in range(3) for _, rows in epoch(number)][:expected]
    assert len(row_order) == expected and all(torch.equal(a, b) for a, b in zip(row_order, wanted, strict=True))
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
    train(model, lambda _: batches, task_loss(labels), replace(QUICK, epochs=15), "cpu")
    assert total() < 0.7 * before


def test_compressed_models_train_too() -> None:
    original = subject("bert")
    steps = (Step("distill", {"layers": 2}), Step("prune", {"heads": 0.5}), Step("low_rank", {"rank": 0.5}))
    model, _ = built(original, *steps)
    before = weights(model)
    _, batches, labels = student()
    train(model, lambda _: batches, task_loss(labels), QUICK, "cpu")
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
        train(model, lambda _: batches, loss, QUICK, "cpu")


def test_weights_that_are_no_numbers_at_the_end_are_an_error() -> None:
    """The loss of the last step was finite, and its gradient was not."""
    model, batches, labels = student()

    def loss(model: TaskModel, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        return (task_loss(labels)(model, inputs, rows) * 0).sqrt()

    with pytest.raises(Diverged, match="weights became infinite or no numbers by step 1 of 1"):
        train(model, lambda _: batches[:1], loss, QUICK, "cpu")


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


# --- precision and dropout ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "capable"), [(True, True), (True, False), (False, True)])
def test_products_are_bf16_where_the_cpu_has_it_and_weights_and_losses_never_are(
    wanted: bool, capable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": capable}, raising=False)
    model, batches, labels = student()
    products: set[torch.dtype] = set()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, args, output: products.add(output.dtype))

    def loss(model: TaskModel, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        output = model(**inputs).float()
        assert (output @ output.T).dtype == torch.float32
        return functional.cross_entropy(output, labels[rows])

    train(model, lambda _: batches, loss, replace(QUICK, bf16=wanted), "cpu")
    assert products == {torch.bfloat16 if wanted and capable else torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model(**batches[0][0])
    assert torch.float32 in products, "after the training the model computes in fp32 again"


def test_without_dropout_the_seed_does_not_matter() -> None:
    one, other = (trained(replace(QUICK, dropout=False, seed=seed)) for seed in (1, 2))
    assert all(torch.equal(one[n], other[n]) for n in one)


def test_without_dropout_there_is_none_after_an_evaluation_either() -> None:
    model, batches, labels = student()
    modes: list[bool] = []

    def loss(model: TaskModel, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        modes.append(model.training)
        return task_loss(labels)(model, inputs, rows)

    stopping = Stopping(lambda _: 1.0, 9, each=0.5)
    train(model, lambda _: batches, loss, replace(QUICK, epochs=2, dropout=False), "cpu", stopping=stopping)
    assert modes == [False] * 4


# --- early stopping -----------------------------------------------------------------------------------------


def test_training_ends_when_nothing_gets_better_and_keeps_the_best() -> None:
    model, batches, labels = student()
    losses = iter([3.0, 1.0, 2.0, 1.5, 0.1])
    snapshots: list[dict[str, Tensor]] = []

    def held_out(now: TaskModel) -> float:
        assert not now.training
        snapshots.append(weights(now))
        return next(losses)

    steps: list[float] = []
    train(
        model,
        lambda _: batches,
        task_loss(labels),
        replace(QUICK, epochs=10),
        "cpu",
        steps.append,
        Stopping(held_out, patience=2, each=1.0),
    )
    assert len(steps) == 4 * len(batches) and len(snapshots) == 4
    assert all(torch.equal(t, snapshots[1][n]) for n, t in weights(model).items())
    assert any(not torch.equal(snapshots[1][n], snapshots[3][n]) for n in snapshots[1])


def test_the_last_weights_are_looked_at_too() -> None:
    model, batches, labels = student()
    looked: list[int] = []
    steps: list[float] = []

    def held_out(_: TaskModel) -> float:
        looked.append(len(steps))
        return -float(len(looked))

    train(
        model,
        lambda _: [*batches, *batches],
        task_loss(labels),
        replace(QUICK, epochs=1.25),
        "cpu",
        steps.append,
        Stopping(held_out, patience=1, each=0.5),
    )
    assert looked == [2, 4, 5]


def test_an_epoch_without_batches_is_an_error() -> None:
    model, _, labels = student()
    with pytest.raises(ValueError, match="no batches"):
        train(model, lambda _: [], task_loss(labels), QUICK, "cpu")
