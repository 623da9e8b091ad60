"""Causal language models as task models: log-likelihoods, ties, and what the axes do to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from spaces import build
from spaces.base import WEIGHTS, Base, load_base, write_folder
from spaces.heads import Causal, TaskModel
from spaces.knob import Settings
from spaces.losses import LIKELIHOOD_LOSSES
from spaces.recipe import Step
from spaces.registry import runtime_named
from spaces.runtime import Context
from spaces.statistics import Statistics
from spaces.statistics_pass import collect

_DECODER = {"hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 128, "max_position_embeddings": 32}
_DECODER |= {"num_attention_heads": 4, "num_key_value_heads": 2}
SIZES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2"), _DECODER),
    "qwen3": {**_DECODER, "head_dim": 16},
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_inner": 128, "n_positions": 32},
}
TIES = [(family, True) for family in SIZES] + [("llama", False)]


def saved(folder: Path, family: str, tied: bool) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family, vocab_size=40, tie_word_embeddings=tied, **special, **SIZES[family])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=TIES, ids=lambda one: f"{one[0]}-{'tied' if one[1] else 'untied'}")
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TaskModel, Base, Path]:
    folder = saved(tmp_path_factory.mktemp("causal"), *request.param)
    model, base = load_base(folder, "tiny", "main", "causal", (), {"pad": 0})
    return model.eval(), base, folder


def inputs() -> dict[str, Tensor]:
    """Two rows, the second padded at its right."""
    ids = torch.randint(3, 40, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.fixture(scope="module")
def statistics(opened: tuple[TaskModel, Base, Path]) -> Statistics:
    targets = torch.tensor([1, 3])
    return collect(opened[0], [(inputs(), targets)] * 2, LIKELIHOOD_LOSSES.loss, LIKELIHOOD_LOSSES.divergence)


def test_likelihoods_are_those_of_transformers_loss(opened: tuple[TaskModel, Base, Path]) -> None:
    from transformers import AutoModelForCausalLM

    model, _, folder = opened
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        ours = model(**inputs())
        assert ours.dtype == torch.float32 and ours.shape == (2, 12)
        assert not ours[:, 0].any() and not ours[1, 7:].any()
        for row, length in ((0, 12), (1, 7)):
            ids = inputs()["input_ids"][row : row + 1, :length]
            wanted = theirs(input_ids=ids, labels=ids).loss
            torch.testing.assert_close(-ours[row].sum() / (length - 1), wanted, atol=1e-5, rtol=1e-5)


def test_the_loss_counts_tokens_from_the_target_on() -> None:
    likelihoods = -torch.arange(12.0).reshape(2, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    loss = LIKELIHOOD_LOSSES.loss(likelihoods, torch.tensor([4, 0]), mask)
    assert loss.item() == pytest.approx((4 + 5 + 7 + 8 + 9) / 5)


def test_a_divergence_is_the_rise_of_the_log_perplexity_and_no_difference_is_none() -> None:
    likelihoods = -torch.rand(2, 6, generator=torch.Generator().manual_seed(0))
    likelihoods[:, 0] = 0
    mask = torch.ones(2, 6, dtype=torch.long)
    assert LIKELIHOOD_LOSSES.divergence(likelihoods, likelihoods, mask).item() == 0
    worse = torch.where(likelihoods < 0, likelihoods - 0.5, 0.0)
    assert LIKELIHOOD_LOSSES.divergence(likelihoods, worse, mask).item() == pytest.approx(2 * 0.5)
    assert LIKELIHOOD_LOSSES.soft_loss(worse, likelihoods, mask, 2.0).item() == pytest.approx(0.5**2 / 2)


def test_tied_weights_are_saved_once(opened: tuple[TaskModel, Base, Path], tmp_path: Path) -> None:
    model, base, _ = opened
    assert isinstance(model, Causal)
    write_folder(tmp_path, model, base, {})
    vocabularies = [name for name, tensor in load_file(tmp_path / WEIGHTS).items() if tensor.shape == (40, 64)]
    assert len(vocabularies) == (1 if model.tied else 2)
    again = build.load_model(tmp_path)
    assert again.tied == model.tied
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs()), model(**inputs()))


CUTS: dict[str, tuple[str, Settings]] = {
    "depth": ("distill", {"layers": 2}),
    "hidden": ("distill", {"width": 0.5}),
    "heads": ("prune", {"heads": 0.5}),
    "neurons": ("prune", {"neurons": 0.5}),
    "rank": ("low_rank", {"rank": 0.5}),
}


@pytest.mark.parametrize("cut", CUTS)
def test_what_is_cut_keeps_its_tie_and_loads_again(
    opened: tuple[TaskModel, Base, Path], statistics: Statistics, cut: str, tmp_path: Path
) -> None:
    model, base, _ = opened
    name, settings = CUTS[cut]
    plans = build.decide([Step(name, settings)], statistics)
    smaller = build.build(model, plans, statistics).eval()
    count = sum(weight.numel() for weight in smaller.parameters())
    assert count < sum(weight.numel() for weight in model.parameters())
    assert smaller.tied == model.tied
    write_folder(tmp_path, smaller, base, plans)
    again = build.load_model(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs()), smaller(**inputs()))
    assert sum(weight.numel() for weight in again.parameters()) == count


def test_the_first_and_the_last_block_are_kept(statistics: Statistics) -> None:
    importance = [float(one) for one in statistics.stacked("importance")]
    assert [one == torch.inf for one in importance] == [True, False, True]
    assert build.decide((Step("distill", {"layers": 2}),), statistics)["distill"]["blocks"] == [0, 2]


def test_factors_of_a_tied_table_are_refused(opened: tuple[TaskModel, Base, Path], statistics: Statistics) -> None:
    from spaces.errors import Infeasible

    model = opened[0]
    plans = build.decide([Step("low_rank", {"embeddings": 0.5})], statistics)
    if model.tied:
        with pytest.raises(Infeasible, match="token table is also its output matrix"):
            build.build(model, plans, statistics)
    else:
        build.build(model, plans, statistics)


def test_onnx_gives_the_likelihoods_of_eager(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model, base = load_base(saved(tmp_path / "model", "llama", True), "tiny", "main", "causal", (), {"pad": 0})
    write_folder(tmp_path / "stored", model, base, {})
    batch = {name: tensor.numpy() for name, tensor in inputs().items()}
    context = Context(device="cpu", threads=1)
    eager, onnx = (
        runtime_named(name).open(tmp_path / "stored", {"precision": "fp32"}, context)(batch)["log_likelihood"]
        for name in ("eager", "onnx")
    )
    assert abs(eager - onnx).max() < 1e-4
