"""The size of an embedding: the first principal axes of the teacher's embeddings, before the normalisation."""

from __future__ import annotations

import pytest
import torch
from models import LENGTHS, batch_of, built, logits, shape_after, subject, tiny
from torch.nn import functional

from spaces import registry
from spaces.axes.embedding import principal
from spaces.errors import Infeasible
from spaces.losses import EMBEDDING_LOSSES, embedding_soft_loss
from spaces.recipe import Step
from spaces.statistics import EMBEDDING
from spaces.statistics_pass import collect

AXIS = registry.axis_named("embedding")


def test_the_moment_is_that_of_unit_embeddings() -> None:
    original = subject("bert", "embedding")
    rows = torch.cat([logits(original.model, batch_of(original.base, lengths, i)) for i, lengths in enumerate(LENGTHS)])
    unit = functional.normalize(rows, dim=-1)
    torch.testing.assert_close(original.statistics.tensors[EMBEDDING], unit.T @ unit / len(unit), atol=1e-5, rtol=1e-4)
    assert original.statistics.shape.embedding == 64


@pytest.mark.parametrize("size", [1, 5, 40])
def test_a_smaller_embedding_is_the_teachers_on_its_first_principal_axes(size: int) -> None:
    original = subject("bert", "embedding")
    model, _ = built(original, Step("embedding", {"size": size}))
    _, _, axes = torch.linalg.svd(_many(original.model, original.base))
    batch = original.batch
    wanted = functional.normalize(logits(original.model, batch) @ axes[:size].T, dim=-1)
    embeddings = logits(model, batch)
    assert embeddings.shape == (4, size)
    # (The sign of an axis is free, and with it that of a number; cosines are not.)
    torch.testing.assert_close(embeddings @ embeddings.T, wanted @ wanted.T, atol=1e-3, rtol=1e-3)


def _many(model: object, base: object) -> torch.Tensor:
    """Unit embeddings of the rows that the statistics are of."""
    rows = [logits(model, batch_of(base, lengths, i)) for i, lengths in enumerate(LENGTHS)]  # type: ignore[arg-type]
    return functional.normalize(torch.cat(rows), dim=-1)


def test_what_is_lost_is_the_share_of_the_axes_that_go() -> None:
    original = subject("bert", "embedding")
    unit = _many(original.model, original.base).double()
    shares = torch.linalg.eigvalsh(original.statistics.tensors[EMBEDDING].double()).flip(0)
    for size in (1, 2, 4):
        axes = principal(original.statistics, size).double()
        torch.testing.assert_close(axes @ axes.T, torch.eye(size, dtype=torch.float64), atol=1e-5, rtol=0)
        left = (unit - unit @ axes.T @ axes).square().sum(1).mean()
        torch.testing.assert_close(left, shares[size:].sum(), atol=1e-5, rtol=1e-4)


def test_a_fresh_student_gives_what_recovery_asks_of_it() -> None:
    original = subject("bert", "embedding")
    model, _ = built(original, Step("embedding", {"size": 6}))
    taught = logits(original.model, original.batch) @ principal(original.statistics, 6).T
    loss = embedding_soft_loss(logits(model, original.batch), taught, original.batch["attention_mask"], 1.0)
    assert float(loss) == pytest.approx(0.0, abs=1e-5)


def test_a_narrower_student_keeps_the_size_of_its_embedding() -> None:
    original = subject("bert", "embedding")
    model, plans = built(original, Step("embedding", {"size": 6}), Step("distill", {"width": 0.5}))
    assert logits(model, original.batch).shape == (4, 6)
    assert model.get_submodule("pooled.dense.0").weight.shape == (6, 32)
    assert shape_after(plans, original.statistics).embedding == 6


def test_a_size_that_the_embedding_does_not_have_is_infeasible() -> None:
    with pytest.raises(Infeasible, match=r"embedding.size must be in \[1, 64\], got 65"):
        AXIS.decide(subject("bert", "embedding").statistics, {"size": 65})


def test_a_model_without_an_embedding_has_no_such_knob() -> None:
    assert AXIS.knobs(subject("bert", "mean").statistics.shape) == ()
    [knob] = AXIS.knobs(subject("bert", "embedding").statistics.shape)
    assert knob.opt_in and knob.off == 64


def test_embeddings_of_any_length_count_alike() -> None:
    model, base = tiny("bert", "embedding")
    model.pooled.pooling = type(model.pooled.pooling)(normalise=False)  # type: ignore[union-attr,operator]
    losses = EMBEDDING_LOSSES
    batches = [(batch_of(base, lengths, i), torch.zeros(len(lengths))) for i, lengths in enumerate(LENGTHS)]
    statistics = collect(model, batches, losses.loss, losses.divergence)
    torch.testing.assert_close(
        statistics.tensors[EMBEDDING], subject("bert", "embedding").statistics.tensors[EMBEDDING], atol=1e-5, rtol=1e-4
    )
