"""Every axis on every known architecture, with its own head and with a mean-pooled one."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from models import CASES, LABELS, Subject, built, logits, middling, shape_after, shape_of, subject
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from spaces import build, registry
from spaces.anatomy import anatomy_of
from spaces.base import MeanPooled, TaskModel, has_own_head, load_base, write_folder
from spaces.errors import Infeasible
from spaces.families import FAMILIES, known_model_types
from spaces.fused import take_apart
from spaces.losses import class_divergence, class_loss
from spaces.recipe import DEPLOYED, Step
from spaces.statistics_pass import collect

#: (A classifier has no embedding to cut: `test_axes` does it.)
CUTTING = [a.name for a in registry.axes() if a.name not in (*DEPLOYED, "embedding")]


@pytest.fixture(params=[(case, head) for case in CASES for head in ("mean", "native")], ids="-".join)
def original(request: pytest.FixtureRequest) -> Subject:
    return subject(*request.param)


def test_every_known_model_type_has_a_tiny_model_here() -> None:
    assert {case.model_type for case in CASES.values()} == set(known_model_types())
    assert len(set(known_model_types())) == sum(len(f.model_types) for f in FAMILIES)


def test_the_shape_is_that_of_the_configuration(original: Subject) -> None:
    shape, config = original.statistics.shape, original.model.backbone.config
    groups = getattr(config, "num_key_value_heads", config.num_attention_heads)
    assert (shape.hidden, shape.depth) == (config.hidden_size, config.num_hidden_layers)
    assert {layer.heads for layer in shape.layers} == {groups}
    assert shape.group == config.num_attention_heads // groups
    names = ("hidden_dim", "n_inner", "intermediate_size")
    [neurons] = [getattr(config, name) for name in names if getattr(config, name, None)]
    assert {layer.neurons for layer in shape.layers} == {neurons}
    assert anatomy_of(original.model.backbone).shape == shape


@pytest.mark.parametrize("name", [*CUTTING, "all"])
def test_an_axis_cuts_any_family(original: Subject, name: str, tmp_path: Path) -> None:
    shape = original.statistics.shape
    steps = [Step(n, middling(registry.axis_named(n), shape)) for n in CUTTING if name in (n, "all")]
    model, plans = built(original, *steps)
    assert shape_of(model, shape) == shape_after(plans, original.statistics)
    output = logits(model, original.batch)
    assert bool(output.isfinite().all())
    assert not torch.allclose(output, original.logits, atol=1e-4), "nothing was cut"
    write_folder(tmp_path, model, original.base, plans)
    again = build.load_model(tmp_path)
    assert torch.equal(logits(again, original.batch), output)
    stored = build.as_stored(tmp_path)
    assert sum(p.numel() for p in stored.parameters()) < sum(p.numel() for p in original.model.parameters())


def test_padding_changes_no_row(original: Subject) -> None:
    model, _ = built(original, *(Step(n, middling(registry.axis_named(n), original.statistics.shape)) for n in CUTTING))
    for candidate in (original.model, model):
        together = logits(candidate, original.batch)
        for row, length in enumerate(original.batch["attention_mask"].sum(1).tolist()):
            alone = {name: tensor[row : row + 1, :length] for name, tensor in original.batch.items()}
            torch.testing.assert_close(logits(candidate, alone)[0], together[row], atol=1e-5, rtol=1e-4)


def test_an_off_axis_is_the_identity_in_any_family(original: Subject) -> None:
    plans = {n: registry.axis_named(n).decide(original.statistics, {}) for n in CUTTING}
    model = build.build(original.model, plans, original.statistics)
    torch.testing.assert_close(logits(model, original.batch), original.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_width_and_heads_of_a_family_can_be_cut_but_for_those_that_something_shares(case: str) -> None:
    shape = anatomy_of(subject(case).model.backbone).shape
    assert shape.prunable_hidden == (case != "electra-projected")
    assert shape.prunable_heads == (case != "mpnet")


def test_heads_that_share_a_bias_cannot_differ_by_block() -> None:
    original = subject("mpnet")
    assert "heads" not in {k.name for k in registry.axis_named("prune").knobs(original.statistics.shape)}
    with pytest.raises(Infeasible, match=r"prune\.heads"):
        registry.axis_named("prune").decide(original.statistics, {"heads": 0.5})


def test_projected_embeddings_have_no_width_knob() -> None:
    original = subject("electra-projected")
    assert "width" not in {k.name for k in registry.axis_named("distill").knobs(original.statistics.shape)}
    with pytest.raises(Infeasible, match=r"distill\.width"):
        registry.axis_named("distill").decide(original.statistics, {"width": 0.5})


@pytest.mark.parametrize("case", ["gpt2", "modernbert"])
def test_matrices_that_are_taken_apart_have_memory_of_their_own_in_the_order_of_their_rows(case: str) -> None:
    theirs = bare(case)
    ours = copy.deepcopy(theirs)
    take_apart(ours)
    whole = [module for module in theirs.modules() if isinstance(module, nn.Linear | Conv1D)]
    parts = [module for module in ours.modules() if isinstance(module, nn.Linear)]
    assert len(parts) > len(whole)
    for part in parts:
        for tensor in (part.weight, part.bias):
            if tensor is not None:
                assert tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
    assert sum(part.weight.numel() for part in parts) == sum(module.weight.numel() for module in whole)


def bare(case: str, **changes: Any) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    spec = CASES[case]
    return AutoModel.from_config(AutoConfig.for_model(spec.model_type, **{**spec.config, **changes}))


def test_matrices_of_no_known_role_leave_a_model_whole() -> None:
    assert anatomy_of(bare("deberta-v2")).shape.prunable_hidden
    with pytest.raises(Infeasible, match=r"deberta-v2 model hold matrices of no known role \(.*pos_key_proj.*cannot"):
        anatomy_of(bare("deberta-v2", share_att_key=False))


def test_a_convolution_over_the_hidden_size_leaves_no_width_knob() -> None:
    shape = anatomy_of(bare("deberta-v2", conv_kernel_size=3)).shape
    assert shape.prunable_heads and not shape.prunable_hidden


class Unknown(TaskModel):
    """A model of a family that no row describes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Embedding(8, 3)
        self.body.config = SimpleNamespace(model_type="perceiver")  # type: ignore[assignment]

    @property
    def backbone(self) -> nn.Module:
        return self.body

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        hidden: Tensor = self.body(input_ids)
        return hidden.mean(1)


def test_an_unknown_family_is_infeasible_and_the_known_ones_are_listed() -> None:
    with pytest.raises(Infeasible, match="'perceiver'") as caught:
        collect(Unknown(), [], class_loss, class_divergence)
    assert all(name in str(caught.value) for name in known_model_types())


# --- from a transformers folder -----------------------------------------------------------------------------


def saved(case: str, head: str, folder: Path) -> Subject:
    """What a user has: a folder written by transformers, of the bare model or of its classifier."""
    original = subject(case, head)
    inner = original.model.model if head == "native" else original.model.backbone
    # Transformers has some matrices as one that are several here, and some transposed.
    theirs = type(inner)(inner.config)
    weights, expected = inner.state_dict(), theirs.state_dict()
    for name, like in expected.items():
        stem, _, kind = name.rpartition(".")
        parts = [w for n, w in weights.items() if n == name or (n.startswith(f"{stem}.") and n.endswith(f".{kind}"))]
        if not parts:
            continue  # the pooler of a bare model, which is not used
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        transposed = isinstance(theirs.get_submodule(stem), Conv1D) and whole.ndim > 1
        expected[name] = whole.T if transposed else whole
        assert expected[name].shape == like.shape
    theirs.load_state_dict(expected)
    theirs.save_pretrained(folder)
    return Subject(
        original.model, original.base, original.statistics, original.batch, _logits(theirs.eval(), head, original)
    )


@torch.no_grad()
def _logits(theirs: nn.Module, head: str, original: Subject) -> Tensor:
    """As transformers has them; of a bare model behind the head of `original`."""
    if head == "native":
        return theirs(**original.batch).logits  # type: ignore[no-any-return]
    pooled = MeanPooled(theirs, original.statistics.shape.hidden, len(LABELS))
    pooled.classifier = original.model.classifier
    return logits(pooled.eval(), original.batch)


@pytest.mark.parametrize("case", CASES)
def test_a_classifier_folder_keeps_its_own_head(case: str, tmp_path: Path) -> None:
    original = saved(case, "native", tmp_path)
    model, base = load_base(tmp_path, "tiny", "main", "auto", LABELS, frame={})
    assert (base.head, base.output_names, base.inputs) == ("native", LABELS, ("input_ids", "attention_mask"))
    torch.testing.assert_close(logits(model.eval(), original.batch), original.logits, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_bare_folder_gets_a_mean_pooled_head(case: str, tmp_path: Path) -> None:
    original = saved(case, "mean", tmp_path)
    model, base = load_base(tmp_path, "tiny", "main", "auto", LABELS, frame={})
    assert base.head == "mean" and not has_own_head(original.model.backbone.config)
    model.classifier.load_state_dict(original.model.classifier.state_dict())
    torch.testing.assert_close(logits(model.eval(), original.batch), original.logits, atol=1e-6, rtol=1e-6)
    write_folder(tmp_path / "stored", model, base, {})
    assert torch.equal(logits(build.load_model(tmp_path / "stored"), original.batch), logits(model, original.batch))


PAIRED = {"types": [[0], [0], [1]], "text_types": [0, 1]}


@pytest.mark.parametrize(
    ("case", "frame", "expected"),
    [
        ("bert", PAIRED, True),
        ("bert", {"types": [[0], [0]], "text_types": [0]}, False),  # what the model takes where it is given none
        ("bert", {"types": [], "text_types": []}, False),  # the tokenizer gives none
        ("electra", PAIRED, True),
        ("roberta", PAIRED, False),  # its table of types has one row
        ("distilbert", PAIRED, False),  # it takes none
        ("llama", PAIRED, False),
    ],
)
def test_token_types_are_given_where_the_tokenizer_and_the_model_both_know_them(
    tmp_path: Path, case: str, frame: dict[str, Any], expected: bool
) -> None:
    saved(case, "mean", tmp_path / case)
    _, base = load_base(tmp_path / case, case, "main", "auto", LABELS, frame)
    assert ("token_type_ids" in base.inputs) is expected


def test_the_mean_is_over_real_tokens() -> None:
    original = subject("bert", "mean")
    hidden = original.model.backbone(**original.batch).last_hidden_state
    keep = original.batch["attention_mask"].bool()
    pooled = torch.stack([h[k].mean(0) for h, k in zip(hidden, keep, strict=True)])
    torch.testing.assert_close(original.model.classifier(pooled), original.logits, atol=1e-5, rtol=1e-5)
