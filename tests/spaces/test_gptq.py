"""Integers by error feedback: the same as by its definition, and less lost at a matrix's outputs than by rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from causal import causal, stored
from torch import Tensor, nn

from spaces import build, calibration
from spaces.errors import Infeasible
from spaces.fused import take_apart
from spaces.generation.calibrated import calibrated
from spaces.generation.program import CacheSettings, open_program
from spaces.gptq import DAMPING, groups_by_outputs
from spaces.heads import Causal
from spaces.runtime import Context
from spaces.runtimes import onnx
from spaces.weight_groups import Groups, groups_to_integers, integers_to_weights

GPTQ = {"precision": "int4", "rounding": "gptq"}


def correlated(inputs: int, seed: int = 0) -> Tensor:
    """E[x x^T] of inputs that lie near few directions."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(400, 6, generator=rng) @ torch.randn(6, inputs, generator=rng)
    x += 0.1 * torch.randn(400, inputs, generator=rng)
    return x.T @ x / 400


def lost(weight: Tensor, groups: Groups, moment: Tensor) -> float:
    gap = weight - torch.from_numpy(integers_to_weights(groups, weight.shape[1]))
    return float(((gap @ moment) * gap).sum())


def by_definition(weight: Tensor, moment: Tensor, groups: Groups) -> np.ndarray:
    """The numbers (out, in) where what each column loses is made up for by least squares over all that follow."""
    _, scales, zeros = (torch.from_numpy(part).double() for part in groups)
    left, numbers = weight.double().clone(), torch.zeros(weight.shape)
    damped = moment.double() + DAMPING * moment.diagonal().double().mean() * torch.eye(len(moment))
    for j in range(weight.shape[1]):
        scale, zero = scales[:, j // 32], zeros[:, j // 32]
        numbers[:, j] = (left[:, j] / scale + zero).round().clamp(0, 15)
        gap = left[:, j] - scale * (numbers[:, j] - zero)
        after = damped[j + 1 :, j + 1 :]
        left[:, j + 1 :] += gap[:, None] * torch.linalg.solve(after, damped[j + 1 :, j])
    return numbers.numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("inputs", [32, 96, 50])
def test_numbers_are_those_of_least_squares_over_what_follows(inputs: int) -> None:
    weight, moment = torch.randn(7, inputs, generator=torch.Generator().manual_seed(1)), correlated(inputs)
    groups = groups_by_outputs(weight, moment, 4)
    numbers = groups[0].reshape(7, -1)[:, :inputs]
    assert (numbers == by_definition(weight, moment, groups)).mean() > 0.99  # the others are ties in float32
    assert not integers_to_weights(groups, groups[0].shape[1] * 32)[:, inputs:].any(), "a last group ends in zeros"


@pytest.mark.parametrize("bits", [4, 8])
def test_less_is_lost_at_the_outputs_than_by_rounding(bits: int) -> None:
    weight, moment = torch.randn(40, 160, generator=torch.Generator().manual_seed(2)), correlated(160)
    rounded, fed_back = groups_to_integers(weight.numpy(), bits), groups_by_outputs(weight, moment, bits)
    assert lost(weight, fed_back, moment) < 0.3 * lost(weight, rounded, moment)
    alike = lost(weight, groups_by_outputs(weight, torch.eye(160), bits), torch.eye(160))
    assert alike < 1.1 * lost(weight, rounded, torch.eye(160)), "inputs that say nothing"
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in zip(rounded, fed_back, strict=True))


def test_zeros_and_inputs_that_never_come_give_numbers() -> None:
    weight, moment = torch.randn(5, 64), correlated(64)
    weight[:, 10] = weight[2] = 0
    moment[:, 20] = moment[20] = 0
    weights = integers_to_weights(groups_by_outputs(weight, moment, 4), 64)
    assert np.isfinite(weights).all() and not weights[2].any()
    with pytest.raises(ValueError, match="4 or 8 bits, got 3"):
        groups_by_outputs(weight, moment, 3)


def rows(count: int = 12) -> list[dict[str, np.ndarray]]:
    ids = np.random.default_rng(3).integers(4, 97, size=(count, 1, 40))
    return [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in ids]


def model_of(name: str) -> Causal:
    import copy

    model = copy.deepcopy(causal(name))
    take_apart(model.base_model)  # type: ignore[arg-type]
    with torch.no_grad():  # as of real tokens, inputs lie near few directions
        table = model.get_input_embeddings().weight  # type: ignore[operator]
        table.copy_(table[:, :6] @ correlated(32)[:6] / 6)
    return Causal(model)


@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral", "gpt2"])
def test_a_model_loses_less_at_its_outputs(name: str) -> None:
    """Of blocks with masks of their own kind (Qwen2) too; at the last hidden states, on the calibration rows."""
    whole, rounded, fed_back = (model_of(name) for _ in range(3))
    groups = calibrated(fed_back, rows(), 4, 32)
    for path, module in rounded.named_modules():
        if isinstance(module, nn.Linear) and path in groups:
            near = groups_to_integers(module.weight.detach().numpy(), 4)
            module.weight = nn.Parameter(torch.from_numpy(integers_to_weights(near, module.in_features)))
    assert len(groups) == len([m for m in fed_back.backbone.modules() if isinstance(m, nn.Linear)])

    @torch.no_grad()
    def hidden(model: Causal) -> Tensor:
        ids = torch.from_numpy(np.concatenate([row["input_ids"] for row in rows()]))
        return model.backbone(input_ids=ids).last_hidden_state  # type: ignore[no-any-return]

    expected = hidden(whole)
    assert (hidden(fed_back) - expected).norm() < 0.9 * (hidden(rounded) - expected).norm()


def test_blocks_and_heads_of_32_bits_stay_as_they_are() -> None:
    model = model_of("llama")
    before = [p.clone() for p in model.model.model.layers[0].parameters()]  # type: ignore[union-attr,operator]
    groups = calibrated(model, rows(2), 4, 32, ["model.model.layers.0"])
    assert groups and all(path.startswith("model.model.layers.1.") for path in groups)
    after = model.model.model.layers[0].parameters()  # type: ignore[union-attr,operator]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_scores_and_generation_have_the_integers_of_one_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a cut model; both are those of a model whose weights are what the integers stand for."""
    monkeypatch.setattr("spaces.generation.onnx_linear.ACCURACY_LEVEL", 1)
    folder, context = stored(tmp_path / "model"), Context(threads=1)
    with pytest.raises(Infeasible, match=r"bits.rounding needs .*calibration.npz"):
        onnx.Onnx().open(folder, GPTQ, context)
    ids = np.concatenate([row["input_ids"] for row in rows()])
    calibration.write(folder, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    model = build.load_model(folder)
    groups = calibrated(model, calibration.read(folder), 4, 4)
    head = model.model.get_output_embeddings()  # type: ignore[operator,union-attr]
    weights = integers_to_weights(groups["model.lm_head"], head.in_features)
    head.weight = nn.Parameter(torch.from_numpy(weights))
    batch = {"input_ids": ids[:2], "attention_mask": np.ones_like(ids[:2])}
    scores = onnx.Onnx().open(folder, GPTQ, context)(batch)["log_likelihood"]
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(array) for name, array in batch.items()})
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-4)
    program = open_program(folder, "onnx", GPTQ, CacheSettings("static", capacity=64), context)
    logits, cache = program.prefill(ids[:2, :-1], np.ones_like(ids[:2, :-1]))
    for predicted, position in ((logits, 39), (program.decode(ids[:2, 39], cache), None)):
        assert np.isfinite(predicted).all()
        if position is not None:
            likely = torch.from_numpy(predicted).log_softmax(-1).gather(-1, torch.from_numpy(ids[:2, position, None]))
            np.testing.assert_allclose(likely[:, 0].numpy(), expected[:, position].numpy(), atol=1e-4)
    assert [p.name for p in (folder / "onnx").iterdir()] == ["int4-gptq.onnx"]


def test_runtimes_without_it_say_so(tmp_path: Path) -> None:
    folder = stored(tmp_path / "model")
    with pytest.raises(Infeasible, match=r"bits.rounding: eager has no int4 by gptq; onnx has"):
        open_program(folder, "eager", GPTQ, CacheSettings(), Context())
