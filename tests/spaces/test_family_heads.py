"""Families with every head that transformers has for them: a tiny random model each loads and answers as there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import pytest
import torch
from torch import Tensor

from spaces.anatomy import anatomy_of
from spaces.base import load_base, write_folder
from spaces.build import load_model
from spaces.errors import Infeasible

FAMILIES = (
    *("bert", "roberta", "distilbert", "electra", "mpnet", "albert", "deberta-v2", "modernbert"),
    *("gpt2", "llama"),  # with a pad token
)
HEADS = {
    "native": "AutoModelForSequenceClassification",
    "span": "AutoModelForQuestionAnswering",
    "embedding": "AutoModel",
}
LABELS = ("negative", "neutral", "positive")
PAD = 1
LENGTHS = (7, 4)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Two rows, the second padded at its right."""
    ids = torch.randint(5, 25, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return {"input_ids": torch.where(mask.bool(), ids, PAD), "attention_mask": mask}


def saved(folder: Path, family: str, head: str) -> Any:
    """A random model with the head, as transformers saves it."""
    import transformers

    torch.manual_seed(0)
    labels = {"num_labels": len(LABELS)} if head == "native" else {"num_labels": 2} if head == "span" else {}
    config = families.config_of(family, **labels, pad_token_id=PAD)
    model = getattr(transformers, HEADS[head]).from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def theirs(model: Any, head: str, batch: dict[str, Tensor]) -> Tensor:
    """What transformers gives: of a bare model the mean over real tokens, at length 1."""
    output = model(**batch)
    if head == "native":
        return output.logits  # type: ignore[no-any-return]
    if head == "span":
        return torch.stack([output.start_logits, output.end_logits], -1)
    mask = batch["attention_mask"][..., None]
    mean = (output.last_hidden_state * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_loads_with_each_head_and_answers_as_in_transformers(
    family: str, head: str, tmp_path: Path, batch: dict[str, Tensor]
) -> None:
    expected = theirs(saved(tmp_path / "theirs", family, head), head, batch)
    labels = LABELS if head == "native" else ()
    model, base = load_base(tmp_path / "theirs", "tiny", "main", head, labels, frame={"pad": PAD})
    assert (base.head, base.config["model_type"]) == (head, families.KINDS[family].model_type)
    real = batch["attention_mask"].bool() if base.per_token else slice(None)
    with torch.no_grad():
        output = model.eval()(**batch)
    torch.testing.assert_close(output[real], expected[real], atol=1e-5, rtol=1e-4)
    write_folder(tmp_path / "ours", model, base, {})
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path / "ours")(**batch), output)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_matrices_of_a_family_are_known_whatever_its_head_but_for_shared_layers(
    family: str, head: str, tmp_path: Path
) -> None:
    saved(tmp_path, family, head)
    model, _ = load_base(tmp_path, "tiny", "main", head, LABELS if head == "native" else (), frame={"pad": PAD})
    if family == "albert":
        with pytest.raises(Infeasible, match="the layout of model family 'albert' is not known"):
            anatomy_of(model.backbone)
    else:
        assert anatomy_of(model.backbone).shape.depth == 2
