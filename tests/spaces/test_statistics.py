"""What the teacher's data say, against loops that compute the same thing the plain way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import hooked, labelled, logits, subject, tiny, weights
from torch import Tensor
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from spaces.anatomy import anatomy_of
from spaces.losses import class_divergence, class_loss
from spaces.statistics import INPUT_OF, Statistics
from spaces.statistics_pass import collect

CASES = pytest.mark.parametrize("case", ["bert", "distilbert", "llama", "gpt2", "modernbert", "deberta-v2"])
READ_AT = {"attention_in": "query", "attention_out": "output", "ffn_in": "up", "ffn_out": "down"}


def rows_of(case: str) -> list[tuple[dict[str, Tensor], Tensor]]:
    """The same data, one unpadded row at a time."""
    rows = []
    for inputs, labels in labelled(subject(case).base):
        for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
            rows.append(({n: t[row : row + 1, :length] for n, t in inputs.items()}, labels[row : row + 1]))
    return rows


@CASES
def test_fisher_masks_are_mean_squares_of_per_row_gradients(case: str) -> None:
    """One row at a time, one scalar mask a unit, by autograd."""
    original = subject(case)
    anatomy = anatomy_of(original.model.backbone)
    unit = anatomy.head_dim * anatomy.shape.group
    for role, name, size in (("output", "heads", unit), ("down", "neurons", 1)):
        for block in range(len(anatomy.blocks)):
            linear = anatomy.linear(block, role)
            total = torch.zeros(linear.in_features // size)
            for inputs, label in rows_of(case):
                mask = torch.ones(linear.in_features // size, requires_grad=True)
                handle = linear.register_forward_pre_hook(
                    lambda _m, args, mask=mask, size=size: (args[0] * mask.repeat_interleave(size),)
                )
                try:
                    loss = functional.cross_entropy(original.model(**inputs), label)
                finally:
                    handle.remove()
                total += torch.autograd.grad(loss, mask)[0].square()
            expected = total / len(rows_of(case))
            torch.testing.assert_close(original.statistics.block(block, name), expected, atol=1e-7, rtol=1e-3)


def test_a_mask_gradient_is_the_slope_of_the_loss() -> None:
    """Finite differences in float64, so that autograd is not checked by autograd alone."""
    double = tiny("bert")[0].double()
    linear = anatomy_of(double.backbone).linear(1, "down")

    def loss(scale: float, inputs: dict[str, Tensor], label: Tensor) -> float:
        mask = torch.ones(linear.in_features, dtype=torch.float64)
        mask[5] = scale
        handle = linear.register_forward_pre_hook(lambda _m, args: (args[0] * mask,))
        try:
            return float(functional.cross_entropy(logits(double, inputs), label))
        finally:
            handle.remove()

    rows = rows_of("bert")
    slopes = [(loss(1 + 1e-5, *row) - loss(1 - 1e-5, *row)) / 2e-5 for row in rows]
    expected = sum(s**2 for s in slopes) / len(rows)
    assert float(subject("bert").statistics.block(1, "neurons")[5]) == pytest.approx(expected, rel=1e-3)


@CASES
def test_moments_and_means_are_over_real_tokens_only(case: str) -> None:
    original = subject(case)
    anatomy = anatomy_of(original.model.backbone)
    roles = anatomy.roles()
    for place, role in READ_AT.items():
        for block in range(len(anatomy.blocks)):
            tokens: list[Tensor] = []
            calls: list[Tensor] = []
            linear = anatomy.linear(block, role if role in roles else f"{role}.0")
            handle = linear.register_forward_pre_hook(lambda _m, args, calls=calls: calls.append(args[0][0]))
            try:
                for inputs, _ in rows_of(case):
                    calls.clear()
                    logits(original.model, inputs)
                    tokens.extend(calls[0])  # in DeBERTa positions come behind the tokens
            finally:
                handle.remove()
            x = torch.stack(tokens)
            moment = sum(torch.outer(t, t) for t in x) / len(x)
            torch.testing.assert_close(original.statistics.block(block, f"input.{place}"), moment, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(
                original.statistics.block(block, f"mean.{place}"), x.mean(0), atol=1e-5, rtol=1e-4
            )


@CASES
def test_the_energy_is_the_mean_square_of_what_the_blocks_read(case: str) -> None:
    statistics = subject(case).statistics
    diagonals = [statistics.block(i, "input.attention_in").diagonal() for i in range(statistics.shape.depth)]
    torch.testing.assert_close(
        statistics.tensors["hidden.energy"], torch.stack(diagonals).mean(0), atol=1e-6, rtol=1e-5
    )


@CASES
def test_importance_is_the_divergence_when_the_block_is_deleted(case: str) -> None:
    original = subject(case)
    rows = rows_of(case)
    for gone in range(original.statistics.shape.depth):
        model, _ = tiny(case)
        anatomy_of(model.backbone).set_depth([i for i in range(original.statistics.shape.depth) if i != gone])
        total = 0.0
        for inputs, _ in rows:
            p, q = (logits(m, inputs)[0].softmax(-1) for m in (original.model, model))
            total += float((p * (p.log() - q.log())).sum())
        importance = float(original.statistics.block(gone, "importance"))
        assert importance == pytest.approx(total / len(rows), rel=1e-3, abs=1e-7)


@CASES
def test_output_gradients_are_mean_squares_over_tokens(case: str) -> None:
    """Rows count one by one: a token's gradient is that of its own row's loss."""
    original, (model, _) = subject(case), tiny(case)
    anatomy = anatomy_of(model.backbone)
    for role in ("query", "output", "down"):
        linear, squares = anatomy.linear(1, role), []
        for inputs, label in rows_of(case):
            outputs: list[Tensor] = []
            handle = linear.register_forward_hook(lambda _m, _a, out, outputs=outputs: outputs.append(out))
            try:
                loss = functional.cross_entropy(model(**inputs), label)
            finally:
                handle.remove()
            squares.append(torch.autograd.grad(loss, outputs[0])[0][0].square())
        expected = torch.cat(squares).mean(0)
        torch.testing.assert_close(original.statistics.block(1, f"gradient.{role}"), expected, atol=1e-8, rtol=1e-3)


@CASES
def test_the_spectrum_is_that_of_the_matrix_between_its_inputs_and_the_loss(case: str) -> None:
    """Singular values of diag(g)^1/2 W S: rows weighted by the gradient g, inputs by a root S of their spread."""
    original = subject(case)
    anatomy = anatomy_of(original.model.backbone)
    for role in anatomy.roles():
        linear = anatomy.linear(1, role)
        moment, mean = (original.statistics.block(1, f"{kind}.{INPUT_OF[role]}").double() for kind in ("input", "mean"))
        spread = moment if linear.bias is None else moment - torch.outer(mean, mean)
        values, vectors = torch.linalg.eigh(spread)
        root = vectors * values.clamp(min=0).sqrt()
        gradient = original.statistics.block(1, f"gradient.{role}").double()
        expected = torch.linalg.svdvals(gradient.sqrt()[:, None] * linear.weight.detach().double() @ root)
        spectrum = original.statistics.block(1, f"spectrum.{role}").double()
        torch.testing.assert_close(spectrum, expected, atol=2e-3 * float(expected.max()), rtol=1e-3)


@CASES
def test_the_norm_of_a_unit_is_that_of_all_weights_that_go_with_it(case: str) -> None:
    original = subject(case)
    anatomy, shape = anatomy_of(original.model.backbone), original.statistics.shape
    for block in range(shape.depth):
        linear = {role: anatomy.linear(block, role).weight.detach() for role in anatomy.roles()}
        for head in range(shape.layers[block].heads):
            wide = slice(head * shape.head_dim * shape.group, (head + 1) * shape.head_dim * shape.group)
            narrow = slice(head * shape.head_dim, (head + 1) * shape.head_dim)
            parts = [linear["query"][wide], linear["key"][narrow], linear["value"][narrow], linear["output"][:, wide]]
            expected = torch.cat([p.flatten() for p in parts]).norm()
            torch.testing.assert_close(original.statistics.block(block, "heads_norm")[head], expected)
        ups = [w for role, w in linear.items() if role.startswith("up")]
        for neuron in (0, 7):
            parts = [*(w[neuron] for w in ups), linear["down"][:, neuron]]
            torch.testing.assert_close(
                original.statistics.block(block, "neurons_norm")[neuron], torch.cat(parts).norm()
            )


def test_collecting_leaves_the_model_as_it_was(registered: list[RemovableHandle]) -> None:
    model, base = tiny("bert")
    before = weights(model)
    collect(model, labelled(base), class_loss, class_divergence)
    after = weights(model)
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert all(p.grad is None for p in model.parameters())
    assert registered and not any(map(hooked, registered))


def test_how_rows_are_batched_does_not_matter() -> None:
    original = subject("bert")
    statistics = collect(original.model, rows_of("bert"), class_loss, class_divergence)
    assert statistics.tensors.keys() == original.statistics.tensors.keys()
    for name, tensor in statistics.tensors.items():
        if ".spectrum." not in name:  # square roots of rounding errors where the true value is zero
            torch.testing.assert_close(tensor, original.statistics.tensors[name], atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("wanted", [True, False])
def test_whether_weights_want_gradients_does_not_matter(wanted: bool) -> None:
    model, base = tiny("bert")
    model.requires_grad_(wanted)
    statistics = collect(model, labelled(base), class_loss, class_divergence)
    for name, tensor in subject("bert").statistics.tensors.items():
        if ".spectrum." not in name:
            torch.testing.assert_close(statistics.tensors[name], tensor, atol=1e-6, rtol=1e-4, msg=name)


def test_statistics_survive_their_file(tmp_path: Path) -> None:
    statistics = subject("llama", "native").statistics
    statistics.save(tmp_path / "s.safetensors")
    again = Statistics.load(tmp_path / "s.safetensors")
    assert again.shape == statistics.shape
    assert again.tensors.keys() == statistics.tensors.keys()
    assert all(torch.equal(again.tensors[n], t) for n, t in statistics.tensors.items())


def test_progress_ends_at_one_and_no_data_is_an_error() -> None:
    model, base = tiny("bert")
    steps: list[float] = []
    collect(model, labelled(base), class_loss, class_divergence, steps.append)
    assert steps == sorted(steps) and steps[-1] == 1
    with pytest.raises(ValueError, match="at least one batch"):
        collect(model, [], class_loss, class_divergence)


def test_every_matrix_has_a_place() -> None:
    for case in ("bert", "llama"):
        assert set(anatomy_of(subject(case).model.backbone).roles()) <= set(INPUT_OF)
