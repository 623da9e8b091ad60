"""Sparse matrices: which weights stay, that nothing else comes back, and what their files take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import arrays_of, built, logits, student, subject
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spaces import build, registry
from spaces.anatomy import anatomy_of
from spaces.base import WEIGHTS, ModelError, write_folder
from spaces.errors import Infeasible
from spaces.recipe import Step
from spaces.runtime import Context
from spaces.sparse_storage import Sparse, TwoOfFour, best_of_four, best_of_row, expand, packed, sparse_modules, unpacked
from spaces.statistics import INPUT_OF
from spaces.training import Training, train

HALF = Step("sparse", {"weights": 0.5})
GROUPED = Step("sparse", {"weights": 0.5, "pattern": "2-of-4"})


def filled(rows: int = 6, columns: int = 11, per_row: int = 4) -> tuple[Sparse, Tensor]:
    """A sparse matrix with random values, and the same written out."""
    sparse = Sparse(columns, rows, per_row, bias=True)
    weight = torch.randn(rows, columns)
    places = best_of_row(torch.rand(rows, columns), per_row)
    sparse.take(weight, places)
    return sparse, weight * places


# --- the module ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (7, 16)])
def test_a_mask_takes_a_bit_a_place_and_comes_back(shape: tuple[int, int]) -> None:
    mask = torch.rand(shape) < 0.5
    bits = packed(mask)
    assert bits.dtype == torch.uint8 and bits.numel() == -(-mask.numel() // 8)
    assert torch.equal(unpacked(bits, *shape), mask)


def test_a_sparse_matrix_is_the_matrix_with_its_zeros() -> None:
    sparse, weight = filled()
    x = torch.randn(2, 3, 11)
    assert torch.equal(sparse.weight, weight)
    expected = nn.functional.linear(x, weight, sparse.bias)
    assert torch.equal(sparse(x), expected) and torch.equal(sparse.dense()(x), expected)


def test_a_state_that_is_loaded_brings_its_places_along() -> None:
    sparse, weight = filled()
    other = Sparse(11, 6, 4, bias=True)
    assert "columns" not in sparse.state_dict()
    other.load_state_dict(sparse.state_dict())
    assert torch.equal(other.weight, weight)


def test_training_moves_what_was_kept_and_nothing_else() -> None:
    sparse, before = filled()
    optimizer = torch.optim.AdamW(sparse.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(5):
        sparse(torch.randn(4, 11)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(sparse.weight == 0, before == 0)
    assert bool((sparse.weight != before)[before != 0].all())


@pytest.mark.parametrize("per_row", [0, 12])
def test_a_row_cannot_keep_nothing_nor_more_than_it_has(per_row: int) -> None:
    with pytest.raises(ValueError, match=rf"per_row must be in \[1, 11\], got {per_row}"):
        Sparse(11, 6, per_row, bias=False)


# --- which stay ---------------------------------------------------------------------------------------------


def test_of_a_row_the_highest_stay_and_of_four_the_two_highest() -> None:
    scores = torch.tensor([[1.0, 4.0, 3.0, 2.0, 5.0, 5.0, 5.0, 0.0]])
    assert best_of_row(scores, 4).int().tolist() == [[0, 1, 0, 0, 1, 1, 1, 0]]
    assert best_of_four(scores).int().tolist() == [[0, 1, 1, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize("step", [HALF, GROUPED], ids=["any", "2-of-4"])
def test_no_weight_that_stays_counts_less_than_one_that_goes(step: Step) -> None:
    original = subject()
    model, _ = built(original, step)
    before, after = anatomy_of(original.model.backbone), anatomy_of(model.backbone)
    for index, block in enumerate(after.blocks):
        for role, path in after.roles().items():
            sparse = block.get_submodule(path)
            assert isinstance(sparse, Sparse)
            squares = original.statistics.block(index, f"input.{INPUT_OF[role]}").diagonal()
            scores = before.linear(index, role).weight.detach().abs() * squares.sqrt()
            groups = (scores.shape[0], -1, 4) if isinstance(sparse, TwoOfFour) else (scores.shape[0], 1, -1)
            stays = (sparse.weight != 0).view(groups)
            least = scores.view(groups).masked_fill(~stays, torch.inf).amin(-1)
            most = scores.view(groups).masked_fill(stays, 0.0).amax(-1)
            assert bool((most <= least).all()), (index, role)
            assert bool((stays.sum(-1) == stays.shape[-1] // 2).all())


def test_the_inputs_weigh_in() -> None:
    """With inputs of one size the criterion is the magnitude; that of a real block differs."""
    original = subject()
    model, _ = built(original, HALF)
    sparse = anatomy_of(model.backbone).blocks[0].get_submodule(anatomy_of(model.backbone).roles()["down"])
    weight = anatomy_of(original.model.backbone).linear(0, "down").weight.detach()
    assert isinstance(sparse, Sparse)
    assert not torch.equal(sparse.weight != 0, best_of_row(weight.abs(), sparse.per_row))


def test_the_second_factor_of_a_pair_is_judged_by_what_the_first_hands_on() -> None:
    original = subject()
    pair, _ = built(original, Step("low_rank", {"rank": 0.5, "allocation": "uniform"}))
    model, _ = built(original, Step("low_rank", {"rank": 0.5, "allocation": "uniform"}), HALF)
    roles = anatomy_of(pair.backbone).roles()
    whole = anatomy_of(pair.backbone).blocks[1].get_submodule(roles["query"])
    sparse = anatomy_of(model.backbone).blocks[1].get_submodule(f"{roles['query']}.b")
    moment = original.statistics.block(1, "input.attention_in").double()
    inside = whole.a.weight.detach().double() @ moment @ whole.a.weight.detach().double().T
    scores = whole.b.weight.detach().abs().double() * inside.diagonal().sqrt()
    assert isinstance(sparse, Sparse)
    assert torch.equal(sparse.weight != 0, best_of_row(scores, sparse.per_row))


# --- recovery, files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [HALF, GROUPED], ids=["any", "2-of-4"])
def test_recovery_leaves_every_zero_zero(step: Step, tmp_path: Path) -> None:
    original = subject()
    model, plans = built(original, step)
    places = {path: module.weight != 0 for path, module in sparse_modules(model).items()}
    before = {path: module.values.detach().clone() for path, module in sparse_modules(model).items()}
    _, batches, labels = student()
    training = Training(epochs=2, batch=4, learning_rate=1e-2, head_learning_rate=1e-2)
    train(model, lambda _: batches, lambda m, i, r: nn.functional.cross_entropy(m(**i), labels[r]), training, "cpu")
    write_folder(tmp_path, model, original.base, plans)
    stored = build.load_model(tmp_path)
    assert len(places) == 18
    for path, where in places.items():
        assert not torch.equal(sparse_modules(model)[path].values, before[path])
        assert not bool(stored.get_submodule(path).weight[~where].any())


def test_the_file_holds_what_stays_and_a_bit_for_each_place(tmp_path: Path) -> None:
    original = subject()
    model, plans = built(original, Step("sparse", {"weights": 0.25}))
    write_folder(tmp_path / "whole", original.model, original.base, {})
    write_folder(tmp_path / "sparse", model, original.base, plans)
    whole, less = ((tmp_path / name / WEIGHTS).stat().st_size for name in ("whole", "sparse"))
    places = sum(m.in_features * m.out_features for m in sparse_modules(model).values())
    saved = places * 4 * 0.75 - places / 8
    assert whole - less == pytest.approx(saved, abs=8000)  # the names of the tensors take some bytes too
    again = build.as_stored(tmp_path / "sparse")
    write_folder(tmp_path / "again", again, original.base, plans)
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "sparse" / WEIGHTS).read_bytes()


def test_a_mask_that_is_not_the_models_is_refused(tmp_path: Path) -> None:
    original = subject()
    model, plans = built(original, HALF)
    write_folder(tmp_path, model, original.base, plans)
    tensors = load_file(tmp_path / WEIGHTS)
    tensors[next(name for name in tensors if name.endswith(".mask"))].fill_(255)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match="do not fit the model"):
        build.load_model(tmp_path)


def test_runtimes_get_plain_matrices(tmp_path: Path) -> None:
    original = subject()
    model, plans = built(original, HALF)
    write_folder(tmp_path, model, original.base, plans)
    assert sparse_modules(build.as_stored(tmp_path)) and not sparse_modules(build.load_model(tmp_path))
    output = build.open_predict(tmp_path, "eager", {"precision": "fp32"}, Context(threads=1))(
        arrays_of(original.base, (5, 3))
    )
    assert output["logits"].shape == (2, 3)
    assert registry.runtime_named("eager").files({"precision": "fp32"}) == (WEIGHTS,), (
        "so its size is that of this file"
    )


def test_expanding_changes_no_logits() -> None:
    original = subject()
    model, _ = built(original, HALF)
    before = logits(model, original.batch)
    expand(model)
    assert not sparse_modules(model) and torch.equal(logits(model, original.batch), before)


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": 0.0}, "sparse.weights must be .*got 0.0"),
        ({"weights": 1.5}, "sparse.weights must be .*got 1.5"),
        ({"weights": 0.5, "pattern": "3-of-4"}, "sparse.pattern must be one of any, 2-of-4, got '3-of-4'"),
        ({"weights": 0.25, "pattern": "2-of-4"}, "sparse.pattern must be any unless sparse.weights is 0.5"),
    ],
)
def test_what_cannot_be_kept_is_infeasible(settings: dict[str, float | str], message: str) -> None:
    with pytest.raises(Infeasible, match=message):
        registry.axis_named("sparse").decide(subject().statistics, settings)


def test_two_of_four_is_nothing_without_half_of_the_weights() -> None:
    shape = subject().statistics.shape
    plain = build.steps_of({"sparse.weights": 0.25}, shape)
    assert build.steps_of({"sparse.weights": 0.25, "sparse.pattern": "2-of-4"}, shape) == plain
    assert build.steps_of({"sparse.weights": 0.5, "sparse.pattern": "2-of-4"}, shape) == (GROUPED,)


def test_matrices_that_no_kernel_takes_stay_whole_and_a_model_of_them_alone_is_infeasible() -> None:
    original = subject()
    model, _ = built(original, Step("prune", {"neurons": 0.5}), GROUPED)
    roles = anatomy_of(model.backbone).roles()
    for block in anatomy_of(model.backbone).blocks:
        down = block.get_submodule(roles["down"])
        assert isinstance(down, nn.Linear) is bool(down.in_features % 64)
        assert isinstance(block.get_submodule(roles["query"]), TwoOfFour)
    with pytest.raises(Infeasible, match="no matrix has outputs and inputs in multiples of 32 and 64"):
        built(original, Step("low_rank", {"rank": 0.5, "allocation": "uniform"}), GROUPED)
