"""Students cut from the teacher: which blocks and coordinates stay, and that a free cut changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from models import HIDDEN, batch_of, built, logits, subject, tiny
from torch import nn

from spaces import build, registry, slicing
from spaces.anatomy import anatomy_of
from spaces.base import TaskModel
from spaces.errors import Infeasible
from spaces.recipe import Step
from spaces.statistics import Statistics


@pytest.mark.parametrize("count", [1, 2])
def test_the_most_important_blocks_stay_in_order(count: int) -> None:
    original = subject("bert")
    scores = torch.stack(original.statistics.stacked("importance")).tolist()
    plan = registry.axis_named("distill").decide(original.statistics, {"layers": count})
    assert plan["blocks"] == sorted(sorted(range(3), key=lambda i: -scores[i])[:count])


@pytest.mark.parametrize("case", ["bert", "distilbert", "mpnet", "mistral", "gpt2", "modernbert", "deberta-v2"])
def test_a_shallow_student_is_the_teacher_with_blocks_deleted(case: str) -> None:
    original = subject(case, "native")
    model, plans = built(original, Step("distill", {"layers": 2}))
    blocks = plans["distill"]["blocks"]
    (gone,) = set(range(3)) - set(blocks)
    block = anatomy_of(original.model.backbone).blocks[gone]

    def skip(_: nn.Module, args: tuple[torch.Tensor, ...], output: object) -> object:
        return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]

    handle = block.register_forward_hook(skip)
    try:
        expected = logits(original.model, original.batch)
    finally:
        handle.remove()
    torch.testing.assert_close(logits(model, original.batch), expected, atol=1e-5, rtol=1e-5)


def test_the_coordinates_with_the_most_energy_stay() -> None:
    original = subject("bert")
    coordinates = slicing.decode_ranges(
        registry.axis_named("distill").decide(original.statistics, {"width": 0.5})["hidden"]
    )
    energy = original.statistics.tensors["hidden.energy"]
    removed = sorted(set(range(HIDDEN)) - set(coordinates))
    assert len(coordinates) == HIDDEN // 2 and energy[coordinates].min() >= energy[removed].max()


def halved(model: TaskModel) -> None:
    """Make the second half of the residual stream a copy of the first that nobody reads.

    Copies leave the statistics of the norms as they are, so a cut of them is free.
    """
    anatomy, half = anatomy_of(model.backbone), HIDDEN // 2
    family = anatomy.family
    last, second = slice(0, half), slice(half, HIDDEN)
    writers: list[nn.Module] = [model.backbone.get_submodule(path) for path in anatomy.outer_norms]
    readers: list[nn.Module] = [model.get_submodule(path) for path in model.hidden_readers()]
    tables = [model.backbone.get_submodule(path) for path in anatomy.embeddings]
    writers += [model.get_submodule(path) for path in model.hidden_norms()]
    writers += [model.get_submodule(path) for path in model.hidden_readers() if path.endswith("dense")]
    for index, block in enumerate(anatomy.blocks):
        writers += [block.get_submodule(path) for path in (*anatomy.norms(index), family.output, family.down)]
        readers += [block.get_submodule(path) for path in (family.query, family.key, family.value, *family.up)]
    if family.pooler and getattr(model.backbone, "pooler", None) is not None:
        readers.append(model.backbone.get_submodule(family.pooler))
    for path in ("model.classifier.out_proj", "model.classifier"):  # behind a square matrix of the head
        module = dict(model.named_modules()).get(path)
        if isinstance(module, nn.Linear):
            readers.append(module)
    with torch.no_grad():
        for table in tables:
            table.weight[:, second] = table.weight[:, last]
        for writer in writers:
            writer.weight[second] = writer.weight[last]
            if getattr(writer, "bias", None) is not None:
                writer.bias[second] = writer.bias[last]
        for reader in readers:
            reader.weight[:, second] = 0


@pytest.mark.parametrize("head", ["mean", "native"])
@pytest.mark.parametrize(
    "case", ["bert", "roberta", "electra", "distilbert", "mpnet", "llama", "gpt2", "modernbert", "deberta-v2"]
)
def test_cutting_coordinates_that_nobody_reads_changes_nothing(case: str, head: str) -> None:
    model, base = tiny(case, head)
    halved(model)
    batch = batch_of(base)
    plan = {"blocks": [0, 1, 2], "hidden": slicing.encode_ranges(range(HIDDEN // 2))}
    statistics = subject(case, head).statistics
    narrow = build.build(model, {"distill": plan}, statistics).eval()
    torch.testing.assert_close(logits(narrow, batch), logits(model, batch), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", ["bert", "distilbert", "modernbert", "deberta-v2", "gpt2", "llama"])
def test_a_head_of_spans_is_narrowed_with_its_model(case: str) -> None:
    model, base = tiny(case, "span")
    halved(model)
    batch = batch_of(base)
    plan = {"blocks": [0, 1, 2], "hidden": slicing.encode_ranges(range(HIDDEN // 2))}
    narrow = build.build(model, {"distill": plan}, subject(case, "mean").statistics).eval()
    output, expected = logits(narrow, batch), logits(model, batch)
    assert output.shape == (*batch["input_ids"].shape, 2)
    keep = batch["attention_mask"].bool()
    torch.testing.assert_close(output[keep], expected[keep], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("hidden", [48, 80, 100, 312])
def test_a_hidden_size_of_any_number_is_whole_when_the_width_is_off(hidden: int) -> None:
    statistics = subject("bert").statistics
    other = Statistics(
        replace(statistics.shape, hidden=hidden), {**statistics.tensors, "hidden.energy": torch.rand(hidden)}
    )
    assert "hidden" not in registry.axis_named("distill").decide(other, {"width": 1.0})


@pytest.mark.parametrize("width", [0.0, -0.5, 1.25])
def test_a_width_out_of_range_is_infeasible(width: float) -> None:
    with pytest.raises(Infeasible, match=r"distill\.width"):
        registry.axis_named("distill").decide(subject("bert").statistics, {"width": width})
