"""The losses of heads against their definitions, and against transformers' own."""

from __future__ import annotations

import math

import pytest
import torch
from models import batch_of, tiny

from spaces import losses
from spaces.heads import HEADS, head_named

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def spans(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(seed))


def test_the_loss_of_a_span_is_that_of_transformers_where_nothing_is_padded() -> None:
    from transformers import BertConfig, BertForQuestionAnswering

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForQuestionAnswering(BertConfig(vocab_size=20, **sizes)).eval()
    ids, targets = torch.randint(1, 20, (3, 7)), torch.tensor([[1, 2], [0, 0], [4, 6]])
    output = model(input_ids=ids, start_positions=targets[:, 0], end_positions=targets[:, 1])
    logits = torch.stack([output.start_logits, output.end_logits], -1)
    torch.testing.assert_close(losses.span_loss(logits, targets, torch.ones_like(ids)), output.loss)


def test_what_stands_in_padding_changes_no_loss_of_a_span() -> None:
    targets = torch.tensor([[1, 4], [0, 2]])
    noisy = torch.where(MASK[..., None].bool(), spans(), spans() + 50)
    assert torch.equal(losses.span_loss(noisy, targets, MASK), losses.span_loss(spans(), targets, MASK))
    taught = spans(1)
    ours, theirs = (losses.span_soft_loss(one, taught, MASK, 2.0) for one in (noisy, spans()))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(losses.span_certainty(noisy, MASK), losses.span_certainty(spans(), MASK))


def test_the_soft_loss_of_a_span_is_the_mean_divergence_of_start_and_end() -> None:
    ours, theirs, total = spans(), spans(1), 0.0
    for row, length in enumerate((5, 3)):
        for side in (0, 1):
            q, p = (torch.softmax(one[row, :length, side] / 2.0, 0).double() for one in (ours, theirs))
            total += float((p * (p / q).log()).sum())
    assert float(losses.span_soft_loss(ours, theirs, MASK, 2.0)) == pytest.approx(4 * total / 4, rel=1e-4)
    assert float(losses.span_divergence(ours, ours, MASK)) == pytest.approx(0, abs=1e-6)


def test_embeddings_are_compared_by_direction_and_by_their_pairs() -> None:
    ours = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert float(losses.embedding_soft_loss(3 * ours, ours, MASK, 2.0)) == pytest.approx(0, abs=1e-6)
    assert float(losses.embedding_soft_loss(-ours, ours, MASK, 2.0)) == pytest.approx(2, abs=1e-5), "pairs are equal"
    narrow = torch.linalg.qr(torch.randn(8, 8))[0]
    wide = torch.cat([ours @ narrow, torch.zeros(4, 2)], -1)
    assert float(losses.embedding_soft_loss(ours, wide, MASK, 2.0)) == pytest.approx(0, abs=1e-5), "of another size"
    assert float(losses.embedding_divergence(ours, -ours, MASK)) == pytest.approx(8, abs=1e-4)


def test_the_gradients_of_a_random_projection_have_the_second_moment_of_a_squared_error() -> None:
    weight = torch.tensor([1.0, -2.0], requires_grad=True)
    torch.manual_seed(0)
    squares = []
    for _ in range(4000):
        loss = losses.embedding_loss((weight * torch.tensor([3.0, 1.0]))[None], torch.zeros(1), MASK)
        (gradient,) = torch.autograd.grad(loss, weight)
        squares.append(gradient.square())
    assert torch.stack(squares).mean(0).tolist() == pytest.approx([9.0, 1.0], rel=0.1)


@pytest.mark.parametrize("head", [head.name for head in HEADS if head.name != "embedding"])
def test_a_head_gives_what_it_says(head: str) -> None:
    model, base = tiny("bert", head)
    output = model(**batch_of(base))
    rows, length = batch_of(base)["input_ids"].shape
    assert output.shape[: 1 + base.per_token] == ((rows, length) if base.per_token else (rows,))
    assert base.output == head_named(head).output
    readers = dict(model.named_modules())
    assert all(readers[path].in_features == 64 for path in model.hidden_readers())
    assert math.isfinite(float(output.detach().sum()))
