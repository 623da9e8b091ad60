"""The benchmarks of rounding and of speculation on a tiny model, from weights to promises. Times are not judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from causal import VOCABULARY, stored
from here import Here

from benchmarks import header, language_models, rounding, speculation
from spaces import build, calibration

LENGTH = 32


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(4, VOCABULARY, (8, LENGTH))


def test_a_reordered_model_is_the_same_function_of_other_groups(tmp_path: Path, tokens: np.ndarray) -> None:
    model = build.load_model(stored(tmp_path / "model"))
    ids = torch.from_numpy(tokens)
    with torch.no_grad():
        before = model(ids, torch.ones_like(ids))
        weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
        rounding.reorder(model, seed=0)
        after = model(ids, torch.ones_like(ids))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    matrices = [name for name, weight in weights.items() if weight.ndim > 1]
    assert matrices
    for name in matrices:
        assert not torch.equal(model.get_parameter(name), weights[name])


def test_rounding_is_measured_from_the_weights_to_its_promises(tmp_path: Path, tokens: np.ndarray) -> None:
    folder = stored(tmp_path / "reordered")
    calibration.write(folder, {"input_ids": tokens, "attention_mask": np.ones_like(tokens)})
    figures = rounding.measure(folder, tokens, 1)
    assert list(figures) == list(rounding.PLANS)
    assert figures["fp32"]["lost"] == 0 and all(one["perplexity"] > 1 for one in figures.values())
    assert figures["int4, nearest"]["perplexity"] != figures["int4, gptq"]["perplexity"]
    same, *others = rounding.promises({"reordered": figures, "packaged": figures})
    assert same.value == 1 and same.met and len(others) == 3


def test_speculation_is_measured_from_the_prompts_to_its_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: np.ndarray
) -> None:
    monkeypatch.setattr(speculation, "Remote", Here)
    monkeypatch.setattr(speculation, "DEPLOYMENTS", [d for d in language_models.DEPLOYMENTS if d.name == "onnx fp32"])
    monkeypatch.setattr(speculation, "MOST", 12)
    kinds = {kind: [tokens[:1], tokens[1:2, :20]] for kind in speculation.KINDS}
    figures = speculation.measure(stored(tmp_path / "model"), kinds, frozenset(), 1)
    assert [(one["deployment"], one["kind"]) for one in figures.values()] == [("onnx fp32", kind) for kind in kinds]
    for one in figures.values():
        assert one["same"] == 1 and one["tokens"] == 2 * 11 and 0 <= one["acceptance"] <= 1
        assert one["tokens_a_call"] >= 1 and len(one["speedups"]) == 2
    assert [len(row) for row in speculation.rows_of(figures)] == [len(speculation.COLUMNS)] * len(kinds)
    assert all(isinstance(promise, header.Promise) for promise in speculation.promises(figures))
